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

// TestUnderFire does what TestRepair leaves out: what other programs do, and what befalls the underlay.
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
			f.requireBack(t, time.Now())
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
	{"route deleted", func(f *fire, t *testing.T) {
		start := time.Now()
		f.deleteRoute(t)
		f.requireBack(t, start)
	}},
	{"nexthop deleted", func(f *fire, t *testing.T) {
		start := time.Now()
		f.deleteNexthop(t, f.route(t).Nexthop)
		f.requireBack(t, start)
	}},
	{"nexthop replaced by a foreign one", (*fire).replaceNexthop},
	{"route replaced by a foreign one", (*fire).replaceRoute},
	{"watch overflowed", (*fire).overflow},
	{"underlay renamed", (*fire).renameUnderlay},
	{"underlay address changed", (*fire).moveUnderlay}, // the last: the node stays there
}

// requireBack waits until the kernel agrees with the Spec and packets flow both ways, and says how long that took.
func (f *fire) requireBack(t *testing.T, since time.Time) {
	t.Helper()
	f.requireRepaired(t, 0)
	f.requireReachable(t)
	t.Logf("traffic was back after %v", time.Since(since).Round(time.Millisecond))
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
	start := time.Now()
	raw := f.peer.Underlay.AsSlice()
	raw[len(raw)-1] = 200
	wrong, _ := netip.AddrFromSlice(raw)
	theirs := nl.Nexthop{ID: f.route(t).Nexthop, Protocol: unix.RTPROT_STATIC, Gateway: wrong, Link: f.eth0(t)}
	sabotage.SeizeNexthop(t, f.node(), theirs)
	f.requireBack(t, start)
	assert.Contains(t, sabotage.Nexthops(t, f.node()), theirs, "another program's is not ours to change")
	assert.NotEqual(t, theirs.ID, f.route(t).Nexthop)
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
	start := time.Now()
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
	start := time.Now()
	f.deaf.Unlock()
	f.requireBack(t, start)

	passes := f.loop.Status().Passes
	start = time.Now()
	storm(0, foreign/2, (*nl.Batch).DeleteRoute)
	f.deleteRoute(t)
	storm(foreign/2, foreign, (*nl.Batch).DeleteRoute)
	f.requireBack(t, start)
	sabotage.Settle(t, f.loop)
	passes = f.loop.Status().Passes - passes
	t.Logf("%d passes while %d foreign routes went", passes, foreign)
	assert.Less(t, passes, uint64(100), "the loop runs in circles")
	start = time.Now()
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
	v6, err := f.handles[0].AddrList(f.link(t, 0, "eth0"), unix.AF_INET6)
	require.NoError(t, err)
	rename := func(from, to string) {
		l := f.link(t, 0, from)
		require.NoError(t, f.handles[0].LinkSetDown(l)) // kernels before 6.2 demand it
		require.NoError(t, f.handles[0].LinkSetName(l, to))
		require.NoError(t, f.handles[0].LinkSetUp(l))
		for _, a := range v6 { // they went with the link
			require.NoError(t, f.handles[0].AddrReplace(l, &vnl.Addr{IPNet: a.IPNet, Flags: unix.IFA_F_NODAD}))
		}
	}
	for _, to := range []string{"uplink0", "eth0"} {
		start := time.Now()
		rename(f.specs[0].Device, to)
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
	moved := map[netip.Addr]netip.Addr{}
	eth0 := f.link(t, 0, "eth0")
	start := time.Now()
	for _, old := range f.fabric.Nodes[0].Addrs() {
		bits := map[bool]int{true: 24, false: 64}[old.Is4()]
		raw := old.AsSlice()
		raw[len(raw)-1] = 77
		to, _ := netip.AddrFromSlice(raw)
		moved[old] = to
		require.NoError(t, f.handles[0].AddrDel(eth0, &vnl.Addr{IPNet: ipNet(netip.PrefixFrom(old, bits))}))
		f.addAddress(t, 0, "eth0", netip.PrefixFrom(to, bits))
	}
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
