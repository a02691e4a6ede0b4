package ipip_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/testnet"
)

func TestApplyMakesPacketsFlow(t *testing.T) {
	for _, mode := range []struct {
		name   string
		change func(*ipip.Spec)
	}{
		{"by default", func(*ipip.Spec) {}},
		{"MTU and name", func(s *ipip.Spec) {
			eachTunnel(s, func(t *ipip.Tunnel) { t.MTU, t.Name = 1300, fmt.Sprintf("tunnel%d", t.Local.BitLen()) })
		}},
		{"direct", func(s *ipip.Spec) { s.CrossSubnet = true }},
	} {
		t.Run(mode.name, func(t *testing.T) {
			eachOverlay(t, func(t *testing.T, o *overlay) {
				for i := range o.specs {
					mode.change(&o.specs[i])
				}
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
		})
	}
}

func eachTunnel(s *ipip.Spec, change func(*ipip.Tunnel)) {
	for i := range s.Tunnels {
		change(&s.Tunnels[i])
	}
}

func TestChangesInPlace(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*ipip.Tunnel)
	}{
		{"MTU", func(t *ipip.Tunnel) { t.MTU = 1400 }},
		{"local address", func(t *ipip.Tunnel) { t.Local = another(t.Local) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachOverlay(t, func(t *testing.T, o *overlay) {
				n := o.fabric.Nodes[0]
				h := inNode(t, n)
				for _, a := range n.Addrs() {
					require.NoError(t, h.AddrAdd(linkNamed(t, h, "eth0"), &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(another(a), a.BitLen())), Flags: unix.IFA_F_NODAD}))
				}
				o.apply(t)
				before := indexes(t, n)
				for i := range o.specs { // a Spec that was handed over is not touched any more
					o.specs[i].Tunnels, o.specs[i].Peers = slices.Clone(o.specs[i].Tunnels), slices.Clone(o.specs[i].Peers)
				}
				for i := range o.specs[0].Tunnels {
					tunnel := &o.specs[0].Tunnels[i]
					was := tunnel.Local
					tc.change(tunnel)
					for j, p := range o.specs[1].Peers {
						if p.Underlay == was {
							o.specs[1].Peers[j].Underlay = tunnel.Local
						}
					}
				}
				o.apply(t)
				o.requireReachable(t)
				assert.Equal(t, before, indexes(t, n))
			})
		})
	}
}

// TestAnotherName: the tunnel of the old name has the new one's addresses, or its only place, and must go first.
func TestAnotherName(t *testing.T) {
	eachOverlay(t, func(t *testing.T, o *overlay) {
		o.apply(t)
		spec := o.specs[0]
		spec.Tunnels = slices.Clone(spec.Tunnels)
		eachTunnel(&spec, func(t *ipip.Tunnel) { t.Name = fmt.Sprintf("new%d", t.Local.BitLen()) })
		o.specs[0] = spec
		o.apply(t)
		o.requireReachable(t)
		for _, tunnel := range spec.Tunnels {
			assert.Contains(t, indexes(t, o.fabric.Nodes[0]), tunnel.Name)
			assert.NotContains(t, indexes(t, o.fabric.Nodes[0]), ipip.LinkName(tunnel.Local))
		}
	})
}

// another is a second address of a node: on the same network, .101 or ::101 where the first is .1 or ::1.
func another(a netip.Addr) netip.Addr {
	raw := a.As16()
	raw[15] += 100
	if a.Is4() {
		return netip.AddrFrom16(raw).Unmap()
	}
	return netip.AddrFrom16(raw)
}

func tunnelName(o *overlay, i int) string { return ipip.LinkName(o.specs[i].Tunnels[0].Local) }

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
	eachOverlay(t, func(t *testing.T, o *overlay) {
		h := inNode(t, o.fabric.Nodes[0])
		foreign := &netlink.Route{
			Dst: ipNet(netip.MustParsePrefix("10.244.2.0/24")), LinkIndex: linkNamed(t, h, "eth0").Attrs().Index, Protocol: unix.RTPROT_STATIC,
		}
		require.NoError(t, h.RouteAdd(foreign))
		_, err := o.drivers[0].Apply(t.Context(), o.specs[0])
		require.ErrorIs(t, err, podweft.ErrConflict)
		assert.ErrorContains(t, err, "route 10.244.2.0/24 dev eth0 proto static")
		routes, err := h.RouteListFiltered(unix.AF_INET, &netlink.Route{Dst: foreign.Dst}, netlink.RT_FILTER_DST)
		require.NoError(t, err)
		require.Len(t, routes, 1)
		assert.EqualValues(t, unix.RTPROT_STATIC, routes[0].Protocol)

		require.NoError(t, h.RouteDel(foreign))
		o.apply(t)
		o.requireReachable(t)
	})
}

func TestForeignLinkStaysAndIsNamed(t *testing.T) {
	eachOverlay(t, func(t *testing.T, o *overlay) {
		h := inNode(t, o.fabric.Nodes[0])
		ours := tunnelName(o, 0)
		o.apply(t)
		for _, name := range []string{ours, "theirs"} {
			t.Run(name, func(t *testing.T) {
				_, err := o.drivers[0].Apply(t.Context(), o.specs[0])
				require.NoError(t, err)
				l := linkNamed(t, h, ours) // what we made ourselves, without our mark, is another's
				require.NoError(t, h.LinkSetAlias(l, ""))
				require.NoError(t, h.LinkSetDown(l))
				require.NoError(t, h.LinkSetName(l, name))

				plan, err := o.drivers[0].Plan(t.Context(), o.specs[0])
				require.NoError(t, err)
				assert.NotEmpty(t, plan)
				_, err = o.drivers[0].Apply(t.Context(), o.specs[0])
				require.ErrorIs(t, err, podweft.ErrConflict)
				assert.ErrorContains(t, err, "link "+name)
				_, err = o.drivers[0].Teardown(t.Context())
				require.NoError(t, err)
				after := linkNamed(t, h, name)
				assert.Equal(t, l.Attrs().Index, after.Attrs().Index)
				assert.Empty(t, after.Attrs().Alias)
				require.NoError(t, h.LinkDel(l))
			})
		}
	})
}

// TestTheKernelsOwnLinksStay: those that appear by themselves with the modules, even when they are up or a Spec names them.
func TestTheKernelsOwnLinksStay(t *testing.T) {
	eachOverlay(t, func(t *testing.T, o *overlay) {
		h := inNode(t, o.fabric.Nodes[0])
		kind, _ := kindOf(o.specs[0].Tunnels[0])
		own := map[string]string{"ipip": "tunl0", "ip6tnl": "ip6tnl0"}[kind]
		require.NoError(t, h.LinkSetUp(linkNamed(t, h, own)))
		addrs, err := h.AddrList(linkNamed(t, h, own), unix.AF_INET6)
		require.NoError(t, err)
		for _, a := range addrs { // its route comes some time after the address, as addrconf_dad_work gets to it
			require.Eventually(t, func() bool {
				local := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: &net.IPNet{IP: a.IP, Mask: net.CIDRMask(128, 128)}}
				routes, err := h.RouteListFiltered(unix.AF_INET6, local, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
				return err == nil && len(routes) > 0
			}, patience, time.Millisecond)
		}
		before := everything(t, h)
		o.apply(t)
		o.requireReachable(t)
		_, err = o.drivers[0].Teardown(t.Context())
		require.NoError(t, err)
		assert.Equal(t, before, everything(t, h))

		spec := o.specs[0]
		spec.Tunnels = slices.Clone(spec.Tunnels[:1])
		spec.Tunnels[0].Name, spec.Peers = own, nil
		_, err = o.drivers[0].Apply(t.Context(), spec)
		require.ErrorIs(t, err, podweft.ErrConflict)
		assert.Equal(t, before, everything(t, h))
	})
}

func TestTeardownLeavesNothingOfOursAndAllOfOthers(t *testing.T) {
	eachOverlay(t, func(t *testing.T, o *overlay) {
		n := o.fabric.Nodes[0]
		h := inNode(t, n)
		require.NoError(t, h.RouteAdd(&netlink.Route{
			Dst: ipNet(netip.MustParsePrefix("10.99.0.0/16")), LinkIndex: linkNamed(t, h, "eth0").Attrs().Index, Protocol: 199,
		}))
		before := everything(t, h)
		o.apply(t)
		require.NotEqual(t, before, everything(t, h))
		_, err := o.drivers[0].Teardown(t.Context())
		require.NoError(t, err)
		assert.Equal(t, before, everything(t, h))
	})
}

// everything is what a node's kernel holds that the driver writes: links, addresses, routes in all tables.
func everything(t testing.TB, h *netlink.Handle) []string {
	t.Helper()
	var all []string
	for _, l := range complete(t, h.LinkList) {
		all = append(all, fmt.Sprintf("link %s %s %s mtu %d", l.Attrs().Name, l.Type(), l.Attrs().Alias, l.Attrs().MTU))
		for _, a := range complete(t, func() ([]netlink.Addr, error) { return h.AddrList(l, netlink.FAMILY_ALL) }) {
			all = append(all, a.String())
		}
	}
	routes := complete(t, func() ([]netlink.Route, error) {
		return h.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	})
	for _, r := range routes {
		all = append(all, r.String())
	}
	return all
}

// complete lists until the list did not change while the kernel gave it.
func complete[T any](t testing.TB, list func() ([]T, error)) []T {
	t.Helper()
	for {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			require.NoError(t, err)
			return all
		}
	}
}

// TestOwners: two instances have two addresses of the node, since nothing else in their packets tells them apart. Over IPv6 there is
// room for one.
func TestOwners(t *testing.T) {
	eachOverlay(t, func(t *testing.T, o *overlay) {
		o.apply(t)
		n := o.fabric.Nodes[0]
		blue := newDriver(t, n, "blue")
		spec := o.specs[0]
		spec.Table = 77 // for overlapping prefixes
		spec.Tunnels = slices.Clone(spec.Tunnels)
		eachTunnel(&spec, func(t *ipip.Tunnel) { t.Name, t.Addresses = fmt.Sprintf("blue%d", t.Local.BitLen()), nil })
		_, err := blue.Apply(t.Context(), spec)
		require.ErrorIs(t, err, podweft.ErrConflict)
		assert.ErrorContains(t, err, "link "+tunnelName(o, 0)+" type ")

		if !n.V4.IsValid() {
			return
		}
		h := inNode(t, n)
		require.NoError(t, h.AddrAdd(linkNamed(t, h, "eth0"), &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(another(n.V4), 32))}))
		spec.Tunnels = spec.Tunnels[:1]
		spec.Tunnels[0].Local = another(n.V4)
		spec.Peers = slices.DeleteFunc(slices.Clone(spec.Peers), func(p ipip.Peer) bool { return p.Underlay.Is6() })
		for range 2 {
			_, err := blue.Apply(t.Context(), spec)
			require.NoError(t, err)
			plan, err := o.drivers[0].Apply(t.Context(), o.specs[0])
			require.NoError(t, err)
			assert.Empty(t, plan.String())
			plan, err = blue.Plan(t.Context(), spec)
			require.NoError(t, err)
			assert.Empty(t, plan.String())
		}
		o.requireReachable(t)
		_, err = blue.Teardown(t.Context())
		require.NoError(t, err)
		plan, err := o.drivers[0].Plan(t.Context(), o.specs[0])
		require.NoError(t, err)
		assert.Empty(t, plan.String())
	})
}

func TestInvalidSpecChangesNothing(t *testing.T) {
	o := newOverlay(t, scenarios[0])
	h := inNode(t, o.fabric.Nodes[0])
	before := everything(t, h)
	bad := o.specs[0]
	bad.Peers = append([]ipip.Peer{{Node: "bad", Underlay: netip.MustParseAddr("224.0.0.1")}}, bad.Peers...)
	_, err := o.drivers[0].Apply(t.Context(), bad)
	require.ErrorIs(t, err, podweft.ErrInvalid)
	_, err = o.drivers[0].Plan(t.Context(), bad)
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.Equal(t, before, everything(t, h))
}

func TestMissingUnderlayIsOneClearError(t *testing.T) {
	d := newDriver(t, testnet.NewNode(t, "lonely"), "")
	_, err := d.Apply(t.Context(), ipip.Spec{Tunnels: []ipip.Tunnel{{Device: "eth7", Local: netip.MustParseAddr("192.0.2.1")}}})
	assert.EqualError(t, err, "create link flannel.ipip type ipip dev eth7: find link eth7: no such link")
}

// TestDirectPeersNeedNoTunnel: where the tunnel cannot be made, for whatever reason, peers on the link are reached all the same.
func TestDirectPeersNeedNoTunnel(t *testing.T) {
	o := newOverlay(t, scenarios[0])
	for i, n := range o.fabric.Nodes {
		h := inNode(t, n)
		require.NoError(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: tunnelName(o, i)}})) // another program's
		for _, a := range o.specs[i].Tunnels[0].Addresses {
			require.NoError(t, h.AddrAdd(linkNamed(t, h, "lo"), &netlink.Addr{IPNet: ipNet(a)}))
		}
		o.specs[i].CrossSubnet = true
		o.specs[i].Peers = append(o.specs[i].Peers, ipip.Peer{
			Node: "far", Underlay: netip.MustParseAddr("198.51.100.9"), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")},
		})
		_, err := o.drivers[i].Apply(t.Context(), o.specs[i])
		require.ErrorIs(t, err, podweft.ErrConflict)
		assert.EqualError(t, err, `create link flannel.ipip type ipip local `+n.V4.String()+` dev eth0 mtu 1480: `+
			`another program's object is in the way: link flannel.ipip, of kind "bridge", alias ""`)
	}
	o.requireReachable(t)
}
