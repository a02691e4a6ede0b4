package cniplugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/testnet"
)

// TestMain makes the test binary the plugin, when a runtime starts it by one of a plugin's names, or the agent.
func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); slices.Contains(answersAs, name) {
		os.Exit(cniplugin.Run(context.Background(), cniplugin.Config{BootID: os.Getenv(bootOfTest)}, cniplugin.SystemCall(name)))
	}
	if filepath.Base(os.Args[0]) == agentProgram {
		if err := runAgent(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Under the race detector a process sleeps for a second when it ends, and plugins are hundreds of processes.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	testnet.Main(m)
}

// bootOfTest is the variable that tells the test binary, as a plugin, in which life of the kernel it is.
const bootOfTest = "PODWEFT_TEST_BOOT"

// answersAs are the names by which the test binary is a plugin, whatever it is told: never the tests again.
var answersAs = []string{"podweft-cni", "ptp", "flannel", "portmap", "loopback"}

// plugins is a directory with this binary by the names of plugins.
func plugins(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	for _, name := range answersAs {
		require.NoError(t, os.Symlink(self, filepath.Join(dir, name)))
	}
	return dir
}

// node is a node of the calling process's own, or of a namespace.
type node struct {
	dir  string // state, subnet file
	ns   *testnet.Node
	boot string
	wait time.Duration // for what the agent brings

	lockWait time.Duration // for another process
}

// subnetEnv is what a daemon writes.
const subnetEnv = `FLANNEL_NETWORK=10.244.0.0/16
FLANNEL_SUBNET=10.244.1.1/24
FLANNEL_IPV6_NETWORK=fd00:244::/48
FLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
`

func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{dir: t.TempDir(), ns: testnet.NewNode(t, "node")}
	n.lease(t, subnetEnv)
	return n
}

// lease replaces the subnet file as a daemon does: plugins that wait for it never find half of it.
func (n *node) lease(t testing.TB, text string) {
	t.Helper()
	path := filepath.Join(n.dir, "subnet.env")
	require.NoError(t, os.WriteFile(path+".new", []byte(text), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

// conf is a configuration of this plugin for the node, with changes; a nil value takes a field away.
func (n *node) conf(changes map[string]any) map[string]any {
	c := map[string]any{
		"cniVersion": "1.1.0", "name": "pods", "type": "podweft-cni",
		"stateDir": n.dir, "subnetFile": filepath.Join(n.dir, "subnet.env"), "dataDir": filepath.Join(n.dir, "flannel"),
	}
	maps.Copy(c, changes)
	for k, v := range changes {
		if v == nil {
			delete(c, k)
		}
	}
	return c
}

// reply is how a call ended.
type reply struct {
	code       int
	raw        string
	CNIVersion string
	Code       uint
	Msg        string
	Details    string
	Interfaces []struct {
		Name, Mac, Sandbox string
		Mtu                int
	}
	IPs []struct {
		Interface        *int
		Address, Gateway string
		Version          string
	}
	Routes []struct{ Dst, GW string }
	DNS    struct{ Nameservers, Search []string }
}

func (r reply) String() string { return fmt.Sprintf("exit code %d: %s", r.code, r.raw) }

// call calls a plugin by its name, in this process.
func (n *node) call(t testing.TB, kind, command string, conf any, env ...string) reply {
	t.Helper()
	stdin, err := json.Marshal(conf)
	require.NoError(t, err)
	return n.callRaw(t, kind, stdin, append(env, "CNI_COMMAND="+command)...)
}

func (n *node) callRaw(t testing.TB, kind string, stdin []byte, env ...string) reply {
	t.Helper()
	var out bytes.Buffer
	cfg := cniplugin.Config{NetNS: n.ns.NetNS(), BootID: n.boot, AgentWait: n.wait, LockWait: n.lockWait}
	r := reply{code: cniplugin.Run(t.Context(), cfg, cniplugin.Call{
		Type: kind, Environ: append(os.Environ(), env...), Stdin: bytes.NewReader(stdin), Stdout: &out,
	})}
	r.raw = out.String()
	if out.Len() > 0 {
		require.NoError(t, json.Unmarshal(out.Bytes(), &r), r.raw)
	}
	return r
}

// about are the variables of a call about the pod.
func about(pod *testnet.Node, more ...string) []string {
	return append([]string{
		"CNI_CONTAINERID=" + pod.Name, "CNI_NETNS=" + pod.NetNS(), "CNI_IFNAME=eth0", "CNI_PATH=/nowhere", "CNI_ARGS=IgnoreUnknown=1",
	}, more...)
}

func (n *node) add(t testing.TB, pod *testnet.Node, conf any) reply {
	t.Helper()
	r := n.call(t, "podweft-cni", "ADD", conf, about(pod)...)
	require.Zero(t, r.code, r)
	return r
}

func (n *node) linkNames(t testing.TB) (names []string) {
	t.Helper()
	all, err := n.ns.Links()
	require.NoError(t, err)
	for _, l := range all {
		names = append(names, l.Name)
	}
	return names
}

// deadSocket makes what an agent leaves that was killed.
func deadSocket(t testing.TB, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
}
