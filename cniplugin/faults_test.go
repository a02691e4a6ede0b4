package cniplugin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/internal/flock"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/testnet"
)

// disk is a file system of its own for a node's state, which is made anew with other options by what is returned.
func (n *node) disk(t *testing.T, options string) (remount func(flags uintptr, options string)) {
	t.Helper()
	dir := t.TempDir()
	n.dir = dir
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return func(flags uintptr, options string) {
		t.Helper()
		require.NoError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|flags, options))
	}
}

// ranged is a configuration that needs no subnet file.
func (n *node) ranged(changes map[string]any) map[string]any {
	c := n.conf(changes)
	c["ipam"] = map[string]any{"subnet": "10.244.1.0/24"}
	return c
}

// requireNothing requires that nothing is left of any pod.
func (n *node) requireNothing(t *testing.T) {
	t.Helper()
	for _, name := range n.linkNames(t) {
		require.False(t, strings.HasPrefix(name, "veth"), name)
	}
	for _, kind := range []string{"attachments", "hostports"} {
		left, err := filepath.Glob(filepath.Join(n.dir, kind, "*"))
		require.NoError(t, err)
		drafts, err := filepath.Glob(filepath.Join(n.dir, kind, ".*"))
		require.NoError(t, err)
		require.Empty(t, append(left, drafts...))
	}
	if _, err := os.Stat(filepath.Join(n.dir, "ipam", "pods")); errors.Is(err, fs.ErrNotExist) {
		return
	}
	pool, err := ipam.Open(ipam.Config{Path: filepath.Join(n.dir, "ipam", "pods"), BootID: n.boot})
	require.NoError(t, err)
	defer pool.Close()
	all, err := pool.All(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
}

// TestReadOnlyState: nothing of a pod that was never there is on a file system that is read-only, and one that is there has not changed.
func TestReadOnlyState(t *testing.T) {
	n := &node{ns: testnet.NewNode(t, "node")}
	remount := n.disk(t, "size=1m")
	pod, conf := testnet.NewNode(t, "pod"), n.ranged(withPort(8080))

	remount(unix.MS_RDONLY, "")
	for _, command := range []string{"DEL", "GC"} {
		r := n.call(t, "podweft-cni", command, conf, about(pod)...)
		assert.Zero(t, r.code, r)
	}
	r := n.call(t, "podweft-cni", "ADD", conf, about(pod)...)
	assert.Equal(t, cniplugin.CodeIO, r.Code, r)
	assert.Contains(t, r.Msg, n.dir+"/ipam: read-only file system: mount it read-write")

	remount(0, "")
	conf["prevResult"] = result(n.add(t, pod, conf))
	remount(unix.MS_RDONLY, "")
	for _, command := range []string{"CHECK", "DEL"} {
		r = n.call(t, "podweft-cni", command, conf, about(pod)...)
		assert.Equal(t, cniplugin.CodeIO, r.Code, r)
		assert.Contains(t, r.Msg, "read-only file system: mount it read-write")
	}
	remount(0, "")
	r = n.call(t, "podweft-cni", "DEL", conf, about(pod)...)
	assert.Zero(t, r.code, r)
	n.requireNothing(t)
}

// TestFullState: an ADD fails at every file that it makes and cannot, one after the other, and leaves nothing; a DEL makes none.
func TestFullState(t *testing.T) {
	n := &node{ns: testnet.NewNode(t, "node")}
	pod := testnet.NewNode(t, "pod")
	failed := 0
	for inodes := 1; ; inodes++ {
		remount := n.disk(t, fmt.Sprintf("size=1m,nr_inodes=%d", inodes))
		conf := n.ranged(withPort(8080))
		r := n.call(t, "podweft-cni", "DEL", conf, about(pod)...)
		require.Zero(t, r.code, "%d inodes: %s", inodes, r)
		r = n.call(t, "podweft-cni", "ADD", conf, about(pod)...)
		if r.code == 0 {
			r = n.call(t, "podweft-cni", "DEL", conf, about(pod)...)
			require.Zero(t, r.code, r)
			break
		}
		failed++
		require.Equal(t, cniplugin.CodeIO, r.Code, "%d inodes: %s", inodes, r)
		require.Contains(t, r.Msg, "make room there, inodes too (df, df -i)")
		n.requireNothing(t)
		remount(0, "nr_inodes=100")
		n.add(t, pod, conf)
		r = n.call(t, "podweft-cni", "DEL", conf, about(pod)...)
		require.Zero(t, r.code, r)
	}
	assert.Greater(t, failed, 4)
}

// TestStatusOfFullState: no pod can be attached whose record has no room, though there are addresses.
func TestStatusOfFullState(t *testing.T) {
	n := &node{ns: testnet.NewNode(t, "node")}
	n.disk(t, "size=256k")
	pod, conf := testnet.NewNode(t, "pod"), n.ranged(nil)
	n.add(t, pod, conf)
	filler, err := os.Create(filepath.Join(n.dir, "filler"))
	require.NoError(t, err)
	_, err = filler.Write(make([]byte, 1<<20))
	require.ErrorIs(t, err, unix.ENOSPC)
	require.NoError(t, filler.Close())
	r := n.call(t, "podweft-cni", "STATUS", conf)
	assert.Equal(t, cniplugin.CodeNotReady, r.Code, r)
	assert.Contains(t, r.Msg, "no space left on device: make room there, inodes too (df, df -i)")
	r = n.call(t, "podweft-cni", "DEL", conf, about(pod)...)
	require.Zero(t, r.code, r)
	n.requireNothing(t)
	require.NoError(t, os.Remove(filler.Name()))
	r = n.call(t, "podweft-cni", "STATUS", conf)
	assert.Zero(t, r.code, r)
	n.requireNothing(t)
}

// TestUnseenIsNotMissing: to a CHECK that may not look, nothing is missing that would have to be made again.
func TestUnseenIsNotMissing(t *testing.T) {
	n := newNode(t)
	pod, conf := testnet.NewNode(t, "pod"), n.conf(nil)
	conf["prevResult"] = result(n.add(t, pod, conf))
	require.NoError(t, os.Rename(n.dir+"/ipam", n.dir+"/there"))
	require.NoError(t, os.WriteFile(n.dir+"/ipam", nil, 0o600))
	r := n.call(t, "podweft-cni", "CHECK", conf, about(pod)...)
	assert.Equal(t, cniplugin.CodeIO, r.Code, r)
	assert.Contains(t, r.Msg, "not a directory: remove what is in the way there")
	require.NoError(t, os.Remove(n.dir+"/ipam"))
	require.NoError(t, os.Rename(n.dir+"/there", n.dir+"/ipam"))
	r = n.call(t, "podweft-cni", "CHECK", conf, about(pod)...)
	assert.Zero(t, r.code, r)
}

// TestLocksThatNobodyGivesBack: a process that was stopped holds a lock. Calls fail in time and say who is in the way, and what an ADD has
// done by then is undone.
func TestLocksThatNobodyGivesBack(t *testing.T) {
	for _, lock := range []string{"ipam/pods", "ipam.lock", "masquerade.lock"} {
		t.Run(lock, func(t *testing.T) {
			n := newNode(t)
			n.lockWait = 100 * time.Millisecond
			pod := testnet.NewNode(t, "pod")
			conf := n.conf(map[string]any{"ipMasq": true})
			path := filepath.Join(n.dir, lock)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			require.NoError(t, err)
			defer f.Close()
			require.NoError(t, flock.Lock(t.Context(), f))

			r := n.call(t, "podweft-cni", "ADD", conf, about(pod)...)
			assert.Equal(t, cniplugin.CodeTryAgain, r.Code, r)
			assert.Contains(t, r.Msg, "lock "+path+": another process holds the lock: find it with fuser or lslocks, and let it go on or end it")
			for command, code := range map[string]uint{
				"STATUS": cniplugin.CodeNotReady, "GC": cniplugin.CodeTryAgain, "DEL": cniplugin.CodeTryAgain,
			} {
				r = n.call(t, "podweft-cni", command, conf, about(pod)...)
				if lock == "ipam/pods" {
					assert.Equal(t, code, r.Code, "%s: %s", command, r)
				} else {
					assert.Zero(t, r.code, "%s: %s", command, r)
				}
			}
			require.NoError(t, f.Close())
			n.requireNothing(t)
			n.add(t, pod, conf)
		})
	}
}

// TestNobodyHearsTheResult: what an ADD has made is undone when its answer cannot be written.
func TestNobodyHearsTheResult(t *testing.T) {
	n := newNode(t)
	pod := testnet.NewNode(t, "pod")
	for _, kind := range []string{"podweft-cni", "flannel"} {
		conf := n.conf(withPort(8080))
		stdin, err := json.Marshal(conf)
		require.NoError(t, err)
		code := cniplugin.Run(t.Context(), cniplugin.Config{NetNS: n.ns.NetNS()}, cniplugin.Call{
			Type: kind, Environ: append(about(pod), "CNI_COMMAND=ADD"), Stdin: bytes.NewReader(stdin), Stdout: brokenPipe{},
		})
		assert.Equal(t, 1, code, kind)
		n.requireNothing(t)
		r := n.call(t, kind, "ADD", conf, about(pod)...)
		require.Zero(t, r.code, r)
		r = n.call(t, kind, "DEL", conf, about(pod)...)
		require.Zero(t, r.code, r)
	}

	conf := n.conf(withPort(8080)) // the program: package os ends who writes to a pipe that nobody reads
	stdin, err := json.Marshal(conf)
	require.NoError(t, err)
	cmd := n.ns.Command(t.Context(), filepath.Join(plugins(t), "podweft-cni"))
	cmd.Env = append(about(pod), "CNI_COMMAND=ADD")
	cmd.Stdin = bytes.NewReader(stdin)
	unread, stdout, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, unread.Close())
	cmd.Stdout = stdout
	require.Error(t, cmd.Run())
	require.NoError(t, stdout.Close())
	assert.Equal(t, 1, cmd.ProcessState.ExitCode(), cmd.ProcessState)
	n.requireNothing(t)
}

// brokenPipe is a standard output that nobody reads.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, unix.EPIPE }

// TestStandardInputWithoutEnd: a configuration has some length, and comes in some time.
func TestStandardInputWithoutEnd(t *testing.T) {
	for name, test := range map[string]struct {
		stdin io.Reader
		code  uint
		want  string
	}{
		"too long": {endless{}, cniplugin.CodeDecode, "the configuration is longer than 16777216 bytes: give a network's"},
		"too slow": {late{}, cniplugin.CodeIO, "standard input does not end: whoever calls a plugin closes it behind the configuration"},
	} {
		for _, command := range []string{"ADD", "GC", "VERSION"} {
			var out bytes.Buffer
			var r reply
			r.code = cniplugin.Run(t.Context(), cniplugin.Config{}, cniplugin.Call{
				Environ: []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=a", "CNI_IFNAME=eth0", "CNI_NETNS=/nowhere"},
				Stdin:   test.stdin, Stdout: &out,
			})
			require.NoError(t, json.Unmarshal(out.Bytes(), &r), out.String())
			assert.Equal(t, 1, r.code, name)
			assert.Equal(t, test.code, r.Code, name)
			assert.Equal(t, test.want, r.Msg, name)
		}
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return copy(b, bytes.Repeat([]byte{' '}, len(b))), nil }

type late struct{}

func (late) Read([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

// TestStrangerAtTheAgentsSocket: what answers there and is no agent of ours is named, and so is what an ADD could not undo because of it.
func TestStrangerAtTheAgentsSocket(t *testing.T) {
	n := newNode(t)
	pod := testnet.NewNode(t, "pod")
	l, err := net.Listen("unix", n.dir+"/agent.sock")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4<<10))
			_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n"))
			conn.Close()
		}
	}()
	defer func() {
		l.Close()
		<-done
	}()
	remedy := "the node's agent and this plugin do not understand each other: install one version of both, and remove " + n.dir +
		"/agent.sock if it is no agent's"
	r := n.call(t, "podweft-cni", "ADD", n.conf(nil), about(pod)...)
	assert.Equal(t, cniplugin.CodeOther, r.Code, r)
	assert.Equal(t, remedy, r.Msg)
	assert.Contains(t, r.Details, "; not all could be undone, so DEL it: "+remedy)
	n.requireNothing(t)
	claimed := n.conf(map[string]any{"ipam": map[string]any{"type": "podweft-agent"}})
	for command, code := range map[string]uint{"ADD": cniplugin.CodeOther, "DEL": cniplugin.CodeOther, "STATUS": cniplugin.CodeNotReady} {
		r = n.call(t, "podweft-cni", command, claimed, about(pod)...)
		assert.Equal(t, code, r.Code, r)
		assert.Equal(t, remedy, r.Msg)
	}
}

// TestDraftsGo: what a plugin has left that was killed while it wrote a record goes with the next GC, or the next agent.
func TestDraftsGo(t *testing.T) {
	n := newNode(t)
	for name, sweep := range map[string]func(){
		"GC": func() {
			r := n.call(t, "podweft-cni", "GC", n.conf(nil))
			require.Zero(t, r.code, r)
		},
		"agent": func() { n.agent(t)() },
	} {
		for _, kind := range []string{"attachments", "hostports"} {
			draft := filepath.Join(n.dir, kind, ".new123")
			require.NoError(t, os.MkdirAll(filepath.Dir(draft), 0o700))
			require.NoError(t, os.WriteFile(draft, nil, 0o600))
			require.NoError(t, os.Chtimes(draft, time.Time{}, time.Now().Add(-time.Hour)))
		}
		sweep()
		for _, kind := range []string{"attachments", "hostports"} {
			assert.NoFileExists(t, filepath.Join(n.dir, kind, ".new123"), name)
		}
	}
}

// TestClockSetBack: a host port stays the pod's that had it first, whatever the wall clock says of who that was.
func TestClockSetBack(t *testing.T) {
	n := newNode(t)
	first, second := testnet.NewNode(t, "first"), testnet.NewNode(t, "second")
	n.add(t, first, n.conf(withPort(8080)))
	path := filepath.Join(n.dir, "hostports", "pods:first:eth0")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var rec map[string]any
	require.NoError(t, json.Unmarshal(raw, &rec))
	rec["since"] = time.Now().Add(time.Hour)
	raw, err = json.Marshal(rec)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, raw, 0o600))

	// The second pod's plugin has recorded what it is about to be refused.
	records, err := local.Open(filepath.Join(n.dir, "hostports"), n.boot)
	require.NoError(t, err)
	require.NoError(t, records.Put(local.Record{
		Network: "pods", Container: second.Name, Interface: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.1.3/24")},
		HostPorts: []local.HostPort{{Protocol: "tcp", Host: 8080, Pod: 80}, {Protocol: "tcp", Host: 9090, Pod: 80}},
	}))
	n.agent(t)
	ports, err := nat.NewPorts(nat.Config{Owner: "pods", NetNS: n.ns.NetNS()})
	require.NoError(t, err)
	defer ports.Close()
	open := func(port uint16, pod string) func() bool {
		return func() bool {
			lacking, err := ports.Missing(t.Context(), []nat.HostPort{{Protocol: nat.TCP, Port: port, Pod: netip.MustParseAddrPort(pod)}})
			return assert.NoError(t, err) && len(lacking) == 0
		}
	}
	require.Eventually(t, open(9090, "10.244.1.3:80"), 10*time.Second, 10*time.Millisecond, "the agent has not come to it")
	assert.True(t, open(8080, "10.244.1.2:80")())
}

// TestUnreadRecords: what cannot be read of a pod is neither forgotten with its record nor closed while the pod lives.
func TestUnreadRecords(t *testing.T) {
	n := newNode(t)
	pod, other := testnet.NewNode(t, "pod"), testnet.NewNode(t, "other")
	conf := n.conf(withPort(8080))
	conf["prevResult"] = result(n.add(t, pod, conf))
	for _, kind := range []string{"hostports", "attachments"} {
		path := filepath.Join(n.dir, kind, "pods:pod:eth0")
		require.NoError(t, os.Rename(path, n.dir+"/there"))
		require.NoError(t, os.Symlink("/proc/self/mem", path)) // EIO: nothing is mapped at zero
		for _, command := range []string{"DEL", "CHECK", "GC"} {
			r := n.call(t, "podweft-cni", command, conf, about(pod)...)
			assert.Equal(t, cniplugin.CodeIO, r.Code, "%s without %s: %s", command, kind, r)
		}
		if kind == "attachments" {
			r := n.call(t, "podweft-cni", "ADD", conf, about(pod)...)
			assert.Equal(t, cniplugin.CodeIO, r.Code, r)
		}
		require.NoError(t, os.Rename(n.dir+"/there", path))
		r := n.call(t, "podweft-cni", "DEL", conf, about(pod)...)
		require.Zero(t, r.code, r)
		assert.Zero(t, n.hostPorts(t))
		n.requireNothing(t)
		conf["prevResult"] = result(n.add(t, pod, n.conf(withPort(8080))))
	}

	n.agent(t)
	path := filepath.Join(n.dir, "hostports", "pods:pod:eth0")
	require.NoError(t, os.Rename(path, n.dir+"/there"))
	require.NoError(t, os.Symlink("/proc/self/mem", path))
	r := n.call(t, "podweft-cni", "ADD", n.conf(withPort(9090)), about(other)...)
	require.Zero(t, r.code, r)
	time.Sleep(300 * time.Millisecond) // for the agent to look at what has changed
	assert.Equal(t, 2, n.hostPorts(t))
	require.NoError(t, os.Rename(n.dir+"/there", path))
	for _, p := range []*testnet.Node{pod, other} {
		r := n.call(t, "podweft-cni", "DEL", conf, about(p)...)
		require.Zero(t, r.code, r)
	}
	assert.Zero(t, n.hostPorts(t))
}
