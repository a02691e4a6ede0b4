// Package machine is a whole node of a Kubernetes for tests: kubelet, containerd, runc and kube-proxy, in namespaces of its own on a
// machine that has no registry, no systemd and other things to do. It can lose its power.
//
//	m := machine.New(t, machine.Config{Node: fabric.Nodes[1], Cluster: c, Name: "worker-1", ProxyMode: "iptables", Images: images})
//	m.PowerOn()
//
// It needs root, and Debian's containerd, runc, nftables and iptables. Nothing of the real machine changes but control groups (of
// version 1), which know no namespaces and go with the test. It is no sandbox: what runs in its pods can reach the real machine, as root can.
package machine

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/e2e/cluster"
	"github.com/podweft/podweft/testnet"
)

// PodtoolImage is the name that the image of podtool must have: pods have it besides their own.
const PodtoolImage = "registry.test/podtool:1"

// Config says what a machine is.
type Config struct {
	Node      *testnet.Node // its network
	Cluster   *cluster.Cluster
	Name      string   // worker-1 to worker-3, whom the cluster knows
	ProxyMode string   // kube-proxy's: iptables or nftables
	Images    []string // archives of the images that it is to have
	Plugins   string   // a directory of CNI plugins that it comes with; "" is none
	Logs      string   // a directory to keep what its programs have said; "" is none
}

// Machine is a node. It is off at first, and ends with the test.
type Machine struct {
	Place
	t     testing.TB
	cfg   Config
	disk  string
	group string    // its control groups' name
	boss  *exec.Cmd // nil when it is off
}

//go:embed boot
var boot string

// New installs a machine. Where there can be none the test is skipped, or fails if kernel tests are required.
func New(t testing.TB, cfg Config) *Machine {
	t.Helper()
	if err := possible(); err != nil {
		if os.Getenv("PODWEFT_REQUIRE_KERNEL") != "" {
			t.Fatalf("no whole nodes: %v", err)
		}
		t.Skipf("no whole nodes: %v", err)
	}
	group, err := controlGroup(cfg)
	require.NoError(t, err)
	m := &Machine{Place: Place{cfg.Node}, t: t, cfg: cfg, disk: t.TempDir(), group: group}
	require.NoError(t, syscall.Mount("tmpfs", m.disk, "tmpfs", 0, "")) // a disk that no other program waits for
	t.Cleanup(func() { assert.NoError(t, syscall.Unmount(m.disk, 0)) })
	t.Cleanup(m.removeGroups)
	t.Cleanup(m.tidyUp)
	user := "system:node:" + cfg.Name
	m.write("boot", boot)
	m.write("address", addresses(cfg))
	m.write("containerd.toml", containerdConfig)
	m.write("kubelet.yml", fmt.Sprintf(kubeletConfig, m.group))
	m.write("kubelet.kubeconfig", cfg.Cluster.KubeconfigText(cluster.Token(user)))
	m.write("proxy.kubeconfig", cfg.Cluster.KubeconfigText(cluster.Token("system:kube-proxy")))
	m.write("kube-proxy.yml", fmt.Sprintf(proxyConfig, filepath.Join(m.disk, "proxy.kubeconfig"), cfg.ProxyMode, cfg.Name, cfg.Cluster.PodNetworks()))
	out, err := m.command(t.Context(), cfg.Images...).CombinedOutput()
	require.NoError(t, err, "install %s: %s%s", cfg.Name, out, m.Logs())
	if cfg.Plugins != "" {
		out, err := exec.Command("cp", "-a", cfg.Plugins+"/.", filepath.Join(m.disk, "opt/files/cni/bin")).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return m
}

// addresses are those that the kubelet tells of: one of each of the pods' families.
func addresses(cfg Config) string {
	if strings.Contains(cfg.Cluster.PodNetworks(), ",") {
		return cfg.Node.V4.String() + "," + cfg.Node.V6.String()
	}
	return cfg.Node.V4.String()
}

// possible says why no node can be here.
func possible() error {
	if os.Getuid() != 0 {
		return errors.New("kubelets need root")
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return errors.New("control groups are of version 2, which nobody has tried here")
	}
	for _, program := range []string{"containerd", "ctr", "runc", "nft", "iptables"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	return nil
}

// Name is the node's in the cluster.
func (m *Machine) Name() string { return m.cfg.Name }

func (m *Machine) write(name, text string) {
	m.t.Helper()
	require.NoError(m.t, os.WriteFile(filepath.Join(m.disk, name), []byte(text), 0o600))
}

// command boots the machine.
func (m *Machine) command(ctx context.Context, images ...string) *exec.Cmd {
	args := []string{"--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
		"sh", filepath.Join(m.disk, "boot"), m.cfg.Name, m.disk, cluster.Program()}
	cmd := m.Command(ctx, "unshare", append(args, images...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return cmd
}

// PowerOn starts the machine, which is off. What it becomes, the cluster says.
func (m *Machine) PowerOn() {
	m.t.Helper()
	boss := m.command(context.WithoutCancel(m.t.Context()))
	log, err := os.Create(filepath.Join(m.disk, "log/boot"))
	require.NoError(m.t, err)
	defer log.Close()
	boss.Stdout, boss.Stderr = log, log
	m.makeGroups()
	require.NoError(m.t, boss.Start())
	m.boss = boss
}

// first is the process that all others of the machine go with, or unshare, if that has not come to start it.
func (m *Machine) first() (pid int) {
	unshare := m.boss.Process.Pid
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", unshare, unshare))
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		return unshare
	}
	return pid
}

// PowerOff ends all of the machine's processes at once, in the midst of what they do, and forgets what a kernel forgets: control groups,
// and what a network is made of. Its disk stays.
func (m *Machine) PowerOff() {
	m.t.Helper()
	if m.boss == nil {
		return
	}
	// With the first process the kernel kills all others, and only when they are gone is unshare told of its end.
	_ = syscall.Kill(m.first(), syscall.SIGKILL)
	_ = m.boss.Wait()
	m.boss = nil
	m.removeGroups()
	out, err := m.Command(context.WithoutCancel(m.t.Context()), "sh", "-c", `
for link in $(ip -oneline link show | sed -E 's/^[0-9]+: ([^:@]+).*/\1/' | grep -vxE 'lo|eth0'); do
	ip link del "$link" 2>/dev/null || true # some go with others
done
nft flush ruleset`).CombinedOutput()
	require.NoError(m.t, err, "%s", out)
}

// Logs are the last words of all that runs on the machine.
func (m *Machine) Logs() string {
	var all bytes.Buffer
	files, _ := filepath.Glob(filepath.Join(m.disk, "log/*"))
	pods, _ := filepath.Glob(filepath.Join(m.disk, "var/files/log/pods/*/*/*.log"))
	for _, file := range append(files, pods...) {
		text, _ := os.ReadFile(file)
		fmt.Fprintf(&all, "== %s %s\n%s\n", m.cfg.Name, strings.TrimPrefix(file, m.disk), text[max(0, len(text)-30000):])
	}
	return all.String()
}

// tidyUp turns the machine off.
func (m *Machine) tidyUp() {
	if m.t.Failed() {
		m.t.Log(m.Logs())
	}
	if m.cfg.Logs != "" {
		assert.NoError(m.t, m.keepLogs())
	}
	m.PowerOff()
}

// keepLogs copies all that programs have said: kubelet, containerd and kube-proxy from the machine's first start on, and its pods.
func (m *Machine) keepLogs() error {
	for from, to := range map[string]string{"log": "", "var/files/log/pods": "pods"} {
		to = filepath.Join(m.cfg.Logs, m.cfg.Name, to)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if out, err := exec.Command("cp", "-a", filepath.Join(m.disk, from)+"/.", to).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

// patience is how long something may take on a machine that has much else to do.
const patience = 2 * time.Minute

func await(t testing.TB, so func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := so()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still not so: %v", err)
		}
	}
}
