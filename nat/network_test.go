package nat_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

// cluster is two nodes with a pod each, routed to one another, and a machine outside that knows the nodes only. Pods have
// addresses in 10.244.N.0/24 and fd00:244:0:N::/64, N being the node's number.
type cluster struct {
	fabric *testnet.Fabric
	pods   []*testnet.Node // V4 and V6 are set
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{fabric: testnet.NewFabric(t, testnet.FabricConfig{Outside: true})}
	for i, node := range c.fabric.Nodes {
		pod := testnet.NewNode(t, fmt.Sprintf("pod%d", i+1))
		require.NoError(t, node.Do(func() error { return set("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1", noDAD) }))
		require.NoError(t, pod.Do(func() error { return set(noDAD) }))
		c.pods = append(c.pods, pod)
		attach(t, node, pod, i+1)
	}
	for i, node := range c.fabric.Nodes {
		other := c.fabric.Nodes[1-i]
		configure(t, node, func(h *netlink.Handle) {
			route(t, h, fmt.Sprintf("10.244.%d.0/24", 2-i), other.V4)
			route(t, h, fmt.Sprintf("fd00:244:0:%d::/64", 2-i), other.V6)
		})
	}
	return c
}

// spec is what the i-th node wants.
func (c *cluster) spec(i int) nat.Spec {
	return nat.Spec{
		Masquerade: prefixes(fmt.Sprintf("10.244.%d.0/24", i+1), fmt.Sprintf("fd00:244:0:%d::/64", i+1)),
		Exempt:     prefixes("10.244.0.0/16", "fd00:244::/48"),
	}
}

// noDAD makes the link-local addresses of links to come usable at once: without one there is no neighbour discovery.
const noDAD = "net/ipv6/conf/default/accept_dad=0"

func set(sysctls ...string) error {
	for _, s := range sysctls {
		key, value, _ := strings.Cut(s, "=")
		if err := sysctl.EnsureHere(key, value); err != nil {
			return err
		}
	}
	return nil
}

func configure(t testing.TB, n *testnet.Node, fn func(h *netlink.Handle)) {
	t.Helper()
	var h *netlink.Handle
	require.NoError(t, n.Do(func() (err error) {
		h, err = netlink.NewHandle()
		return err
	}))
	defer h.Close()
	fn(h)
}

// attach makes a link between node and pod, with the n-th network's first two addresses at its ends.
func attach(t testing.TB, node, pod *testnet.Node, n int) {
	t.Helper()
	inside, err := os.Open(pod.NetNS())
	require.NoError(t, err)
	defer inside.Close()
	gateways := []string{fmt.Sprintf("10.244.%d.1/24", n), fmt.Sprintf("fd00:244:0:%d::1/64", n)}
	addresses := []string{fmt.Sprintf("10.244.%d.2/24", n), fmt.Sprintf("fd00:244:0:%d::2/64", n)}
	configure(t, node, func(h *netlink.Handle) {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "pod", TxQLen: -1}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(inside.Fd())),
		}
		require.NoError(t, h.LinkAdd(veth))
		setUp(t, h, "pod", gateways)
	})
	configure(t, pod, func(h *netlink.Handle) {
		setUp(t, h, "eth0", addresses)
		route(t, h, "0.0.0.0/0", netip.MustParsePrefix(gateways[0]).Addr())
		route(t, h, "::/0", netip.MustParsePrefix(gateways[1]).Addr())
	})
	pod.V4, pod.V6 = netip.MustParsePrefix(addresses[0]).Addr(), netip.MustParsePrefix(addresses[1]).Addr()
}

func setUp(t testing.TB, h *netlink.Handle, link string, addresses []string) {
	t.Helper()
	l, err := h.LinkByName(link)
	require.NoError(t, err)
	for _, text := range addresses {
		a, err := netlink.ParseAddr(text)
		require.NoError(t, err)
		a.Flags = 0x2 // IFA_F_NODAD: usable at once
		require.NoError(t, h.AddrAdd(l, a))
	}
	require.NoError(t, h.LinkSetUp(l))
}

func route(t testing.TB, h *netlink.Handle, dst string, via netip.Addr) {
	t.Helper()
	_, to, err := net.ParseCIDR(dst)
	require.NoError(t, err)
	require.NoError(t, h.RouteAdd(&netlink.Route{Dst: to, Gw: via.AsSlice()}), dst)
}
