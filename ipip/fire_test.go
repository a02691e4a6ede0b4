package ipip_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/testnet"
)

// fire is a node under a running loop, about to be sabotaged.
type fire struct {
	*overlay
	loop   *podweft.Loop[ipip.Spec]
	deaf   *sabotage.Deaf[ipip.Spec]
	h      *netlink.Handle
	prefix netip.Prefix // a peer's
}

func (f *fire) node() *testnet.Node { return f.fabric.Nodes[0] }

func (f *fire) eth0(t *testing.T) int { return linkNamed(t, f.h, "eth0").Attrs().Index }

// TestUnderFire breaks each object in each way in every mode, and sees the kernel agree with the Spec and packets flow again.
func TestUnderFire(t *testing.T) {
	eachOverlay(t, func(t *testing.T, o *overlay) {
		o.apply(t)
		f := &fire{
			overlay: o, h: inNode(t, o.fabric.Nodes[0]), deaf: &sabotage.Deaf[ipip.Spec]{Driver: o.drivers[0]},
			prefix: o.specs[0].Peers[0].Prefixes[0],
		}
		f.loop = sabotage.Keep(t, f.deaf, o.specs[0])
		f.requireRepaired(t, 0)
		f.requireReachable(t)
		for _, tunnel := range f.specs[0].Tunnels {
			for _, b := range breakages {
				t.Run(b.name+" on "+ipip.LinkName(tunnel.Local), func(t *testing.T) {
					start := f.now(t)
					b.do(t, f.h, linkNamed(t, f.h, ipip.LinkName(tunnel.Local)))
					f.requireBack(t, start)
				})
			}
		}
		t.Run("nexthop replaced by a foreign one", f.replaceNexthop)
		t.Run("route replaced by a foreign one", f.replaceRoute)
		t.Run("watch overflowed", f.overflow)
		t.Run("underlay renamed", f.renameUnderlay)
		t.Run("underlay address changed", f.moveUnderlay) // the last: the node stays there
	})
}

// requireBack waits until the kernel agrees with the Spec and packets flow both ways, which must not take long.
func (f *fire) requireBack(t *testing.T, since *sabotage.Stopwatch) {
	t.Helper()
	f.requireRepaired(t, 0)
	f.requireReachable(t) // both ways: node 2's answers, and its own packets
	since.RequireBack(t)
}

// now is when something breaks.
func (f *fire) now(t *testing.T) *sabotage.Stopwatch {
	t.Helper()
	return sabotage.Start(t, f.node())
}

func (f *fire) route(t *testing.T) nl.Route {
	t.Helper()
	return sabotage.RouteTo(t, f.node(), f.prefix)
}

// replaceNexthop: the stranger's stays, and ours moves to another id.
func (f *fire) replaceNexthop(t *testing.T) {
	nowhere := netip.MustParseAddr("192.0.2.200")
	if !f.node().V4.IsValid() {
		nowhere = netip.MustParseAddr("2001:db8::200")
	}
	theirs := nl.Nexthop{ID: f.route(t).Nexthop, Protocol: unix.RTPROT_STATIC, Gateway: nowhere, Link: f.eth0(t)}
	start := f.now(t)
	sabotage.SeizeNexthop(t, f.node(), theirs)
	f.requireBack(t, start)
	assert.Contains(t, sabotage.Nexthops(t, f.node()), theirs, "another program's is not ours to change")
	assert.NotEqual(t, theirs.ID, f.route(t).Nexthop)
}

// replaceRoute: the conflict is reported, and when theirs goes, ours is back at once.
func (f *fire) replaceRoute(t *testing.T) {
	theirs := &netlink.Route{
		Dst: ipNet(f.prefix), LinkIndex: f.eth0(t), Protocol: unix.RTPROT_STATIC, Priority: int(f.route(t).Metric),
	}
	require.NoError(t, f.h.RouteReplace(theirs))
	require.Eventually(t, func() bool { return len(f.loop.Status().Failing) == 1 }, patience, time.Millisecond)
	assert.ErrorIs(t, f.loop.Status().Failing[0].Err, podweft.ErrConflict)
	assert.EqualValues(t, unix.RTPROT_STATIC, f.route(t).Protocol, "another program's is not ours to change")
	start := f.now(t)
	require.NoError(t, f.h.RouteDel(theirs))
	f.requireBack(t, start)
}

// overflow lets the loop miss a sabotage: the notification is among those that do not fit in the socket, behind a storm.
func (f *fire) overflow(t *testing.T) {
	before, link := sabotage.LostMessages(t, f.node()), f.eth0(t)
	f.deaf.Lock()
	require.NoError(t, f.h.RouteDel(&netlink.Route{Dst: ipNet(f.prefix)})) // for the loop to wake up to, and go deaf
	sabotage.Storm(t, f.node(), link, 0, sabotage.StormSize(), (*nl.Batch).AddRoute)
	id := sabotage.Nexthops(t, f.node())[0].ID
	sabotage.Do(t, f.node(), func(b *nl.Batch) { b.DeleteNexthop(id) })
	require.Greater(t, sabotage.LostMessages(t, f.node()), before, "the storm fits in the socket")
	start := f.now(t)
	f.deaf.Unlock()
	f.requireBack(t, start)

	sabotage.Storm(t, f.node(), link, 0, sabotage.StormSize()/2, (*nl.Batch).DeleteRoute)
	start = f.now(t)
	require.NoError(t, f.h.RouteDel(&netlink.Route{Dst: ipNet(f.prefix)}))
	sabotage.Storm(t, f.node(), link, sabotage.StormSize()/2, sabotage.StormSize(), (*nl.Batch).DeleteRoute)
	f.requireBack(t, start)
}

// renameUnderlay: packets flow by the old Spec, which names an interface that is not there, and so does the new one.
func (f *fire) renameUnderlay(t *testing.T) {
	for _, to := range []string{"uplink0", "eth0"} {
		start := f.now(t)
		sabotage.Rename(t, f.node(), f.specs[0].Tunnels[0].Device, to)
		f.requireReachable(t)
		f.change(&f.specs[0], func(t *ipip.Tunnel) { t.Device = to }, nil)
		require.Eventually(t, func() bool {
			return f.loop.Wait(t.Context(), f.loop.Set(f.specs[0])) == nil
		}, patience, 5*time.Millisecond)
		f.requireBack(t, start)
	}
}

// moveUnderlay gives node 1 other underlay addresses, as a lease of DHCP does, and both nodes the Specs that follow.
func (f *fire) moveUnderlay(t *testing.T) {
	far := sabotage.Keep(t, f.drivers[1], f.specs[1])
	start := f.now(t)
	moved := sabotage.Move(t, f.node())
	f.change(&f.specs[0], func(t *ipip.Tunnel) { t.Local = moved[t.Local] }, nil)
	f.change(&f.specs[1], nil, func(p *ipip.Peer) { p.Underlay = moved[p.Underlay] })
	require.NoError(t, f.loop.Wait(t.Context(), f.loop.Set(f.specs[0])))
	require.NoError(t, far.Wait(t.Context(), far.Set(f.specs[1])))
	f.requireBack(t, start)
	f.requireRepaired(t, 1)
}

// change makes a Spec of its own out of one that a loop has.
func (f *fire) change(spec *ipip.Spec, tunnel func(*ipip.Tunnel), peer func(*ipip.Peer)) {
	spec.Tunnels, spec.Peers = slices.Clone(spec.Tunnels), slices.Clone(spec.Peers)
	for i := range spec.Tunnels {
		if tunnel != nil {
			tunnel(&spec.Tunnels[i])
		}
	}
	for i := range spec.Peers {
		if peer != nil {
			peer(&spec.Peers[i])
		}
	}
}
