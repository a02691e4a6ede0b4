package ipip_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/testnet"
)

// TestPods: packets of exactly the tunnel's MTU pass from pod to pod, and those of one byte more are answered as a router should.
func TestPods(t *testing.T) {
	eachOverlay(t, func(t *testing.T, o *overlay) {
		o.apply(t)
		from, _ := o.newPod(t, 0)
		_, addrs := o.newPod(t, 1)
		for prefix, to := range addrs {
			mtu := linkNamed(t, inNode(t, o.fabric.Nodes[0]), ipip.LinkName(o.underlayOf(1, prefix))).Attrs().MTU
			require.NoError(t, sabotage.Reach(t.Context(), from, to, testnet.Echo{}))
			for size, want := range map[int]error{mtu: nil, mtu + 1: unix.EMSGSIZE} {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				_, err := from.Echo(ctx, to, testnet.Echo{Size: size, DontFragment: true})
				cancel()
				assert.ErrorIs(t, err, want, "%d bytes to %s", size, to)
			}
		}
	})
}

// underlayOf is the address of node number i that leads to prefix.
func (o *overlay) underlayOf(i int, prefix netip.Prefix) netip.Addr {
	for to, prefixes := range o.podSubnets(i) {
		for _, p := range prefixes {
			if p == prefix {
				return to
			}
		}
	}
	return netip.Addr{}
}

// newPod plugs a pod into node number i, which becomes its router, and returns its address in each of the node's subnets.
func (o *overlay) newPod(t testing.TB, i int) (*testnet.Node, map[netip.Prefix]netip.Addr) {
	t.Helper()
	n, pod := o.fabric.Nodes[i], testnet.NewNode(t, "pod")
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		require.NoError(t, sysctl.Ensure(n.NetNS(), key, "1"))
	}
	inside, outside := inNode(t, pod), inNode(t, n)
	require.NoError(t, outside.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pod"}, PeerName: "eth0", PeerNamespace: nsOf(t, pod)}))
	addrs := map[netip.Prefix]netip.Addr{}
	var routes []*netlink.Route
	for _, prefixes := range o.podSubnets(i) {
		for _, prefix := range prefixes {
			gateway := prefix.Addr().Next()
			addrs[prefix] = gateway.Next()
			for h, a := range map[*netlink.Handle]netip.Addr{inside: addrs[prefix], outside: gateway} {
				name := map[*netlink.Handle]string{inside: "eth0", outside: "pod"}[h]
				require.NoError(t, h.AddrAdd(linkNamed(t, h, name), &netlink.Addr{
					IPNet: ipNet(netip.PrefixFrom(a, prefix.Bits())), Flags: unix.IFA_F_NODAD,
				}))
			}
			routes = append(routes, &netlink.Route{
				LinkIndex: linkNamed(t, inside, "eth0").Attrs().Index, Gw: gateway.AsSlice(), Dst: ipNet(netip.PrefixFrom(prefix.Addr(), 0).Masked()),
			})
		}
	}
	require.NoError(t, outside.LinkSetUp(linkNamed(t, outside, "pod")))
	require.NoError(t, inside.LinkSetUp(linkNamed(t, inside, "eth0")))
	for _, r := range routes {
		require.NoError(t, inside.RouteAdd(r))
	}
	return pod, addrs
}

// TestCrossSubnet: of two peers, the one behind a router is reached through the tunnel and the other without.
func TestCrossSubnet(t *testing.T) {
	for _, s := range scenarios {
		s.fabric.Nodes = 3
		t.Run(s.name, func(t *testing.T) {
			o := newOverlay(t, s)
			o.moveBehindRouter(t, 2)
			for i := range o.specs {
				o.specs[i] = o.handMade(i)
				o.specs[i].CrossSubnet = true
			}
			if !o.supported(t) {
				return
			}
			o.apply(t)
			o.requireReachable(t)
			for j, wrapped := range map[int]bool{1: false, 2: true} {
				for _, to := range o.targets(j) {
					c, err := o.fabric.Nodes[0].Capture("eth0")
					require.NoError(t, err)
					require.NoError(t, sabotage.Reach(t.Context(), o.fabric.Nodes[0], to, testnet.Echo{}))
					n, err := c.Count(func(p testnet.Packet) bool { return p.Sent && tunneled(p.Frame) })
					require.NoError(t, err)
					require.NoError(t, c.Close())
					otherFamily := to.Is4() && !o.fabric.Nodes[j].V4.IsValid() // which no gateway of the underlay leads to
					assert.Equal(t, wrapped || otherFamily, n > 0, "node1 to %s: %d packets in packets", to, n)
				}
			}
		})
	}
}

// tunneled reports whether an Ethernet frame has an IP packet in an IP packet.
func tunneled(frame []byte) bool {
	const ipv4, ipv6, header = 0x0800, 0x86dd, 14
	protocol := byte(0)
	switch kind := int(frame[12])<<8 | int(frame[13]); kind {
	case ipv4:
		protocol = frame[header+9]
	case ipv6:
		protocol = frame[header+6]
	}
	return protocol == unix.IPPROTO_IPIP || protocol == unix.IPPROTO_IPV6
}

// moveBehindRouter gives node number i addresses on another network, and makes the switch the router between the two.
func (o *overlay) moveBehindRouter(t testing.TB, i int) {
	t.Helper()
	router := inNode(t, o.fabric.Switch)
	// A router asks for its neighbours from a link-local address (ndisc_send_ns in net/ipv6/ndisc.c).
	require.NoError(t, router.AddrAdd(linkNamed(t, router, "br0"), &netlink.Addr{
		IPNet: ipNet(netip.MustParsePrefix("fe80::ff/64")), Flags: unix.IFA_F_NODAD,
	}))
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		require.NoError(t, sysctl.Ensure(o.fabric.Switch.NetNS(), key, "1"))
	}
	moved := o.fabric.Nodes[i]
	for _, move := range []struct {
		at       *netip.Addr
		from, to netip.Prefix
	}{
		{&moved.V4, underlay4, netip.MustParsePrefix("198.51.100.0/24")},
		{&moved.V6, underlay6, netip.MustParsePrefix("2001:db8:1::/64")},
	} {
		if !move.at.IsValid() {
			continue
		}
		was := netip.PrefixFrom(*move.at, move.from.Bits())
		*move.at = another(move.to.Addr())
		h := inNode(t, moved)
		eth0 := linkNamed(t, h, "eth0")
		require.NoError(t, h.AddrDel(eth0, &netlink.Addr{IPNet: ipNet(was)}))
		require.NoError(t, h.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(*move.at, move.to.Bits())), Flags: unix.IFA_F_NODAD}))
		for _, side := range []netip.Prefix{move.from, move.to} {
			require.NoError(t, router.AddrAdd(linkNamed(t, router, "br0"), &netlink.Addr{
				IPNet: ipNet(netip.PrefixFrom(routerOn(side), side.Bits())), Flags: unix.IFA_F_NODAD,
			}))
		}
		for j, n := range o.fabric.Nodes {
			here, there := move.from, move.to
			if j == i {
				here, there = there, here
			}
			h := inNode(t, n)
			require.NoError(t, h.RouteAdd(&netlink.Route{
				LinkIndex: linkNamed(t, h, "eth0").Attrs().Index, Dst: ipNet(there), Gw: routerOn(here).AsSlice(),
			}))
		}
	}
}

// routerOn is the router's address on a network: .200 or ::200 of it.
func routerOn(p netip.Prefix) netip.Addr { return another(another(p.Addr())) }

func nsOf(t testing.TB, n *testnet.Node) netlink.NsFd {
	t.Helper()
	fd, err := unix.Open(n.NetNS(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return netlink.NsFd(fd)
}

// TestOuterSource: outer packets come from Local, also where the kernel would choose another of the node's addresses.
func TestOuterSource(t *testing.T) {
	eachOverlay(t, func(t *testing.T, o *overlay) {
		h := inNode(t, o.fabric.Nodes[0])
		for i, tunnel := range o.specs[0].Tunnels {
			local := another(tunnel.Local)
			require.NoError(t, h.AddrAdd(linkNamed(t, h, "lo"), &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(local, local.BitLen())), Flags: unix.IFA_F_NODAD}))
			for j, p := range o.specs[1].Peers {
				if p.Underlay == tunnel.Local {
					o.specs[1].Peers[j].Underlay = local
				}
			}
			o.specs[0].Tunnels[i].Local = local
			h := inNode(t, o.fabric.Nodes[1])
			require.NoError(t, h.RouteAdd(&netlink.Route{
				LinkIndex: linkNamed(t, h, "eth0").Attrs().Index, Gw: tunnel.Local.AsSlice(), Dst: ipNet(netip.PrefixFrom(local, local.BitLen())),
			}))
		}
		o.apply(t)
		c, err := o.fabric.Nodes[0].Capture("eth0")
		require.NoError(t, err)
		defer c.Close()
		o.requireReachable(t)
		right, wrong := 0, 0
		_, err = c.Count(func(p testnet.Packet) bool {
			switch {
			case !p.Sent || !tunneled(p.Frame):
			case o.fromLocal(p.Frame):
				right++
			default:
				wrong++
			}
			return false
		})
		require.NoError(t, err)
		assert.GreaterOrEqual(t, right, 2*len(o.targets(1)), "a request and an answer to each")
		assert.Zero(t, wrong)
	})
}

// fromLocal reports whether the frame's source is the Local of one of node 1's tunnels.
func (o *overlay) fromLocal(frame []byte) bool {
	for _, tunnel := range o.specs[0].Tunnels {
		at := map[bool]int{true: 14 + 12, false: 14 + 8}[tunnel.Local.Is4()]
		raw := tunnel.Local.AsSlice()
		if string(frame[at:at+len(raw)]) == string(raw) {
			return true
		}
	}
	return false
}
