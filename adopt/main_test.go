package adopt_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/adopt"
	"github.com/podweft/podweft/internal/xtables"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// snapshot has a network of both families and a lease for each subnet, with the address that its packets are sent to.
func snapshot(t testing.TB, leases map[string]netip.Addr) *subnet.Snapshot {
	t.Helper()
	n, err := subnet.ParseNetwork([]byte(`{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:244::/48","Backend":{"Type":"vxlan"}}`))
	require.NoError(t, err)
	snap := &subnet.Snapshot{Network: n}
	for text, underlay := range leases {
		l := &subnet.Lease{Key: text, Node: text, Underlay: subnet.Addrs{V4: underlay}}
		if p := netip.MustParsePrefix(text); p.Addr().Is4() {
			l.Prefixes.V4 = p
		} else {
			l.Prefixes.V6 = p
		}
		snap.Leases = append(snap.Leases, l)
	}
	return snap
}

func newFlannel(t testing.TB, n *testnet.Node) *adopt.Flannel {
	t.Helper()
	f, err := adopt.NewFlannel(adopt.Config{NetNS: n.NetNS()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

// host is a machine with an interface eth0.
func host(t testing.TB) (*testnet.Node, *netlink.Handle) {
	t.Helper()
	n := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1, Outside: true}).Nodes[0]
	var h *netlink.Handle
	require.NoError(t, n.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}))
	t.Cleanup(h.Close)
	return n, h
}

// vtep makes a VXLAN link.
func vtep(t testing.TB, h *netlink.Handle, name string, vni int, local netip.Addr) netlink.Link {
	t.Helper()
	l := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: name}, VxlanId: vni, SrcAddr: local.AsSlice(), Port: 8472}
	require.NoError(t, h.LinkAdd(l))
	require.NoError(t, h.LinkSetUp(l))
	return l
}

// route adds a route to a subnet by a link or a gateway, with a metric or without.
func route(t testing.TB, h *netlink.Handle, subnet, via string, l netlink.Link, metric int) {
	t.Helper()
	dst, err := netlink.ParseIPNet(subnet)
	require.NoError(t, err)
	r := &netlink.Route{Dst: dst, Priority: metric, LinkIndex: l.Attrs().Index, Gw: netip.MustParseAddr(via).AsSlice()}
	r.SetFlag(unix.RTNH_F_ONLINK)
	require.NoError(t, h.RouteAdd(r), subnet)
}

// way is the metric of the route that packets to an address take, and its link; -1 for none but the default.
func way(t testing.TB, h *netlink.Handle, to string) (metric int, link string) {
	t.Helper()
	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	require.NoError(t, err)
	metric = -1
	for _, r := range routes {
		if r.Dst != nil && r.Dst.IP.String() == to && (metric < 0 || r.Priority < metric) {
			l, err := h.LinkByIndex(r.LinkIndex)
			require.NoError(t, err)
			metric, link = r.Priority, l.Attrs().Name
		}
	}
	return metric, link
}

func run(t testing.TB, n *testnet.Node, command string) string {
	t.Helper()
	words := xtables.Words(command)
	out, err := n.Command(t.Context(), words[0], words[1:]...).CombinedOutput()
	require.NoError(t, err, "%s: %s", command, out)
	return string(out)
}
