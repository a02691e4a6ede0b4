package vxlan_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// without makes of each Spec the one for host-gw: the same peers at the same addresses.
func (o *overlay) without(i int) hostgw.Spec {
	spec := hostgw.Spec{Device: "eth0"}
	for _, p := range o.specs[i].Peers {
		spec.Peers = append(spec.Peers, hostgw.Peer{Node: p.Node, Underlay: p.Underlay, Prefixes: p.Prefixes})
	}
	return spec
}

func newHostGateways(t testing.TB, o *overlay) []*hostgw.Driver {
	t.Helper()
	var all []*hostgw.Driver
	for _, n := range o.fabric.Nodes {
		d, err := hostgw.New(hostgw.Config{NetNS: n.NetNS()})
		require.NoError(t, err)
		t.Cleanup(func() { d.Close() })
		all = append(all, d)
	}
	return all
}

// TestModeChange goes from vxlan to host-gw and back while pods talk. The new mode waits behind the old one, whose routes are
// in its way, and is there the moment that they go.
func TestModeChange(t *testing.T) {
	t.Parallel()
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	gateways := newHostGateways(t, o)
	pods := newPods(t, o, 1430)
	var stops []func()
	for i, d := range o.drivers {
		_, stop := sabotage.Run(t, d, o.specs[i])
		stops = append(stops, stop)
	}
	for _, to := range o.podAddrs(1) {
		require.NoError(t, sabotage.Reach(t.Context(), pods[0], to, testnet.Echo{}))
	}
	running := startStreams(t, o, pods)
	var loops []*podweft.Loop[hostgw.Spec]
	var back []func()
	for i, d := range gateways {
		loop, stop := sabotage.Run(t, d, o.without(i))
		require.NotEmpty(t, loop.Status().Failing, "nothing of vxlan's is taken over")
		loops, back = append(loops, loop), append(back, stop)
	}
	teardown(t, o.drivers, stops)
	for _, loop := range loops {
		require.Eventually(t, func() bool { return len(loop.Status().Failing) == 0 }, patience, time.Millisecond)
	}
	requireShort(t, running, "vxlan to host-gw")
	for i, n := range o.fabric.Nodes {
		requireNothingOf(t, o.drivers[i], n)
		assert.NotContains(t, strings.Join(everything(t, inNode(t, n)), "\n"), "flannel")
	}

	running = startStreams(t, o, pods)
	var again []*podweft.Loop[vxlan.Spec]
	for i, d := range o.drivers {
		loop, _ := sabotage.Run(t, d, o.specs[i])
		again = append(again, loop)
	}
	teardown(t, gateways, back)
	for _, loop := range again {
		require.Eventually(t, func() bool { return len(loop.Status().Failing) == 0 }, patience, time.Millisecond)
	}
	requireShort(t, running, "host-gw to vxlan")
	for _, to := range o.podAddrs(1) {
		require.NoError(t, sabotage.Reach(t.Context(), pods[0], to, testnet.Echo{}))
	}
	for i, n := range o.fabric.Nodes {
		requireNothingOf(t, gateways[i], n)
		o.requireRepaired(t, i)
	}
}

// teardown stops all nodes' loops and removes what they made, on all nodes at once.
func teardown[D interface {
	Teardown(context.Context) (podweft.Plan, error)
}](t *testing.T, drivers []D, stops []func()) {
	t.Helper()
	var group sync.WaitGroup
	for i, d := range drivers {
		group.Go(func() {
			stops[i]()
			_, err := d.Teardown(t.Context())
			assert.NoError(t, err)
		})
	}
	group.Wait()
}

// requireNothingOf requires that the node holds nothing that bears the driver's mark.
func requireNothingOf[S any](t testing.TB, d podweft.Driver[S], n *testnet.Node) {
	t.Helper()
	var nothing S
	plan, err := d.Plan(t.Context(), nothing)
	require.NoError(t, err)
	require.Empty(t, plan.String(), "left on %s", n.Name)
}

// startStreams pings the second pod from the first, over every family, and returns when that has been going on for a while.
func startStreams(t *testing.T, o *overlay, pods []*testnet.Node) (all []*sabotage.Stream) {
	t.Helper()
	for _, to := range o.podAddrs(1) {
		all = append(all, sabotage.StartStream(t, sabotage.Flow{From: pods[0], To: to}, 2*time.Millisecond, time.Second))
	}
	time.Sleep(100 * time.Millisecond)
	return all
}

// requireShort stops the streams, says how much of them was lost, and requires that it was bearable.
func requireShort(t testing.TB, streams []*sabotage.Stream, what string) {
	t.Helper()
	time.Sleep(100 * time.Millisecond)
	t.Log(what)
	for _, s := range streams {
		_, _, gap := s.Stop(t)
		require.Less(t, gap, patience)
	}
}

// TestVNIChange changes the VNI on all nodes at once while pods talk.
func TestVNIChange(t *testing.T) {
	t.Parallel()
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	pods := newPods(t, o, 1430)
	var loops []*podweft.Loop[vxlan.Spec]
	for i, d := range o.drivers {
		loops = append(loops, sabotage.Keep(t, d, o.specs[i]))
	}
	for _, to := range o.podAddrs(1) {
		require.NoError(t, sabotage.Reach(t.Context(), pods[0], to, testnet.Echo{}))
	}
	streams := startStreams(t, o, pods)
	for i := range o.specs {
		o.specs[i].VTEPs = slices.Clone(o.specs[i].VTEPs)
		eachVTEP(&o.specs[i], func(v *vxlan.VTEP) { v.VNI = 2 })
	}
	var group sync.WaitGroup
	for i, loop := range loops {
		group.Go(func() { assert.NoError(t, loop.Wait(t.Context(), loop.Set(o.specs[i]))) })
	}
	group.Wait()
	requireShort(t, streams, "VNI 1 to 2")
	o.requireReachable(t)
	for i, n := range o.fabric.Nodes {
		o.requireRepaired(t, i)
		links := indexes(t, n)
		assert.Contains(t, links, "flannel.2")
		assert.NotContains(t, links, "flannel.1")
		assert.NotContains(t, links, "flannel-v6.1")
	}
}

// TestTwoModesDoNotSweepEachOther: two drivers with no owner named, in one namespace, for other prefixes.
func TestTwoModesDoNotSweepEachOther(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	gateway := newHostGateways(t, o)[0]
	far := o.fabric.Nodes[1]
	spec := hostgw.Spec{Device: "eth0", Peers: []hostgw.Peer{
		{Node: far.Name, Underlay: far.V4, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.99.2.0/24")}},
		{Node: far.Name, Underlay: far.V6, Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00:99:0:2::/64")}},
	}}
	o.apply(t)
	for range 2 {
		_, err := gateway.Apply(t.Context(), spec)
		require.NoError(t, err)
		plan, err := o.drivers[0].Apply(t.Context(), o.specs[0])
		require.NoError(t, err)
		assert.Empty(t, plan.String())
		plan, err = gateway.Plan(t.Context(), spec)
		require.NoError(t, err)
		assert.Empty(t, plan.String())
	}
	o.requireReachable(t)
	_, err := o.drivers[0].Teardown(t.Context())
	require.NoError(t, err)
	plan, err := gateway.Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Empty(t, plan.String())

	o.apply(t)
	_, err = gateway.Teardown(t.Context())
	require.NoError(t, err)
	plan, err = o.drivers[0].Plan(t.Context(), o.specs[0])
	require.NoError(t, err)
	assert.Empty(t, plan.String())
}

// TestForeignNexthopsInOurRange: another program has taken the very ids that would be ours.
func TestForeignNexthopsInOurRange(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	o.apply(t)
	n := o.fabric.Nodes[0]
	ours := sabotage.Nexthops(t, n)
	require.Len(t, ours, len(o.specs[0].Peers))
	_, err := o.drivers[0].Teardown(t.Context())
	require.NoError(t, err)
	require.Empty(t, sabotage.Nexthops(t, n))

	var batch nl.Batch
	eth0 := indexes(t, n)["eth0"]
	for _, nh := range ours {
		batch.AddNexthop(nl.Nexthop{ID: nh.ID, Protocol: unix.RTPROT_STATIC, Gateway: o.fabric.Nodes[1].V4, Link: eth0})
	}
	require.Nil(t, sabotage.Dial(t, n).Do(t.Context(), &batch))
	theirs := sabotage.Nexthops(t, n)

	restarted := newDriver(t, n) // which has no memory of where its own were
	_, err = restarted.Apply(t.Context(), o.specs[0])
	require.NoError(t, err)
	o.requireReachable(t)
	all := sabotage.Nexthops(t, n)
	assert.Subset(t, all, theirs)
	assert.Len(t, all, len(theirs)+len(ours))
	_, err = restarted.Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, theirs, sabotage.Nexthops(t, n))
}
