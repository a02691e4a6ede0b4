package udp_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/udp"
)

// overlay is a network over a testnet fabric, its Specs written by hand: node i (from 1) has the pod subnets 10.244.i.0/24 and
// fd00:244:0:i::/64, and answers at their zero addresses.
type overlay struct {
	fabric  *testnet.Fabric
	drivers []*udp.Driver
	specs   []udp.Spec
}

// newOverlay prepares one. The inner families are those of the underlay, unless change says otherwise.
func newOverlay(t testing.TB, cfg testnet.FabricConfig, change func(*udp.Spec)) *overlay {
	t.Helper()
	udp.NeedTUN(t)
	o := &overlay{fabric: testnet.NewFabric(t, cfg)}
	for i, n := range o.fabric.Nodes {
		spec := handMade(o.fabric, i)
		if change != nil {
			change(&spec)
		}
		d, err := udp.New(udp.Config{NetNS: n.NetNS()})
		require.NoError(t, err)
		t.Cleanup(func() { d.Close() })
		o.specs = append(o.specs, spec)
		o.drivers = append(o.drivers, d)
	}
	return o
}

func handMade(f *testnet.Fabric, own int) udp.Spec {
	spec := udp.Spec{Device: "eth0", Local: f.Nodes[own].Addrs()}
	for _, local := range spec.Local {
		zero := podSubnet(own, local).Addr()
		spec.Addresses = append(spec.Addresses, netip.PrefixFrom(zero, zero.BitLen()))
		spec.Networks = append(spec.Networks, podNetwork(local))
	}
	for i, n := range f.Nodes {
		for _, to := range n.Addrs() {
			if i != own {
				spec.Peers = append(spec.Peers, udp.Peer{Node: n.Name, Underlay: to, Prefixes: []netip.Prefix{podSubnet(i, to)}})
			}
		}
	}
	return spec
}

func podNetwork(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.MustParsePrefix("10.244.0.0/16")
	}
	return netip.MustParsePrefix("fd00:244::/48")
}

// podSubnet is that of node number i, from 0, in the family of a.
func podSubnet(i int, a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i+1))
	}
	return netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%x::/64", i+1))
}

// start applies the Specs and forwards until the test ends.
func (o *overlay) start(t testing.TB) {
	t.Helper()
	for i, d := range o.drivers {
		_, err := d.Apply(t.Context(), o.specs[i])
		require.NoError(t, err, o.fabric.Nodes[i].Name)
		forwarding(t, d)
	}
}

// forwarding has d forward until the test ends, or until stop is called.
func forwarding(t testing.TB, d *udp.Driver) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Forward(ctx) }()
	stopped := false
	stop = func() {
		cancel()
		if !stopped {
			stopped = true
			assert.NoError(t, <-done)
		}
	}
	t.Cleanup(stop)
	return stop
}

// targets are the overlay addresses of node number i.
func (o *overlay) targets(i int) []netip.Addr {
	var all []netip.Addr
	for _, a := range o.specs[i].Addresses {
		all = append(all, a.Addr())
	}
	return all
}

// requireReachable pings every node from every other, over every family.
func (o *overlay) requireReachable(t testing.TB) {
	t.Helper()
	for i, from := range o.fabric.Nodes {
		for j := range o.fabric.Nodes {
			if i == j {
				continue
			}
			for _, to := range o.targets(j) {
				require.NoError(t, reach(t.Context(), from, to), "%s to %s", from.Name, to)
			}
		}
	}
}

// requireDropped waits until node number i has counted so many drops, or more, for a batch is counted when all of it is done: a sender may hear
// of its packet before.
func (o *overlay) requireDropped(t testing.TB, i int, why udp.Drop, packets uint64) {
	t.Helper()
	dropped := func() bool { return o.drivers[i].Stats().Drops[why] >= packets }
	require.Eventually(t, dropped, patience, time.Millisecond, why)
}

// reach pings until an answer comes.
func reach(ctx context.Context, from *testnet.Node, to netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		_, err := from.Ping(try, to)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

// newPods puts one pod behind each node, on a bridge as package bridge makes it. mtu is that of its link; zeros are the nodes' own
// addresses in the pod subnets.
func newPods(t testing.TB, f *testnet.Fabric, mtu int, zeros func(i int) []netip.Addr) []*testnet.Node {
	t.Helper()
	var pods []*testnet.Node
	for i, n := range f.Nodes {
		for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
			require.NoError(t, sysctl.Ensure(n.NetNS(), key, "1"))
		}
		pod := testnet.NewNode(t, fmt.Sprintf("pod%d", i+1))
		attacher, err := bridge.New(bridge.Config{NetNS: n.NetNS()})
		require.NoError(t, err)
		var gateways, addrs []netip.Prefix
		for _, zero := range zeros(i) {
			bits := map[bool]int{true: 24, false: 64}[zero.Is4()]
			gateways = append(gateways, netip.PrefixFrom(zero.Next(), bits))
			addrs = append(addrs, netip.PrefixFrom(zero.Next().Next(), bits))
		}
		port := bridge.Port{Container: pod.Name, NetNS: pod.NetNS(), Addresses: addrs}
		_, err = attacher.Attach(t.Context(), bridge.Bridge{MTU: mtu, Gateways: gateways}, port)
		require.NoError(t, err)
		t.Cleanup(func() {
			require.NoError(t, attacher.Detach(context.Background(), port))
			require.NoError(t, attacher.Close())
		})
		pods = append(pods, pod)
	}
	return pods
}

// pods puts one pod behind each node.
func (o *overlay) pods(t testing.TB) []*testnet.Node {
	t.Helper()
	mtu := 1500
	for _, a := range o.specs[0].Local {
		mtu = min(mtu, 1500-udp.Overhead(a))
	}
	return newPods(t, o.fabric, mtu, o.targets)
}

// podAddrs are the addresses of the pod behind node number i.
func (o *overlay) podAddrs(i int) []netip.Addr {
	var all []netip.Addr
	for _, zero := range o.targets(i) {
		all = append(all, zero.Next().Next())
	}
	return all
}

var (
	onlyV4 = testnet.FabricConfig{V4: netip.MustParsePrefix(testnet.DefaultV4)}
	onlyV6 = testnet.FabricConfig{V6: netip.MustParsePrefix(testnet.DefaultV6)}
)

func TestNodesReachEachOther(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{Nodes: 3}, nil)
	for i, d := range o.drivers {
		plan, err := d.Apply(t.Context(), o.specs[i])
		require.NoError(t, err)
		require.NotEmpty(t, plan)
		forwarding(t, d)
	}
	o.requireReachable(t)
	for i, d := range o.drivers {
		plan, err := d.Apply(t.Context(), o.specs[i])
		require.NoError(t, err)
		require.Empty(t, plan.String())
		plan, err = d.Plan(t.Context(), o.specs[i])
		require.NoError(t, err)
		require.Empty(t, plan.String())
	}
}
