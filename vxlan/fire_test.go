package vxlan_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// modes are the ways in which a VXLAN network can be laid out.
var modes = []struct {
	name   string
	fabric testnet.FabricConfig
	change func(*vxlan.Spec)
	direct bool // packets to peers take no tunnel
}{
	{name: "over IPv4", fabric: testnet.FabricConfig{V4: netip.MustParsePrefix(testnet.DefaultV4)}},
	{name: "over IPv6", fabric: testnet.FabricConfig{V6: netip.MustParsePrefix(testnet.DefaultV6)}},
	{name: "dual stack"},
	{name: "both families over IPv4", fabric: testnet.FabricConfig{V4: netip.MustParsePrefix(testnet.DefaultV4)}, change: carryBoth},
	{name: "direct routing", change: func(s *vxlan.Spec) { s.DirectRouting = true }, direct: true},
}

// fire is a node under a running loop, about to be sabotaged.
type fire struct {
	*overlay
	loop *podweft.Loop[vxlan.Spec]
	h    *vnl.Handle // in node 1
	peer vxlan.Peer
	deaf *sabotage.Deaf[vxlan.Spec]
}

func (f *fire) node() *testnet.Node { return f.fabric.Nodes[0] }

func (f *fire) vtep(t testing.TB) vnl.Link {
	return linkNamed(t, f.h, vxlan.LinkName(1, f.peer.Underlay))
}

func lightFire(t *testing.T, fabric testnet.FabricConfig, change func(*vxlan.Spec)) *fire {
	t.Helper()
	o := newOverlay(t, fabric, change)
	o.apply(t)
	f := &fire{overlay: o, h: inNode(t, o.fabric.Nodes[0]), peer: o.specs[0].Peers[0], deaf: &sabotage.Deaf[vxlan.Spec]{Driver: o.drivers[0]}}
	f.loop = sabotage.Keep(t, f.deaf, o.specs[0])
	o.requireRepaired(t, 0)
	o.requireReachable(t)
	return f
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

// TestUnderFire breaks each object in each way in every mode, and sees the kernel agree with the Spec and packets flow again.
func TestUnderFire(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			f := lightFire(t, mode.fabric, mode.change)
			for _, b := range breakages {
				if mode.direct && (strings.HasPrefix(b.name, "neighbour ") || strings.HasPrefix(b.name, "fdb ")) {
					continue // there are none
				}
				t.Run(b.name, func(t *testing.T) {
					start := f.now(t)
					b.do(t, f.h, f.vtep(t), f.peer)
					f.requireBack(t, start)
				})
			}
			for _, m := range mishaps {
				t.Run(m.name, func(t *testing.T) { m.do(f, t) })
			}
		})
	}
}

// mishaps are breakages that are more than one request.
var mishaps = []struct {
	name string
	do   func(f *fire, t *testing.T)
}{
	{"nexthop deleted", func(f *fire, t *testing.T) {
		start, id := f.now(t), f.nexthop(t).ID
		sabotage.Do(t, f.node(), func(b *nl.Batch) { b.DeleteNexthop(id) })
		f.requireBack(t, start)
	}},
	{"nexthop replaced by a foreign one", (*fire).replaceNexthop},
	{"foreign address added", func(f *fire, t *testing.T) {
		start := f.now(t)
		require.NoError(t, f.h.AddrAdd(f.vtep(t), &vnl.Addr{IPNet: ipNet(netip.MustParsePrefix("198.51.100.1/32"))}))
		f.requireBack(t, start)
	}},
	{"route replaced by a foreign one", (*fire).replaceRoute},
	{"link taken over by another program", (*fire).takeLink},
	{"watch overflowed", (*fire).overflow},
	{"underlay renamed", (*fire).renameUnderlay},
	{"underlay address changed", (*fire).moveUnderlay}, // the last: the node stays there
}

// nexthop is the nexthop object of the peer's first route.
func (f *fire) nexthop(t testing.TB) nl.Nexthop {
	t.Helper()
	all := sabotage.Nexthops(t, f.node())
	at := slices.IndexFunc(all, func(nh nl.Nexthop) bool { return nh.ID == f.routeOf(t).Nexthop })
	require.GreaterOrEqual(t, at, 0)
	return all[at]
}

// routeOf is what the kernel has at the peer's first prefix.
func (f *fire) routeOf(t testing.TB) nl.Route {
	t.Helper()
	return sabotage.RouteTo(t, f.node(), f.peer.Prefixes[0])
}

// replaceNexthop is `ip nexthop replace` by somebody who does not care whose it is: the kernel gives it away with its
// routes. The stranger's stays, and ours moves to another id.
func (f *fire) replaceNexthop(t *testing.T) {
	start := f.now(t)
	lost := f.nexthop(t)
	theirs := nl.Nexthop{ID: lost.ID, Protocol: unix.RTPROT_STATIC, Gateway: other(f.peer.Underlay), Link: linkNamed(t, f.h, "eth0").Attrs().Index}
	sabotage.SeizeNexthop(t, f.node(), theirs)
	f.requireBack(t, start)
	assert.Contains(t, sabotage.Nexthops(t, f.node()), theirs, "another program's is not ours to change")
	assert.NotEqual(t, theirs.ID, f.routeOf(t).Nexthop)
	start = f.now(t)
	sabotage.Do(t, f.node(), func(b *nl.Batch) { b.DeleteNexthop(theirs.ID) })
	f.requireBack(t, start)
}

// replaceRoute is `ip route replace` by somebody else, who gets away with it: the conflict is reported. When theirs goes,
// ours is back at once.
func (f *fire) replaceRoute(t *testing.T) {
	theirs := &vnl.Route{
		Dst: ipNet(f.peer.Prefixes[0]), LinkIndex: linkNamed(t, f.h, "eth0").Attrs().Index,
		Protocol: unix.RTPROT_STATIC, Priority: int(f.routeOf(t).Metric),
	}
	require.NoError(t, f.h.RouteReplace(theirs))
	f.requireConflict(t, "route "+f.peer.Prefixes[0].String())
	assert.EqualValues(t, unix.RTPROT_STATIC, f.routeOf(t).Protocol, "another program's is not ours to change")
	start := f.now(t)
	require.NoError(t, f.h.RouteDel(theirs))
	f.requireBack(t, start)
	f.requireNothingFails(t)
}

// takeLink has another program put its name on the VTEP. It stays as it is, until the other deletes it.
func (f *fire) takeLink(t *testing.T) {
	taken := f.vtep(t)
	require.NoError(t, f.h.LinkSetAlias(taken, "theirs"))
	f.requireConflict(t, "link "+taken.Attrs().Name)
	assert.Equal(t, taken.Attrs().Index, f.vtep(t).Attrs().Index)
	start := f.now(t)
	require.NoError(t, f.h.LinkDel(taken))
	f.requireBack(t, start)
	f.requireNothingFails(t)
}

func (f *fire) requireConflict(t *testing.T, id string) {
	t.Helper()
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(f.loop.Status().Failing, func(failing podweft.Failure) bool {
			return strings.HasPrefix(failing.ID, id)
		})
	}, patience, time.Millisecond)
	for _, failing := range f.loop.Status().Failing {
		assert.ErrorIs(t, failing.Err, podweft.ErrConflict)
	}
}

func (f *fire) requireNothingFails(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return len(f.loop.Status().Failing) == 0 }, patience, time.Millisecond)
}

// overflow lets the loop miss a sabotage: the notification is among those that do not fit in the socket, behind 100,000 foreign
// routes. Then the routes go again, in a storm that the loop hears, with another sabotage in it.
func (f *fire) overflow(t *testing.T) {
	foreign, eth0 := sabotage.StormSize(), linkNamed(t, f.h, "eth0").Attrs().Index
	cut := func() { require.NoError(t, f.h.RouteDel(&vnl.Route{Dst: ipNet(f.peer.Prefixes[0])})) }
	before := sabotage.LostMessages(t, f.node())
	f.deaf.Lock()
	require.NoError(t, f.h.LinkSetMTU(f.vtep(t), 1400)) // for the loop to wake up to, and go deaf
	sabotage.Storm(t, f.node(), eth0, 0, foreign, (*nl.Batch).AddRoute)
	cut()
	require.Greater(t, sabotage.LostMessages(t, f.node()), before, "the storm fits in the socket")
	start := f.now(t)
	f.deaf.Unlock()
	f.requireBack(t, start)

	passes := f.loop.Status().Passes
	sabotage.Storm(t, f.node(), eth0, 0, foreign/2, (*nl.Batch).DeleteRoute)
	start = f.now(t)
	cut()
	sabotage.Storm(t, f.node(), eth0, foreign/2, foreign, (*nl.Batch).DeleteRoute)
	f.requireBack(t, start)
	sabotage.Settle(t, f.loop)
	passes = f.loop.Status().Passes - passes
	t.Logf("%d passes while %d foreign routes went", passes, foreign)
	assert.Less(t, passes, uint64(100), "the loop runs in circles")
	start = f.now(t)
	cut()
	f.requireBack(t, start)
}

// renameUnderlay gives the underlay interface another name, which is found out by node; until then packets flow by the old
// Spec, which names an interface that is not there. The VTEP stays the same throughout.
func (f *fire) renameUnderlay(t *testing.T) {
	before := f.vtep(t).Attrs().Index
	follow := func(device string) {
		spec := f.specs[0]
		spec.VTEPs = slices.Clone(spec.VTEPs)
		eachVTEP(&spec, func(v *vxlan.VTEP) { v.Device = device })
		f.specs[0] = spec
		// More than once: what a pass tried while the interface was down stays held back until the loop hears that it is up.
		require.Eventually(t, func() bool { return f.loop.Wait(t.Context(), f.loop.Set(spec)) == nil }, patience, time.Millisecond)
	}
	start := f.now(t)
	sabotage.Rename(t, f.node(), "eth0", "uplink0")
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(f.loop.Status().Failing, func(failing podweft.Failure) bool { return errors.Is(failing.Err, nl.ErrNoLink) })
	}, patience, time.Millisecond)
	f.requireBack(t, start)
	start = f.now(t)
	follow("uplink0")
	f.requireBack(t, start)
	f.requireNothingFails(t)
	start = f.now(t)
	sabotage.Rename(t, f.node(), "uplink0", "eth0")
	follow("eth0")
	f.requireBack(t, start)
	assert.Equal(t, before, f.vtep(t).Attrs().Index)
}

// moveUnderlay gives node 1 other underlay addresses, as a lease of DHCP does, and both nodes the Specs that follow.
func (f *fire) moveUnderlay(t *testing.T) {
	before := f.vtep(t).Attrs().Index
	far := sabotage.Keep(t, f.drivers[1], f.specs[1])
	start := f.now(t)
	moved := sabotage.Move(t, f.node())
	for i := range f.specs {
		spec := f.specs[i]
		spec.VTEPs, spec.Peers = slices.Clone(spec.VTEPs), slices.Clone(spec.Peers)
		for j := range spec.VTEPs {
			spec.VTEPs[j].Local = movedTo(moved, spec.VTEPs[j].Local)
		}
		for j := range spec.Peers {
			spec.Peers[j].Underlay = movedTo(moved, spec.Peers[j].Underlay)
		}
		f.specs[i] = spec
	}
	require.NoError(t, f.loop.Wait(t.Context(), f.loop.Set(f.specs[0])))
	require.NoError(t, far.Wait(t.Context(), far.Set(f.specs[1])))
	f.requireBack(t, start)
	f.requireRepaired(t, 1)
	assert.Equal(t, before, f.vtep(t).Attrs().Index, "changed in place")
}

func movedTo(moved map[netip.Addr]netip.Addr, a netip.Addr) netip.Addr {
	if to, ok := moved[a]; ok {
		return to
	}
	return a
}
