package vxlan_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// TestDirectRoutingFollowsTheUnderlay: when the node's network gets smaller, so that a peer is beyond a gateway, packets to it take
// the tunnel; when it is as before, they take it no more. Nobody tells the driver but the kernel.
func TestDirectRoutingFollowsTheUnderlay(t *testing.T) {
	t.Parallel()
	for _, family := range []struct {
		name     string
		fabric   testnet.FabricConfig
		network  netip.Prefix
		narrower int // network that the peer is not in
	}{
		{"IPv4", testnet.FabricConfig{V4: netip.MustParsePrefix(testnet.DefaultV4)}, netip.MustParsePrefix(testnet.DefaultV4), 32},
		{"IPv6", testnet.FabricConfig{V6: netip.MustParsePrefix(testnet.DefaultV6)}, netip.MustParsePrefix(testnet.DefaultV6), 128},
	} {
		t.Run(family.name, func(t *testing.T) {
			t.Parallel()
			o := newOverlay(t, family.fabric, func(s *vxlan.Spec) { s.DirectRouting = true })
			o.apply(t)
			sabotage.Keep(t, o.drivers[0], o.specs[0])
			n := o.fabric.Nodes[0]
			h := inNode(t, n)
			eth0, peer, local := linkNamed(t, h, "eth0"), o.specs[0].Peers[0], n.Addrs()[0]
			network := &vnl.Route{Dst: ipNet(family.network), LinkIndex: eth0.Attrs().Index, Protocol: unix.RTPROT_STATIC}
			address := func(bits int) *vnl.Addr {
				return &vnl.Addr{IPNet: ipNet(netip.PrefixFrom(local, bits)), Flags: unix.IFA_F_NODAD}
			}
			// leadsOver waits until the route to the peer's pods leads over the link, and packets flow.
			leadsOver := func(link string) {
				t.Helper()
				index := linkNamed(t, h, link).Attrs().Index
				f := &fire{overlay: o, h: h, peer: peer}
				requireSoon(t, func() bool { return f.routeOf(t).Link == index })
				o.requireRepaired(t, 0)
				o.requireReachable(t)
			}
			leadsOver("eth0")
			for range 2 {
				require.NoError(t, h.AddrDel(eth0, address(family.network.Bits())))
				require.NoError(t, h.AddrAdd(eth0, address(family.narrower)))
				require.NoError(t, h.RouteAdd(network)) // somebody has to say how the peer itself is reached
				leadsOver(vxlan.LinkName(1, local))

				require.NoError(t, h.RouteDel(network))
				require.NoError(t, h.AddrDel(eth0, address(family.narrower)))
				require.NoError(t, h.AddrAdd(eth0, address(family.network.Bits())))
				leadsOver("eth0")
			}
		})
	}
}
