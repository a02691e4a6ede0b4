package ipip_test

import (
	"net/netip"
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

// TestUnderFire does what TestRepair leaves out: what other programs do to routes and nexthop objects, and news that get lost.
func TestUnderFire(t *testing.T) {
	eachOverlay(t, func(t *testing.T, o *overlay) {
		o.apply(t)
		f := &fire{
			overlay: o, h: inNode(t, o.fabric.Nodes[0]), deaf: &sabotage.Deaf[ipip.Spec]{Driver: o.drivers[0]},
			prefix: o.specs[0].Peers[0].Prefixes[0],
		}
		f.loop = sabotage.Keep(t, f.deaf, o.specs[0])
		f.requireBack(t)
		t.Run("nexthop replaced by a foreign one", f.replaceNexthop)
		t.Run("route replaced by a foreign one", f.replaceRoute)
		t.Run("watch overflowed", f.overflow)
	})
}

func (f *fire) requireBack(t *testing.T) {
	t.Helper()
	f.requireRepaired(t, 0)
	f.requireReachable(t)
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
	sabotage.SeizeNexthop(t, f.node(), theirs)
	f.requireBack(t)
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
	require.NoError(t, f.h.RouteDel(theirs))
	f.requireBack(t)
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
	f.deaf.Unlock()
	f.requireBack(t)
	sabotage.Storm(t, f.node(), link, 0, sabotage.StormSize(), (*nl.Batch).DeleteRoute)
	f.requireBack(t)
}
