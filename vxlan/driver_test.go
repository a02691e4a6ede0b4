package vxlan_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

func TestApplyMakesPacketsFlow(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")
	for _, tc := range []struct {
		name   string
		fabric testnet.FabricConfig
		change func(*vxlan.Spec)
	}{
		{"dual stack", testnet.FabricConfig{Nodes: 3}, nil},
		{"IPv4 underlay", testnet.FabricConfig{V4: v4}, nil},
		{"IPv6 underlay", testnet.FabricConfig{V6: v6}, nil},
		{"IPv6 pods over IPv4", testnet.FabricConfig{V4: v4}, carryBoth},
		{"IPv4 pods over IPv6", testnet.FabricConfig{V6: v6}, carryBoth},
		{"two blocks behind a node", testnet.FabricConfig{}, addBlocks},
		{"GBP", testnet.FabricConfig{}, func(s *vxlan.Spec) { eachVTEP(s, func(v *vxlan.VTEP) { v.GBP = true }) }},
		{"learning", testnet.FabricConfig{}, func(s *vxlan.Spec) { eachVTEP(s, func(v *vxlan.VTEP) { v.Learning = true }) }},
		{"checksums", testnet.FabricConfig{}, func(s *vxlan.Spec) { eachVTEP(s, func(v *vxlan.VTEP) { v.Checksum = true }) }},
		{"port, VNI, MTU and name", testnet.FabricConfig{}, func(s *vxlan.Spec) {
			eachVTEP(s, func(v *vxlan.VTEP) {
				v.Port, v.VNI, v.MTU, v.Name = 4789, 70000, 1300, fmt.Sprintf("vx%d", v.Local.BitLen())
			})
		}},
		{"direct routing", testnet.FabricConfig{}, func(s *vxlan.Spec) { s.DirectRouting = true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			o := newOverlay(t, tc.fabric, tc.change)
			o.apply(t)
			o.requireReachable(t)
			for i, d := range o.drivers {
				plan, err := d.Plan(t.Context(), o.specs[i])
				require.NoError(t, err)
				assert.Empty(t, plan.String(), "Plan after Apply")
				plan, err = d.Apply(t.Context(), o.specs[i])
				require.NoError(t, err)
				assert.Empty(t, plan.String(), "second Apply")
			}
		})
	}
}

func eachVTEP(s *vxlan.Spec, change func(*vxlan.VTEP)) {
	for i := range s.VTEPs {
		change(&s.VTEPs[i])
	}
}

// carryBoth gives every subnet a twin of the other family over the same VTEP.
func carryBoth(s *vxlan.Spec) {
	twin := func(p netip.Prefix, bits int) netip.Prefix {
		if p.Addr().Is4() {
			n := p.Addr().As4()[2]
			return netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fd00:244:0:%x::", n)), bits)
		}
		n := p.Addr().As16()[7]
		return netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("10.244.%d.0", n)), bits)
	}
	length := func(p netip.Prefix, v4, v6 int) int {
		if p.Addr().Is4() {
			return v6
		}
		return v4
	}
	eachVTEP(s, func(v *vxlan.VTEP) {
		v.Addresses = append(v.Addresses, twin(v.Addresses[0], length(v.Addresses[0], 32, 128)))
	})
	for i := range s.Peers {
		p := &s.Peers[i]
		p.Prefixes = append(p.Prefixes, twin(p.Prefixes[0], length(p.Prefixes[0], 24, 64)))
	}
}

// addBlocks gives every node another subnet of each family.
func addBlocks(s *vxlan.Spec) {
	another := func(p netip.Prefix) netip.Prefix {
		a, last := p.Addr().AsSlice(), 7 // of the bytes of a /64
		if p.Addr().Is4() {
			last = 2 // of a /24
		}
		a[last] |= 0x80
		addr, _ := netip.AddrFromSlice(a)
		return netip.PrefixFrom(addr, p.Bits())
	}
	eachVTEP(s, func(v *vxlan.VTEP) { v.Addresses = append(v.Addresses, another(v.Addresses[0])) })
	for i := range s.Peers {
		p := &s.Peers[i]
		p.Prefixes = append(p.Prefixes, another(p.Prefixes[0]))
	}
}

func TestChangesInPlaceAndAnew(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(*vxlan.VTEP)
		anew   bool
	}{
		{"MTU", func(v *vxlan.VTEP) { v.MTU = 1400 }, false},
		{"MAC", func(v *vxlan.VTEP) { v.MAC[5] ^= 0x40 }, false},
		{"learning", func(v *vxlan.VTEP) { v.Learning = true }, false},
		{"port", func(v *vxlan.VTEP) { v.Port = 4789 }, true},
		{"GBP", func(v *vxlan.VTEP) { v.GBP = true }, true},
		{"VNI", func(v *vxlan.VTEP) { v.VNI, v.Name = 2, vxlan.LinkName(1, v.Local) }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			o := newOverlay(t, testnet.FabricConfig{}, nil)
			o.apply(t)
			before := indexes(t, o.fabric.Nodes[0])
			for i := range o.specs {
				o.specs[i].VTEPs, o.specs[i].Peers = slices.Clone(o.specs[i].VTEPs), slices.Clone(o.specs[i].Peers)
				eachVTEP(&o.specs[i], tc.change)
				for j := range o.specs[i].Peers {
					v := vxlan.VTEP{MAC: o.specs[i].Peers[j].MAC}
					tc.change(&v)
					o.specs[i].Peers[j].MAC = v.MAC
				}
			}
			o.apply(t)
			o.requireReachable(t)
			if tc.anew {
				assert.NotEqual(t, before, indexes(t, o.fabric.Nodes[0]))
			} else {
				assert.Equal(t, before, indexes(t, o.fabric.Nodes[0]))
			}
		})
	}
}

func indexes(t testing.TB, n *testnet.Node) map[string]int {
	t.Helper()
	links, err := n.Links()
	require.NoError(t, err)
	found := map[string]int{}
	for _, l := range links {
		found[l.Name] = l.Index
	}
	return found
}

func TestForeignRouteStaysAndIsNamed(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	h := inNode(t, o.fabric.Nodes[0])
	eth0 := linkNamed(t, h, "eth0")
	foreign := &netlink.Route{Dst: ipNet(podSubnet(1, o.fabric.Nodes[0].V4)), LinkIndex: eth0.Attrs().Index, Protocol: unix.RTPROT_STATIC}
	require.NoError(t, h.RouteAdd(foreign))
	plan, err := o.drivers[0].Plan(t.Context(), o.specs[0])
	require.NoError(t, err)
	require.ErrorIs(t, plan.Err(), podweft.ErrConflict)

	_, err = o.drivers[0].Apply(t.Context(), o.specs[0])
	require.ErrorIs(t, err, podweft.ErrConflict)
	var failed *podweft.OpError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, "route 10.244.2.0/24", failed.Object.ID())
	assert.ErrorContains(t, err, "route 10.244.2.0/24 dev eth0 proto static")
	routes, err := h.RouteListFiltered(unix.AF_INET, &netlink.Route{Dst: foreign.Dst}, netlink.RT_FILTER_DST)
	require.NoError(t, err)
	require.Len(t, routes, 1)
	assert.EqualValues(t, unix.RTPROT_STATIC, routes[0].Protocol)

	loop := o.runLoop(t, 0)
	require.Len(t, loop.Status().Failing, 1)
	require.NoError(t, h.RouteDel(foreign))
	require.Eventually(t, func() bool { return len(loop.Status().Failing) == 0 }, patience, time.Millisecond,
		"a conflict that ends is no reason to wait")
	_, err = o.drivers[1].Apply(t.Context(), o.specs[1])
	require.NoError(t, err)
	o.requireReachable(t)
}

func TestForeignLinkStaysAndIsNamed(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{V4: netip.MustParsePrefix("192.0.2.0/24")}, nil)
	h := inNode(t, o.fabric.Nodes[0])
	for _, tc := range []struct{ name, link string }{
		{"of our name", "flannel.1"}, {"of our VNI and port", "theirs"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			theirs := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: tc.link}, VxlanId: 1, Port: 8472, SrcAddr: o.fabric.Nodes[0].V4.AsSlice()}
			require.NoError(t, h.LinkAdd(theirs))
			before := linkNamed(t, h, tc.link).Attrs().Index
			_, err := o.drivers[0].Apply(t.Context(), o.specs[0])
			require.ErrorIs(t, err, podweft.ErrConflict)
			assert.ErrorContains(t, err, "link "+tc.link)
			_, err = o.drivers[0].Teardown(t.Context())
			require.NoError(t, err)
			assert.Equal(t, before, linkNamed(t, h, tc.link).Attrs().Index)
			require.NoError(t, h.LinkDel(theirs))
		})
	}
}

// TestGBPHasItsOwnPort: VTEPs of several drivers share a port where they agree on GBP. Where they do not, the kernel refuses the one
// that comes later, and we name the other. The families do not mind each other.
func TestGBPHasItsOwnPort(t *testing.T) {
	t.Parallel()
	for _, fabric := range []testnet.FabricConfig{
		{Nodes: 1, V4: netip.MustParsePrefix(testnet.DefaultV4)}, {Nodes: 1, V6: netip.MustParsePrefix(testnet.DefaultV6)}, {Nodes: 1},
	} {
		o := newOverlay(t, fabric, nil)
		n := o.fabric.Nodes[0]
		o.apply(t)
		d, err := vxlan.New(vxlan.Config{Owner: "gbp", NetNS: n.NetNS()})
		require.NoError(t, err)
		defer d.Close()
		with := func(change func(*vxlan.VTEP)) vxlan.Spec {
			spec := vxlan.Spec{VTEPs: slices.Clone(o.specs[0].VTEPs)}
			eachVTEP(&spec, func(v *vxlan.VTEP) { v.VNI, v.Addresses = 2, nil })
			eachVTEP(&spec, change)
			return spec
		}
		for _, tc := range []struct {
			name     string
			spec     vxlan.Spec
			conflict bool
		}{
			{"neither", with(func(*vxlan.VTEP) {}), false},
			{"GBP on the same port", with(func(v *vxlan.VTEP) { v.GBP = true }), true},
			{"GBP on another port", with(func(v *vxlan.VTEP) { v.GBP, v.Port = true, 4790 }), false},
		} {
			t.Run(fmt.Sprintf("%s, %v", tc.name, n.Addrs()), func(t *testing.T) {
				for range 2 { // a link that cannot be brought up stays, down
					_, err := d.Apply(t.Context(), tc.spec)
					if !tc.conflict {
						require.NoError(t, err)
						continue
					}
					require.ErrorIs(t, err, podweft.ErrConflict)
					require.ErrorIs(t, err, unix.EADDRINUSE)
					for _, v := range o.specs[0].VTEPs {
						assert.ErrorContains(t, err, "update link "+vxlan.LinkName(2, v.Local))
						assert.ErrorContains(t, err, "link "+vxlan.LinkName(1, v.Local)+" type vxlan id 1")
					}
				}
			})
		}
		plan, err := o.drivers[0].Plan(t.Context(), o.specs[0])
		require.NoError(t, err)
		assert.Empty(t, plan.String(), "ours was not touched")
	}
}

func TestTeardownLeavesNothingOfOursAndAllOfOthers(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	n := o.fabric.Nodes[0]
	h := inNode(t, n)
	before := everything(t, h)
	foreign := vxlan.Spec{VTEPs: o.specs[0].VTEPs[:1:1]}
	foreign.VTEPs = append([]vxlan.VTEP(nil), foreign.VTEPs...)
	foreign.VTEPs[0].VNI = 9
	theirs, err := vxlan.New(vxlan.Config{Owner: "theirs", NetNS: n.NetNS()})
	require.NoError(t, err)
	defer theirs.Close()
	_, err = theirs.Apply(t.Context(), foreign)
	require.NoError(t, err)
	withTheirs := everything(t, h)

	o.apply(t)
	require.NotEqual(t, withTheirs, everything(t, h))
	_, err = o.drivers[0].Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, withTheirs, everything(t, h))
	plan, err := theirs.Plan(t.Context(), foreign)
	require.NoError(t, err)
	assert.Empty(t, plan.String())
	_, err = theirs.Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, before, everything(t, h))
}

// everything is what a node's kernel holds that drivers write: links, addresses, routes, neighbours that do not come and go.
func everything(t testing.TB, h *netlink.Handle) []string {
	t.Helper()
	var all []string
	links, err := h.LinkList()
	require.NoError(t, err)
	for _, l := range links {
		all = append(all, fmt.Sprintf("link %s %s", l.Attrs().Name, l.Attrs().Alias))
	}
	routes, err := h.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	require.NoError(t, err)
	for _, r := range routes {
		all = append(all, r.String())
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_BRIDGE} {
		neighbors, err := h.NeighList(0, family)
		require.NoError(t, err)
		for _, n := range neighbors {
			if n.State&netlink.NUD_PERMANENT != 0 {
				all = append(all, n.String())
			}
		}
	}
	return all
}

func TestOwnersDoNotSweepEachOther(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	o.apply(t)
	var blue []*vxlan.Driver
	specs := make([]vxlan.Spec, len(o.specs))
	for i, n := range o.fabric.Nodes {
		d, err := vxlan.New(vxlan.Config{Owner: "blue", NetNS: n.NetNS()})
		require.NoError(t, err)
		defer d.Close()
		blue = append(blue, d)
		specs[i] = vxlan.Spec{Table: 77}
		for _, v := range o.specs[i].VTEPs {
			v.VNI, v.Addresses = 77, nil
			specs[i].VTEPs = append(specs[i].VTEPs, v)
		}
		specs[i].Peers = o.specs[i].Peers // overlapping prefixes, in a table of their own
	}
	for range 2 {
		for i, d := range blue {
			_, err := d.Apply(t.Context(), specs[i])
			require.NoError(t, err)
			plan, err := o.drivers[i].Apply(t.Context(), o.specs[i])
			require.NoError(t, err)
			assert.Empty(t, plan.String())
			plan, err = d.Plan(t.Context(), specs[i])
			require.NoError(t, err)
			assert.Empty(t, plan.String())
		}
	}
	o.requireReachable(t)
	for i, d := range blue {
		_, err := d.Teardown(t.Context())
		require.NoError(t, err)
		plan, err := o.drivers[i].Plan(t.Context(), o.specs[i])
		require.NoError(t, err)
		assert.Empty(t, plan.String())
	}
}

func TestInvalidSpecChangesNothing(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	o.apply(t)
	bad := o.specs[0]
	bad.Peers = append([]vxlan.Peer{{Node: "bad", Underlay: netip.MustParseAddr("224.0.0.1")}}, bad.Peers...)
	_, err := o.drivers[0].Apply(t.Context(), bad)
	require.ErrorIs(t, err, podweft.ErrInvalid)
	plan, err := o.drivers[0].Plan(t.Context(), o.specs[0])
	require.NoError(t, err)
	assert.Empty(t, plan.String())
}

func TestMissingUnderlayIsOneClearError(t *testing.T) {
	n := testnet.NewNode(t, "lonely")
	d := newDriver(t, n)
	spec := vxlan.Spec{VTEPs: []vxlan.VTEP{{
		VNI: 1, Device: "eth7", Local: netip.MustParseAddr("192.0.2.1"), MAC: podweft.MAC{0x0e, 1},
	}}}
	_, err := d.Apply(t.Context(), spec)
	var failed *podweft.OpError
	require.True(t, errors.As(err, &failed))
	assert.EqualError(t, err, "create link flannel.1 type vxlan dev eth7: find link eth7: no such link")
}

// TestForeignEventsCauseNoListing is the promise that a node's pod churn costs nothing.
func TestForeignEventsCauseNoListing(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	h := inNode(t, o.fabric.Nodes[0])
	loop := o.runLoop(t, 0)
	eth0 := linkNamed(t, h, "eth0").Attrs().Index
	count := func() uint64 { return o.drivers[0].Stats().Listings + loop.Status().Passes }
	sabotage.RequireStill(t, loop, count, func() {
		for i := range 1000 {
			a := netip.AddrFrom4([4]byte{198, 51, 100, byte(i % 250)})
			pod := &netlink.Route{Dst: ipNet(netip.PrefixFrom(a, 32)), LinkIndex: eth0}
			require.NoError(t, h.RouteReplace(pod))
			require.NoError(t, h.NeighSet(&netlink.Neigh{
				LinkIndex: eth0, IP: a.AsSlice(), State: netlink.NUD_REACHABLE, HardwareAddr: hardware(podweft.MAC{2, 0, 0, 0, 0, byte(i)}),
			}))
			require.NoError(t, h.RouteDel(pod))
		}
	})
}

// TestOwnWritesCauseNoListing: one changed peer costs its own entries, and its echoes nothing.
func TestOwnWritesCauseNoListing(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	loop := o.runLoop(t, 0)
	var spec vxlan.Spec
	sabotage.RequireStill(t, loop, func() uint64 { return o.drivers[0].Stats().Listings }, func() {
		for i := range 50 {
			spec = o.specs[0]
			spec.Peers = append(slices.Clone(spec.Peers), vxlan.Peer{
				Node: "moving", MAC: podweft.MAC{0x0e, 5, 0, 0, 0, byte(i)}, Underlay: netip.AddrFrom4([4]byte{192, 0, 2, byte(50 + i)}),
				Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.77.0/24")},
			})
			require.NoError(t, loop.Wait(t.Context(), loop.Set(spec)))
		}
	})
	plan, err := o.drivers[0].Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Empty(t, plan.String(), "no stale entry of the peer that moved")
}
