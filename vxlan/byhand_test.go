package vxlan_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/vxlan"
)

// makeByHand does to every node of the overlay what its Spec asks for, as flannel does it with vishvananda/netlink: no driver,
// no nexthop objects, no marks.
func makeByHand(t testing.TB, o *overlay) {
	t.Helper()
	for i, n := range o.fabric.Nodes {
		h := inNode(t, n)
		for _, v := range o.specs[i].VTEPs {
			makeLink(t, h, v)
		}
		for _, p := range o.specs[i].Peers {
			vtep := linkNamed(t, h, vxlan.LinkName(1, p.Underlay))
			for _, prefix := range p.Prefixes {
				require.NoError(t, h.NeighSet(&netlink.Neigh{
					LinkIndex: vtep.Attrs().Index, IP: prefix.Addr().AsSlice(), State: netlink.NUD_PERMANENT, HardwareAddr: hardware(p.MAC),
				}))
				require.NoError(t, h.NeighSet(fdb(vtep, p)))
				require.NoError(t, h.RouteReplace(&netlink.Route{
					LinkIndex: vtep.Attrs().Index, Dst: ipNet(prefix), Gw: prefix.Addr().AsSlice(), Flags: int(netlink.FLAG_ONLINK),
				}))
			}
		}
	}
}

func makeLink(t testing.TB, h *netlink.Handle, v vxlan.VTEP) {
	t.Helper()
	device := linkNamed(t, h, v.Device)
	link := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{
			Name: vxlan.LinkName(v.VNI, v.Local), MTU: device.Attrs().MTU - vxlan.Overhead(v.Local), HardwareAddr: hardware(v.MAC), TxQLen: -1,
		},
		VxlanId: int(v.VNI), VtepDevIndex: device.Attrs().Index, SrcAddr: v.Local.AsSlice(), Port: vxlan.DefaultPort,
	}
	require.NoError(t, h.LinkAdd(link))
	for _, a := range v.Addresses {
		require.NoError(t, h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}))
	}
	require.NoError(t, h.LinkSetUp(link))
}

// withChecksums is how flannel's VTEPs over IPv4 come out: vishvananda/netlink cannot say no to outer checksums, and says
// nothing, which the kernel takes for a yes.
func withChecksums(change func(*vxlan.Spec)) func(*vxlan.Spec) {
	return func(s *vxlan.Spec) {
		if change != nil {
			change(s)
		}
		eachVTEP(s, func(v *vxlan.VTEP) { v.Checksum = true })
	}
}

// TestSameAsByHand compares, attribute by attribute, what the driver makes with what flannel would make: the kernel is to treat
// the packets alike. Nothing may differ but what is left out here: the marks (alias, protocol, nexthop id); for IPv6 the
// gateway, which is the link-local address of the peer's MAC (see the comment in layout.entry); IPv4 checksums of a VTEP over
// IPv6; and NOARP beside PERMANENT in a forwarding entry, which keeps it from ageing, as either does (vxlan_cleanup in
// drivers/net/vxlan/vxlan_core.c).
func TestSameAsByHand(t *testing.T) {
	for _, mode := range modes {
		if mode.direct {
			continue // flannel's direct routes are plain ones; see package hostgw
		}
		t.Run(mode.name, func(t *testing.T) {
			change := withChecksums(mode.change)
			ours, theirs := newOverlay(t, mode.fabric, change), newOverlay(t, mode.fabric, change)
			ours.apply(t)
			makeByHand(t, theirs)
			theirs.requireReachable(t)
			for i := range ours.fabric.Nodes {
				a, b := ours.fabric.Nodes[i], theirs.fabric.Nodes[i]
				want, got := inNode(t, b), inNode(t, a)
				for _, v := range ours.specs[i].VTEPs {
					link := vxlan.LinkName(v.VNI, v.Local)
					assert.Equal(t, linkAttributes(t, want, link), linkAttributes(t, got, link))
					for name := range ethtoolRequests {
						assert.Equal(t, feature(t, b, link, name), feature(t, a, link, name), "%s of %s", name, link)
					}
				}
				for _, p := range ours.specs[i].Peers {
					vtep, theirVTEP := linkNamed(t, got, vxlan.LinkName(1, p.Underlay)), linkNamed(t, want, vxlan.LinkName(1, p.Underlay))
					require.Equal(t, theirVTEP.Attrs().Index, vtep.Attrs().Index, "the rest compares indexes")
					for _, prefix := range p.Prefixes {
						assert.Equal(t, routeAttributes(t, want, prefix), routeAttributes(t, got, prefix))
					}
					assert.Equal(t, entries(t, want, vtep, unix.AF_BRIDGE), entries(t, got, vtep, unix.AF_BRIDGE))
					assert.Equal(t, entries(t, want, vtep, unix.AF_INET), entries(t, got, vtep, unix.AF_INET))
				}
			}
		})
	}
}

// linkAttributes are all that concern packets.
func linkAttributes(t *testing.T, h *netlink.Handle, name string) netlink.Vxlan {
	t.Helper()
	link := *linkNamed(t, h, name).(*netlink.Vxlan)
	link.Alias, link.Statistics = "", nil
	if link.SrcAddr.To4() == nil {
		link.UDPCSum = false
	}
	return link
}

func routeAttributes(t *testing.T, h *netlink.Handle, prefix netip.Prefix) netlink.Route {
	t.Helper()
	found, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Dst: ipNet(prefix), Table: unix.RT_TABLE_MAIN},
		netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	require.NoError(t, err)
	require.Len(t, found, 1)
	r := found[0]
	r.Protocol = 0
	if prefix.Addr().Is6() {
		r.Gw, r.Flags = nil, r.Flags&^int(netlink.FLAG_ONLINK)
	}
	return r
}

// entries are the permanent neighbours (IPv4's) or forwarding entries of the link, as text.
func entries(t *testing.T, h *netlink.Handle, link netlink.Link, family int) string {
	t.Helper()
	all, err := h.NeighList(link.Attrs().Index, family)
	require.NoError(t, err)
	var text []string
	for _, n := range all {
		if n.State&netlink.NUD_PERMANENT != 0 && !n.IP.IsMulticast() {
			text = append(text, fmt.Sprintf("%s state %#x flags %#x", &n, n.State&^netlink.NUD_NOARP, n.Flags))
		}
	}
	return strings.Join(text, "\n")
}
