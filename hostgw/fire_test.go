package hostgw_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

// fire is a node under a running loop, about to be sabotaged.
type fire struct {
	*cluster
	deaf *sabotage.Deaf[hostgw.Spec]
	loop *podweft.Loop[hostgw.Spec]
	peer hostgw.Peer
}

// TestUnderFire breaks each object in each way in every mode, and sees the kernel agree with the Spec and packets flow again.
func TestUnderFire(t *testing.T) {
	for _, mode := range []struct {
		name   string
		fabric testnet.FabricConfig
	}{
		{"IPv4", testnet.FabricConfig{V4: netip.MustParsePrefix(testnet.DefaultV4)}},
		{"IPv6", testnet.FabricConfig{V6: netip.MustParsePrefix(testnet.DefaultV6)}},
		{"dual stack", testnet.FabricConfig{}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			c := newCluster(t, mode.fabric)
			c.apply1(t)
			f := &fire{cluster: c, deaf: &sabotage.Deaf[hostgw.Spec]{Driver: c.drivers[0]}, peer: c.specs[0].Peers[0]}
			f.loop = sabotage.Keep(t, f.deaf, c.specs[0])
			f.requireRepaired(t, 0)
			f.requireReachable(t)
			for _, b := range breakages {
				t.Run(b.name, func(t *testing.T) {
					start := f.now(t)
					b.do(t, f.cluster, f.loop)
					f.requireBack(t, start)
				})
			}
			for _, m := range mishaps {
				t.Run(m.name, func(t *testing.T) { m.do(f, t) })
			}
		})
	}
}

var mishaps = []struct {
	name string
	do   func(f *fire, t *testing.T)
}{
	{"nexthop deleted", func(f *fire, t *testing.T) {
		start := f.now(t)
		f.deleteNexthop(t, f.route(t).Nexthop)
		f.requireBack(t, start)
	}},
	{"nexthop replaced by a foreign one", (*fire).replaceNexthop},
	{"route replaced by a foreign one", (*fire).replaceRoute},
	{"watch overflowed", (*fire).overflow},
	{"underlay renamed", (*fire).renameUnderlay},
	{"underlay address changed", (*fire).moveUnderlay}, // the last: the node stays there
}

// requireBack waits until the kernel agrees with the Spec and packets flow both ways, which must not take long.
func (f *fire) requireBack(t *testing.T, since *sabotage.Stopwatch) {
	t.Helper()
	f.requireRepaired(t, 0)
	f.requireReachable(t)
	since.RequireBack(t)
}

// now is when something breaks.
func (f *fire) now(t *testing.T) *sabotage.Stopwatch {
	t.Helper()
	return sabotage.Start(t, f.node())
}

func (f *fire) node() *testnet.Node { return f.fabric.Nodes[0] }

func (f *fire) eth0(t *testing.T) int { return f.link(t, 0, "eth0").Attrs().Index }

// route is what the kernel has at the peer's prefix.
func (f *fire) route(t *testing.T) nl.Route {
	t.Helper()
	return sabotage.RouteTo(t, f.node(), f.peer.Prefixes[0])
}

func (f *fire) deleteRoute(t *testing.T) {
	t.Helper()
	require.NoError(t, f.handles[0].RouteDel(&vnl.Route{Dst: ipNet(f.peer.Prefixes[0])}))
}

func (f *fire) deleteNexthop(t *testing.T, id uint32) {
	t.Helper()
	sabotage.Do(t, f.node(), func(b *nl.Batch) { b.DeleteNexthop(id) })
}

// replaceNexthop is `ip nexthop replace` by somebody who does not care whose it is: the kernel gives it away with its
// routes. The stranger's stays, and ours moves to another id.
func (f *fire) replaceNexthop(t *testing.T) {
	start := f.now(t)
	raw := f.peer.Underlay.AsSlice()
	raw[len(raw)-1] = 200
	wrong, _ := netip.AddrFromSlice(raw)
	theirs := nl.Nexthop{ID: f.route(t).Nexthop, Protocol: unix.RTPROT_STATIC, Gateway: wrong, Link: f.eth0(t)}
	sabotage.SeizeNexthop(t, f.node(), theirs)
	f.requireBack(t, start)
	assert.Contains(t, sabotage.Nexthops(t, f.node()), theirs, "another program's is not ours to change")
	assert.NotEqual(t, theirs.ID, f.route(t).Nexthop)
	start = f.now(t)
	f.deleteNexthop(t, theirs.ID)
	f.requireBack(t, start)
}

// replaceRoute is `ip route replace` by somebody else, who gets away with it: the conflict is reported. When theirs goes,
// ours is back at once.
func (f *fire) replaceRoute(t *testing.T) {
	theirs := &vnl.Route{
		Dst: ipNet(f.peer.Prefixes[0]), LinkIndex: f.eth0(t), Protocol: unix.RTPROT_STATIC, Priority: int(f.route(t).Metric),
	}
	require.NoError(t, f.handles[0].RouteReplace(theirs))
	require.Eventually(t, func() bool { return len(f.loop.Status().Failing) == 1 }, patience, time.Millisecond)
	assert.ErrorIs(t, f.loop.Status().Failing[0].Err, podweft.ErrConflict)
	assert.EqualValues(t, unix.RTPROT_STATIC, f.route(t).Protocol, "another program's is not ours to change")
	start := f.now(t)
	require.NoError(t, f.handles[0].RouteDel(theirs))
	f.requireBack(t, start)
	require.Eventually(t, func() bool { return len(f.loop.Status().Failing) == 0 }, patience, time.Millisecond)
}

// overflow lets the loop miss a sabotage: the notification is among those that do not fit in the socket, behind 100,000 foreign
// routes. Then the routes go again, in a storm that the loop hears, with another sabotage in it.
func (f *fire) overflow(t *testing.T) {
	foreign := sabotage.StormSize()
	storm := func(from, to int, request func(*nl.Batch, nl.Route)) {
		sabotage.Storm(t, f.node(), f.eth0(t), from, to, request)
	}
	before := sabotage.LostMessages(t, f.node())
	f.deaf.Lock()
	f.deleteRoute(t) // for the loop to wake up to, and go deaf
	storm(0, foreign, (*nl.Batch).AddRoute)
	f.deleteNexthop(t, f.nexthopID(t))
	require.Greater(t, sabotage.LostMessages(t, f.node()), before, "the storm fits in the socket")
	start := f.now(t)
	f.deaf.Unlock()
	f.requireBack(t, start)

	passes := f.loop.Status().Passes
	storm(0, foreign/2, (*nl.Batch).DeleteRoute)
	start = f.now(t)
	f.deleteRoute(t)
	storm(foreign/2, foreign, (*nl.Batch).DeleteRoute)
	f.requireBack(t, start)
	sabotage.Settle(t, f.loop)
	passes = f.loop.Status().Passes - passes
	t.Logf("%d passes while %d foreign routes went", passes, foreign)
	assert.Less(t, passes, uint64(100), "the loop runs in circles")
	start = f.now(t)
	f.deleteRoute(t)
	f.requireBack(t, start)
}

// nexthopID is the id of the object that the peer's gateway has, with a route or without.
func (f *fire) nexthopID(t *testing.T) (id uint32) {
	t.Helper()
	for _, nh := range sabotage.Nexthops(t, f.node()) {
		if nh.Gateway == f.peer.Underlay {
			id = nh.ID
		}
	}
	require.NotZero(t, id)
	return id
}

// renameUnderlay gives the underlay interface another name, and then the Spec, as node finds it out.
func (f *fire) renameUnderlay(t *testing.T) {
	for _, to := range []string{"uplink0", "eth0"} {
		start := f.now(t)
		sabotage.Rename(t, f.node(), f.specs[0].Device, to)
		f.specs[0].Device = to
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
	spec := f.specs[1]
	spec.Peers = slices.Clone(spec.Peers)
	for i, p := range spec.Peers {
		spec.Peers[i].Underlay = moved[p.Underlay]
	}
	f.specs[1] = spec
	require.NoError(t, far.Wait(t.Context(), far.Set(spec)))
	f.requireBack(t, start)
	f.requireRepaired(t, 1)
}
