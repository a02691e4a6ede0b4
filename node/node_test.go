package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/memory"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

func TestMain(m *testing.M) { testnet.Main(m) }

const dualStack = `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": %q}}`

func newStore(t *testing.T, conf string) *memory.Store {
	t.Helper()
	network, err := subnet.ParseNetwork([]byte(conf))
	require.NoError(t, err)
	return memory.New(network)
}

func newBackend(t *testing.T, kind, netns string) node.Backend {
	t.Helper()
	switch kind {
	case vxlan.Type:
		d, err := vxlan.New(vxlan.Config{NetNS: netns})
		require.NoError(t, err)
		t.Cleanup(func() { d.Close() })
		return node.NewBackend(node.Parts[vxlan.Spec]{Type: kind, Driver: d, Compile: vxlan.Compile, Publish: vxlan.Publish})
	case hostgw.Type:
		d, err := hostgw.New(hostgw.Config{NetNS: netns})
		require.NoError(t, err)
		t.Cleanup(func() { d.Close() })
		return node.NewBackend(node.Parts[hostgw.Spec]{Type: kind, Driver: d, Compile: hostgw.Compile, Publish: hostgw.Publish})
	}
	t.Fatalf("no backend %q", kind)
	return nil
}

// start runs a node until the test ends, or until stop is called.
func start(t *testing.T, cfg node.Config) (n *node.Node, stop func() error) {
	t.Helper()
	n, err := node.New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	var result error
	stopped := false
	stop = func() error {
		if !stopped {
			stopped = true
			cancel()
			result = <-done
		}
		return result
	}
	t.Cleanup(func() { assert.NoError(t, stop()) })
	return n, stop
}

func waitReady(t *testing.T, nodes ...*node.Node) {
	t.Helper()
	for _, n := range nodes {
		select {
		case <-n.Ready():
		case <-time.After(patience):
			require.FailNow(t, "not ready", "%+v", n.Status())
		}
	}
}

// patience is how long tests wait for what takes milliseconds: the machine may be busy with other tests.
const patience = 10 * time.Second

func TestNodesReachEachOther(t *testing.T) {
	for _, kind := range []string{vxlan.Type, hostgw.Type} {
		t.Run(kind, func(t *testing.T) {
			fabric := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 3})
			store := newStore(t, fmt.Sprintf(dualStack, kind))
			var nodes []*node.Node
			for _, host := range fabric.Nodes {
				n, _ := start(t, node.Config{
					Name: host.Name, Underlay: node.Choice{Name: "eth0"}, Store: store, NetNS: host.NetNS(),
					Backend: newBackend(t, kind, host.NetNS()), Masquerade: true,
				})
				nodes = append(nodes, n)
			}
			waitReady(t, nodes...)
			for i, n := range nodes {
				pods, err := n.Pods(t.Context())
				require.NoError(t, err)
				require.Eventually(t, func() bool { return len(nodes) == n.Status().Peers+1 }, patience, time.Millisecond)
				assert.Equal(t, map[string]int{vxlan.Type: 1430, hostgw.Type: 1500}[kind], pods.MTU)
				t.Log(fabric.Nodes[i].Name, pods.Prefixes)
			}
			if kind == hostgw.Type {
				return // nothing has the subnets' zero addresses there
			}
			for i, from := range fabric.Nodes {
				for j, to := range nodes {
					if i == j {
						continue
					}
					for p := range to.Status().Lease.Prefixes.All() {
						requireReach(t, from, p.Addr())
					}
				}
			}
		})
	}
}

func TestRestartKeepsSubnetAndMAC(t *testing.T) {
	fabric := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1})
	cfg := node.Config{
		Name: "one", Underlay: node.Choice{Name: "eth0"}, NetNS: fabric.Nodes[0].NetNS(), StateFile: filepath.Join(t.TempDir(), "run", "lease.json"),
	}
	var leases []*subnet.Lease
	for range 3 {
		cfg.Store = newStore(t, fmt.Sprintf(dualStack, vxlan.Type)) // which has forgotten everything
		cfg.Backend = newBackend(t, vxlan.Type, cfg.NetNS)
		n, stop := start(t, cfg)
		waitReady(t, n)
		leases = append(leases, n.Status().Lease)
		require.NoError(t, stop())
	}
	for _, l := range leases[1:] {
		assert.Equal(t, leases[0].Prefixes, l.Prefixes)
		assert.Equal(t, leases[0].Data, l.Data)
	}
}

func TestBadLeasesAreLeftOut(t *testing.T) {
	fabric := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 2})
	store := newStore(t, fmt.Sprintf(dualStack, vxlan.Type))
	claim := func(name, v4, data string) {
		_, err := store.Acquire(t.Context(), subnet.Claim{
			Node: name, Underlay: subnet.Addrs{V4: netip.MustParseAddr(v4)}, Backend: "vxlan", Data: subnet.Data{V4: []byte(data)},
		})
		require.NoError(t, err)
	}
	claim("nonsense", "192.0.2.77", `{"VtepMAC": 7}`)
	claim("multicast", "192.0.2.78", `{"VNI": 1, "VtepMAC": "01:00:5e:00:00:01"}`)
	claim("loopback", "127.0.0.1", `{"VNI": 1, "VtepMAC": "0e:00:00:00:00:01"}`)
	claim("nothing", "192.0.2.79", `null`)
	claim("twin-a", "192.0.2.80", `{"VNI": 1, "VtepMAC": "0e:00:00:00:00:aa"}`)
	claim("twin-b", "192.0.2.81", `{"VNI": 1, "VtepMAC": "0e:00:00:00:00:aa"}`)
	var nodes []*node.Node
	for _, host := range fabric.Nodes {
		n, _ := start(t, node.Config{
			Name: host.Name, Underlay: node.Choice{Name: "eth0"}, Store: store, NetNS: host.NetNS(), Backend: newBackend(t, vxlan.Type, host.NetNS()),
		})
		nodes = append(nodes, n)
	}
	waitReady(t, nodes...)
	require.Eventually(t, func() bool { return nodes[0].Status().Peers == 7 }, patience, time.Millisecond)
	reported := map[string]int{}
	for _, p := range nodes[0].Status().Problems {
		reported[p.Node]++
		require.ErrorIs(t, p, podweft.ErrInvalid)
		t.Log(p)
	}
	for _, name := range []string{"nonsense", "multicast", "loopback", "nothing"} {
		assert.Positive(t, reported[name], name)
	}
	assert.Positive(t, reported["twin-a"]+reported["twin-b"])
	requireReach(t, fabric.Nodes[0], nodes[1].Status().Lease.Prefixes.V4.Addr())
}

// requireReach pings an address, a VTEP's as a rule, until it answers.
func requireReach(t *testing.T, from *testnet.Node, to netip.Addr) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := from.Ping(ctx, to)
		return err == nil
	}, patience, time.Millisecond, "%s to %s", from.Name, to)
}

// A daemon that restarts loses no packet: its entries stay, and the first pass finds nothing to do.
func TestRestartCutsNoTraffic(t *testing.T) {
	for _, kind := range []string{vxlan.Type, hostgw.Type} {
		t.Run(kind, func(t *testing.T) {
			fabric := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 2})
			store := newStore(t, fmt.Sprintf(dualStack, kind))
			cfg := func(i int) node.Config {
				netns := fabric.Nodes[i].NetNS()
				return node.Config{Name: fabric.Nodes[i].Name, Underlay: node.Choice{Name: "eth0"}, Store: store, NetNS: netns, Backend: newBackend(t, kind, netns)}
			}
			first, stop := start(t, cfg(0))
			second, _ := start(t, cfg(1))
			waitReady(t, first, second)
			require.Eventually(t, func() bool { return first.Status().Peers == 1 && inForce(first) }, patience, time.Millisecond)
			before := first.Status()
			require.NoError(t, stop())
			again, _ := start(t, cfg(0))
			waitReady(t, again)
			after := again.Status()
			assert.Equal(t, before.Lease.Prefixes, after.Lease.Prefixes)
			assert.Equal(t, before.Lease.Data, after.Lease.Data, "peers would have to learn a new MAC")
			assert.Zero(t, after.Backend.Last.Changes, "the kernel still agreed")
		})
	}
}

// statuses prints how nodes are when they are printed.
type statuses []*node.Node

func (s statuses) String() string {
	var b strings.Builder
	for _, n := range s {
		fmt.Fprintf(&b, "%+v\n", n.Status())
	}
	return b.String()
}

// inForce reports whether the backend has applied all that it was given.
func inForce(n *node.Node) bool {
	b := n.Status().Backend
	return b.Generation > 0 && b.Last.Generation == b.Generation && len(b.Failing) == 0
}

// recorder is a log that a test reads while others write it.
type recorder struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// TestPublicAddressLost: the address that chose the node's interface goes away with that interface's configuration. The node does not
// take it for that of a NAT, and stays where it is.
func TestPublicAddressLost(t *testing.T) {
	host := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1, Outside: true}).Nodes[0]
	h := inNode(t, host)
	addLink(t, h, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}, PeerName: "eth1-peer"}, "198.51.100.7/24", "198.51.100.8/24")
	var log recorder
	n, _ := start(t, node.Config{
		Name: "one", Underlay: node.Choice{Public: addrs("198.51.100.7", "")}, Store: newStore(t, fmt.Sprintf(dualStack, hostgw.Type)),
		NetNS: host.NetNS(), Backend: newBackend(t, hostgw.Type, host.NetNS()), Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	waitReady(t, n)
	before := n.Status()
	require.Equal(t, "eth1", before.Node.Device)
	eth1, err := h.LinkByName("eth1")
	require.NoError(t, err)
	old, err := netlink.ParseAddr("198.51.100.7/24")
	require.NoError(t, err)
	require.NoError(t, h.AddrDel(eth1, old))
	require.Eventually(t, func() bool {
		return strings.Contains(log.String(), "the node's public address is on no interface any more; its place stays the last one\" node=one public=198.51.100.7")
	}, patience, time.Millisecond)
	assert.Equal(t, before.Node, n.Status().Node)
	assert.Equal(t, before.Lease.Underlay, n.Status().Lease.Underlay)
	require.NoError(t, h.AddrAdd(eth1, old))
	require.NoError(t, h.LinkSetMTU(eth1, 1400))
	require.Eventually(t, func() bool { return n.Status().Node.MTU == 1400 }, patience, time.Millisecond)
	assert.Equal(t, before.Node.Underlay, n.Status().Node.Underlay)
	assert.True(t, n.Status().Node.Public.IsZero())
}

func TestRunSaysWhatIsMissing(t *testing.T) {
	lonely := testnet.NewNode(t, "lonely")
	cfg := node.Config{
		Name: "lonely", Underlay: node.Choice{Name: "eth0"}, NetNS: lonely.NetNS(),
		Store: newStore(t, fmt.Sprintf(dualStack, vxlan.Type)), Backend: newBackend(t, vxlan.Type, lonely.NetNS()),
	}
	run := func() error {
		n, err := node.New(cfg)
		require.NoError(t, err)
		return n.Run(t.Context())
	}
	assert.EqualError(t, run(), "underlay: no interface can be the underlay (lo: loopback): name one that has an address, or give one a default route")
	cfg.Underlay.Name = "lo"
	assert.ErrorContains(t, run(), "lo: loopback")

	_, err := node.New(node.Config{})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	for _, field := range []string{"Name", "Store", "Backend"} {
		assert.ErrorContains(t, err, field)
	}
}

func TestExhaustedNetworkEndsRun(t *testing.T) {
	fabric := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1})
	store := newStore(t, `{"Network": "10.244.0.0/22", "SubnetLen": 24, "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.1.0"}`)
	_, err := store.Acquire(t.Context(), subnet.Claim{Node: "other"})
	require.NoError(t, err)
	n, err := node.New(node.Config{
		Name: "late", Underlay: node.Choice{Name: "eth0"}, NetNS: fabric.Nodes[0].NetNS(), Store: store, Backend: newBackend(t, vxlan.Type, fabric.Nodes[0].NetNS()),
	})
	require.NoError(t, err)
	require.ErrorIs(t, n.Run(t.Context()), subnet.ErrExhausted)
	assert.False(t, n.Status().Ready)
}

// A change of the configuration reaches the kernel without a restart.
func TestConfigurationChange(t *testing.T) {
	fabric := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 2})
	store := newStore(t, fmt.Sprintf(dualStack, vxlan.Type))
	var nodes []*node.Node
	for _, host := range fabric.Nodes {
		n, _ := start(t, node.Config{
			Name: host.Name, Underlay: node.Choice{Name: "eth0"}, Store: store, NetNS: host.NetNS(), Backend: newBackend(t, vxlan.Type, host.NetNS()),
		})
		nodes = append(nodes, n)
	}
	waitReady(t, nodes...)
	network, err := subnet.ParseNetwork([]byte(
		`{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "vxlan", "VNI": 42}}`))
	require.NoError(t, err)
	store.SetNetwork(network)
	require.Eventually(t, func() bool {
		links, err := fabric.Nodes[0].Links()
		require.NoError(t, err)
		names := map[string]bool{}
		for _, l := range links {
			names[l.Name] = true
		}
		return names["flannel.42"] && names["flannel-v6.42"] && !names["flannel.1"] && !names["flannel-v6.1"]
	}, patience, 10*time.Millisecond)
	requireReach(t, fabric.Nodes[0], nodes[1].Status().Lease.Prefixes.V4.Addr())
	requireReach(t, fabric.Nodes[1], nodes[0].Status().Lease.Prefixes.V6.Addr())
}

// A node whose address or MTU changes is found by its peers again, and they by it.
func TestUnderlayMoves(t *testing.T) {
	for _, kind := range []string{vxlan.Type, hostgw.Type} {
		t.Run(kind, func(t *testing.T) {
			fabric := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 2})
			store := newStore(t, fmt.Sprintf(dualStack, kind))
			var nodes []*node.Node
			for _, host := range fabric.Nodes {
				n, _ := start(t, node.Config{
					Name: host.Name, Underlay: node.Choice{Name: "eth0"}, Store: store, NetNS: host.NetNS(), Backend: newBackend(t, kind, host.NetNS()),
				})
				nodes = append(nodes, n)
			}
			waitReady(t, nodes...)
			h := inNode(t, fabric.Nodes[1])
			eth0, err := h.LinkByName("eth0")
			require.NoError(t, err)
			old, err := netlink.ParseAddr("192.0.2.2/24")
			require.NoError(t, err)
			moved, err := netlink.ParseAddr("192.0.2.99/24")
			require.NoError(t, err)
			require.NoError(t, h.AddrDel(eth0, old))
			require.NoError(t, h.AddrAdd(eth0, moved))
			require.NoError(t, h.LinkSetMTU(eth0, 1400))

			require.Eventually(t, func() bool {
				return nodes[1].Status().Node.Underlay.V4 == netip.MustParseAddr("192.0.2.99") && inForce(nodes[0]) && inForce(nodes[1])
			}, patience, time.Millisecond, "%v", statuses(nodes))
			require.Eventually(t, func() bool {
				return nodes[1].Status().MTU == map[string]int{vxlan.Type: 1330, hostgw.Type: 1400}[kind]
			}, patience, time.Millisecond)
			if kind == vxlan.Type {
				requireReach(t, fabric.Nodes[0], nodes[1].Status().Lease.Prefixes.V4.Addr())
				requireReach(t, fabric.Nodes[1], nodes[0].Status().Lease.Prefixes.V4.Addr())
			}
		})
	}
}
