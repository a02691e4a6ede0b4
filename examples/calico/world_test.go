package calico_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/ipam/block/file"
	"github.com/podweft/podweft/node"
	rosterfile "github.com/podweft/podweft/roster/file"
	"github.com/podweft/podweft/testnet"
)

// patience is how long tests wait for what takes a moment. The BGP engine alone takes seconds to begin.
const patience = 60 * time.Second

// pools are of both families.
func pools(vxlan calico.Mode) []calico.Pool {
	return []calico.Pool{
		{Name: "v4", Prefix: netip.MustParsePrefix("10.244.0.0/16"), VXLAN: vxlan, NAT: true},
		{Name: "v6", Prefix: netip.MustParsePrefix("fd00:244::/64"), VXLAN: vxlan, NAT: true},
	}
}

// world is two racks of nodes that share a store in files.
type world struct {
	*testnet.Racks
	dir string
}

func newWorld(t testing.TB, nodes int) *world {
	t.Helper()
	return &world{testnet.NewRacks(t, testnet.RacksConfig{Nodes: nodes}), t.TempDir()}
}

// config is that of a node's agent.
func (w *world) config(t testing.TB, n *testnet.Node, pools []calico.Pool) calico.Config {
	t.Helper()
	blocks, err := file.New(filepath.Join(w.dir, "blocks"))
	require.NoError(t, err)
	nodes, err := rosterfile.New(filepath.Join(w.dir, "nodes"))
	require.NoError(t, err)
	state := filepath.Join(w.dir, n.Name)
	return calico.Config{
		Node: n.Name, NetNS: n.NetNS(), Underlay: node.Choice{Name: "eth0"}, Pools: pools, Blocks: blocks, Nodes: nodes,
		Routes: calico.ByStore, StateDir: state, CNIConf: filepath.Join(state, "net.d", "10-podweft.conflist"),
	}
}

// start runs an agent until stop is called, or the test ends.
func start(t testing.TB, cfg calico.Config) (agent *calico.Agent, stop func()) {
	t.Helper()
	agent, err := calico.New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			assert.NoError(t, <-ended)
		}
	}
	t.Cleanup(stop)
	select {
	case <-agent.Ready():
	case err := <-ended:
		stopped = true
		cancel()
		require.NoError(t, err)
		require.Fail(t, "the agent has ended")
	case <-time.After(patience):
		require.Fail(t, "the agent is not ready", "%+v", agent.Status(t.Context()))
	}
	return agent, stop
}

// pod is a namespace that the CNI plugin has attached to a node.
type pod struct {
	*testnet.Node
	namespace string // of Kubernetes; empty: default
	host      *testnet.Node
	dir       string // of the host's agent
	addrs     []netip.Addr
}

// add has the plugin attach a new pod, by the configuration that the agent has written.
func (w *world) add(t testing.TB, host *testnet.Node, name string) *pod {
	t.Helper()
	return w.addIn(t, host, "", name)
}

// addIn is add of a pod of a namespace of Kubernetes.
func (w *world) addIn(t testing.TB, host *testnet.Node, namespace, name string) *pod {
	t.Helper()
	p := &pod{Node: testnet.NewNode(t, name), namespace: namespace, host: host, dir: filepath.Join(w.dir, host.Name)}
	out, code := p.call(t, "ADD")
	require.Zero(t, code, out)
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	require.NoError(t, json.Unmarshal([]byte(out), &result), out)
	for _, ip := range result.IPs {
		p.addrs = append(p.addrs, ip.Address.Addr())
	}
	return p
}

// del has the plugin detach it.
func (p *pod) del(t testing.TB) {
	t.Helper()
	out, code := p.call(t, "DEL")
	require.Zero(t, code, out)
}

func (p *pod) call(t testing.TB, command string) (out string, code int) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(p.dir, "net.d", "10-podweft.conflist"))
	require.NoError(t, err)
	var list struct {
		CNIVersion, Name string
		Plugins          []map[string]any
	}
	require.NoError(t, json.Unmarshal(raw, &list))
	conf := list.Plugins[0]
	conf["cniVersion"], conf["name"] = list.CNIVersion, list.Name
	stdin, err := json.Marshal(conf)
	require.NoError(t, err)
	var stdout bytes.Buffer
	code = cniplugin.Run(t.Context(), cniplugin.Config{NetNS: p.host.NetNS()}, cniplugin.Call{
		Type: "podweft-cni", Stdin: bytes.NewReader(stdin), Stdout: &stdout,
		Environ: []string{
			"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + p.Name, "CNI_NETNS=" + p.NetNS(), "CNI_IFNAME=eth0",
			fmt.Sprintf("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s", cmp.Or(p.namespace, "default"), p.Name),
		},
	})
	return stdout.String(), code
}

// reaches pings until an answer comes.
func reaches(t testing.TB, from *testnet.Node, to ...netip.Addr) {
	t.Helper()
	for _, a := range to {
		var err error
		for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err = from.Ping(ctx, a)
			cancel()
			if err == nil {
				break
			}
		}
		require.NoError(t, err, "%s to %s", from.Name, a)
	}
}

// waitFor asks until the answer will do.
func waitFor(t testing.TB, agent *calico.Agent, what string, enough func(calico.Status) bool) calico.Status {
	t.Helper()
	until := time.Now().Add(patience)
	for {
		s := agent.Status(t.Context())
		if enough(s) {
			return s
		}
		if time.Now().After(until) {
			require.Fail(t, "waited in vain for "+what, "%+v", s)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
