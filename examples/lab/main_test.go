package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft/testnet"
)

// The tests run the lab as users do, as a program: this test binary becomes what the variable says.
const (
	roleVar  = "PODWEFT_LAB_TEST"
	lab      = "lab"
	saboteur = "saboteur" // deletes the VXLAN devices of the node it runs in; not everybody has `ip`
)

// exitRefused is the program's status where the machine forbids namespaces.
const exitRefused = 77

func TestMain(m *testing.M) {
	role := os.Getenv(roleVar)
	if role == "" {
		os.Exit(m.Run())
	}
	var refused *testnet.RefusedError
	if err := testnet.Enter(); errors.As(err, &refused) {
		fmt.Fprintln(os.Stderr, refused)
		os.Exit(exitRefused)
	}
	if role == lab {
		main()
	}
	if err := sabotage(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func sabotage() error {
	links, err := netlink.LinkList()
	deleted := 0
	for _, l := range links {
		if l.Type() == "vxlan" {
			err = errors.Join(err, netlink.LinkDel(l))
			deleted++
		}
	}
	if deleted == 0 {
		return errors.Join(err, errors.New("no VXLAN device to delete"))
	}
	return err
}

// program is a lab that a test runs.
type program struct {
	cmd            *exec.Cmd
	tmp            string // its TMPDIR, and nobody else's
	stdout, stderr bytes.Buffer
}

func newProgram(t *testing.T, args ...string) *program {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	tmp, err := os.MkdirTemp("", "lab-") // shorter than t.TempDir: the lab puts a socket there
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(tmp) })
	p := &program{cmd: exec.CommandContext(t.Context(), self, args...), tmp: tmp}
	p.cmd.Env = append(os.Environ(), roleVar+"="+lab, "TMPDIR="+tmp, "SHELL=/bin/sh")
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	return p
}

// run returns the exit status, and skips the test where namespaces are refused.
func (p *program) run(t *testing.T) int {
	t.Helper()
	require.NoError(t, p.cmd.Start())
	return p.wait(t)
}

func (p *program) wait(t *testing.T) int {
	t.Helper()
	var ended *exec.ExitError
	if err := p.cmd.Wait(); err != nil {
		require.ErrorAs(t, err, &ended)
	}
	status := p.cmd.ProcessState.ExitCode()
	if status == exitRefused && os.Getenv("PODWEFT_REQUIRE_KERNEL") != "1" {
		t.Skip(p.stderr.String())
	}
	return status
}

// hostState is what a lab must not change.
func hostState(t *testing.T) string {
	t.Helper()
	links, err := net.Interfaces()
	require.NoError(t, err)
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	return fmt.Sprintf("%v\n%s", links, mounts)
}

// nothingLeft fails the test if a file or a process of the lab is still there.
func (p *program) nothingLeft(t *testing.T) {
	t.Helper()
	files, err := os.ReadDir(p.tmp)
	require.NoError(t, err)
	assert.Empty(t, files, "left in TMPDIR")
	assert.Eventually(t, func() bool { return len(p.processes()) == 0 }, patience, 10*time.Millisecond, "processes left: %v", p.processes())
}

// processes are those that have the lab's TMPDIR in their environment.
func (p *program) processes() (pids []string) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		env, err := os.ReadFile(dir + "/environ")
		if err == nil && bytes.Contains(env, []byte("TMPDIR="+p.tmp+"\x00")) {
			pids = append(pids, filepath.Base(dir))
		}
	}
	return pids
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net-conf.json")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

const tutorial = `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`

func TestTour(t *testing.T) {
	tests := []struct {
		name    string
		args    []string
		want    []string
		without []string
	}{
		{
			name: "as it comes",
			want: []string{
				"3 nodes, 2 pods on each, backend vxlan", "+ link flannel.1 type vxlan", "+ link flannel-v6.1 type vxlan",
				"the kernel agrees", "put it back", "pod3b", "✓ 72 of 72 pings answered", " dst 192.0.2.3 self permanent",
				"192.0.2.1 > 192.0.2.3:8472, VNI 1", "leaves nothing behind",
			},
			without: []string{"\x1b", "✗ nothing", "✗ 7"},
		},
		{
			name:    "host-gw",
			args:    []string{"--backend", "host-gw"},
			want:    []string{"via 192.0.2.3 dev eth0", "no tunnel", "✓ 72 of 72 pings answered"},
			without: []string{"flannel"},
		},
		{
			name: "udp",
			args: []string{"--backend", "udp"},
			want: []string{
				"+ link flannel0 type tun", "+ peer [10.244.", "put it back", "✓ 72 of 72 pings answered", " at 192.0.2.3:8285",
				"192.0.2.1 > 192.0.2.3:8285", "in user space",
			},
			without: []string{"✗ nothing", "✗ 7"},
		},
		{
			name:    "the tutorials' net-conf.json",
			args:    []string{"--net-conf", writeFile(t, tutorial)},
			want:    []string{"✓ 36 of 36 pings answered", "flannel.1"},
			without: []string{"fd00", "flannel-v6.1"},
		},
		{
			name: "IPv6 alone",
			args: []string{"--net-conf", writeFile(t,
				`{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "vxlan"}}`)},
			want:    []string{"✓ 36 of 36 pings answered", "[2001:db8::3]:8472"},
			without: []string{"10.244"},
		},
		{
			name: "one node, one pod",
			args: []string{"--nodes", "1", "--pods", "1"},
			want: []string{"✓ 2 of 2 pings answered"},
		},
		{
			name: "two pods on one bridge",
			args: []string{"--nodes", "1", "--pods", "2"},
			want: []string{"✓ 8 of 8 pings answered", "no gateway is needed"},
		},
		{
			name: "two tenants with the same addresses",
			args: []string{"--tenants", "2"},
			want: []string{
				"2 tenants: the same addresses", "red     101  101    red1a   node1  10.100.1.2, fd00:100:0:1::2",
				"blue    102  102    blue1a  node1  10.100.1.2, fd00:100:0:1::2",
				"✓ red: 60 of 60 pings answered", "✓ blue: 60 of 60 pings answered", "✓ 72 of 72 pings answered",
			},
			without: []string{"✗ red", "✗ blue"},
		},
		{
			name: "tenants beside host-gw, over IPv6 alone",
			args: []string{"--tenants", "4", "--nodes", "2", "--pods", "1", "--backend", "host-gw", "--net-conf", writeFile(t,
				`{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/48"}`)},
			want:    []string{"✓ red: 2 of 2", "✓ blue: 2 of 2", "✓ green: 2 of 2", "✓ gold: 2 of 2"},
			without: []string{"10.100"},
		},
		{
			name: "a sample",
			args: []string{"--sample", "6"},
			want: []string{"Of the 30 pairs of pods 6 are pinged", "✓ 24 of 24 pings answered"},
		},
	}
	before := hostState(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err == nil {
				f.Close()
			} else if tt.name == "udp" && os.Getenv("PODWEFT_REQUIRE_KERNEL") != "1" {
				t.Skip(err)
			}
			p := newProgram(t, tt.args...)
			require.Equal(t, exitGood, p.run(t), "%s%s", &p.stdout, &p.stderr)
			for _, want := range tt.want {
				assert.Contains(t, p.stdout.String(), want)
			}
			for _, bad := range tt.without {
				assert.NotContains(t, p.stdout.String(), bad)
			}
			assert.Empty(t, p.stderr.String())
			p.nothingLeft(t)
		})
	}
	assert.Equal(t, before, hostState(t), "the host is unchanged")
}

// Both have more neighbours than one kernel finds by itself. The bar is 60 s on an idle machine with two cores.
func TestMany(t *testing.T) {
	tests := []struct {
		name        string
		nodes, pods string
	}{
		{"nodes", "30", "3"},
		{"pods", "3", "30"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newProgram(t, "--nodes", tt.nodes, "--pods", tt.pods)
			began := time.Now()
			require.Equal(t, exitGood, p.run(t), "%s", &p.stderr)
			assert.Less(t, time.Since(began), time.Minute)
			assert.Contains(t, p.stdout.String(), "✓ 16200 of 16200 pings answered")
			t.Log(time.Since(began))
		})
	}
}

func TestWhatCannotBeBuilt(t *testing.T) {
	tests := []struct {
		name string
		conf string
		args []string
		want string
	}{
		{"more nodes than subnets", `{"Network": "10.9.0.0/22"}`, []string{"--nodes", "5"}, "no free subnet"},
		{"more pods than addresses", `{"Network": "10.9.0.0/16", "SubnetLen": 29}`, []string{"--pods", "6"}, "no free address: all 5 are taken"},
		{"a VNI that is none", `{"Network": "10.9.0.0/16", "Backend": {"Type": "vxlan", "VNI": 16777216}}`, nil, "Backend.VNI: 16777216 is not a VNI"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newProgram(t, append(tt.args, "--json", "--net-conf", writeFile(t, tt.conf))...)
			assert.Equal(t, exitFailed, p.run(t))
			assert.Empty(t, p.stdout.String(), "no document that looks like one")
			assert.Contains(t, p.stderr.String(), tt.want)
			assert.Equal(t, 1, strings.Count(p.stderr.String(), "\n"), "said once: %s", &p.stderr)
			p.nothingLeft(t)
		})
	}
}

func TestBadCommandLines(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"unknown flag", []string{"--node", "3"}, "flag provided but not defined: -node"},
		{"no number", []string{"--nodes", "three"}, `invalid value "three"`},
		{"no node", []string{"--nodes", "0"}, "--nodes: 0 is out of range: use 1 to 200"},
		{"too many pods", []string{"--pods", "201"}, "--pods: 201 is out of range: use 1 to 200"},
		{"too many tenants", []string{"--tenants", "5"}, "--tenants: 5 is out of range: use 0 to 4"},
		{"tenants alone", []string{"--tenants", "2", "--nodes", "1"}, "--tenants: on a single node have nothing to share: use --nodes 2 or more"},
		{"negative sample", []string{"--sample", "-1"}, "--sample: -1 is out of range"},
		{"two outputs", []string{"--json", "--keep"}, "--keep: and --json do not go together"},
		{"backend", []string{"--backend", "ipip"}, "--backend: ipip is not a backend of the lab: use vxlan, host-gw or udp"},
		{"backend in the file", []string{"--net-conf", writeFile(t, `{"Network": "10.9.0.0/16", "Backend": {"Type": "wireguard"}}`)}, "Backend.Type: wireguard is not a backend of the lab"},
		{"network in the file", []string{"--net-conf", writeFile(t, `{"Network": "10.9.0.0"}`)}, `Network: "10.9.0.0" is not a CIDR`},
		{"no file", []string{"--net-conf", "/nowhere"}, "--net-conf: open /nowhere: no such file or directory"},
		{"unknown command", []string{"exit"}, `there is no command "exit"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newProgram(t, tt.args...)
			assert.Equal(t, exitUsage, p.run(t))
			assert.Empty(t, p.stdout.String())
			assert.Contains(t, p.stderr.String(), tt.want)
			assert.Equal(t, 1, strings.Count(p.stderr.String(), "\n"), "one sentence: %s", &p.stderr)
		})
	}
}

func TestHelp(t *testing.T) {
	p := newProgram(t, "--help")
	assert.Equal(t, exitGood, p.run(t))
	assert.Equal(t, usage, p.stdout.String())
}

func TestCommandsNeedALab(t *testing.T) {
	p := newProgram(t, "trace", "pod1a", "pod2a")
	assert.Equal(t, exitFailed, p.run(t))
	assert.Contains(t, p.stderr.String(), "start one with --keep")
}

// The tests may run as root; most users are not.
func TestOrdinaryUser(t *testing.T) {
	p := newProgram(t, "--tenants", "2")
	p.cmd.Dir = "/"
	if os.Geteuid() == 0 {
		const nobody = 65534
		require.NoError(t, os.Chown(p.tmp, nobody, nobody))
		elsewhere, err := os.MkdirTemp("", "lab-")
		require.NoError(t, err)
		t.Cleanup(func() { os.RemoveAll(elsewhere) })
		require.NoError(t, os.Chmod(elsewhere, 0o755)) // the test binary's own directory is root's alone
		p.cmd.Path = copyFile(t, p.cmd.Path, filepath.Join(elsewhere, "lab"))
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	require.Equal(t, exitGood, p.run(t), "%s%s", &p.stdout, &p.stderr)
	assert.Contains(t, p.stdout.String(), "✓ 72 of 72 pings answered")
	assert.Contains(t, p.stdout.String(), "✓ blue: 60 of 60 pings answered")
	p.nothingLeft(t)
}

func copyFile(t *testing.T, from, to string) string {
	t.Helper()
	in, err := os.Open(from)
	require.NoError(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(out, in)
	require.NoError(t, errors.Join(err, out.Close()))
	return to
}
