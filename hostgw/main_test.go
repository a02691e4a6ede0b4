package hostgw_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

const patience = sabotage.Patience

// cluster is a host-gw network over a testnet fabric, its Specs written by hand: node i (from 1) has the pod subnets
// 10.244.i.0/24 and fd00:244:0:i::/64, and one address of each on its lo, for a pod.
type cluster struct {
	fabric  *testnet.Fabric
	drivers []*hostgw.Driver
	specs   []hostgw.Spec
	handles []*netlink.Handle // what a person would do in the node with ip
}

func newCluster(t testing.TB, cfg testnet.FabricConfig) *cluster {
	t.Helper()
	c := &cluster{fabric: testnet.NewFabric(t, cfg)}
	for i, n := range c.fabric.Nodes {
		d, err := hostgw.New(hostgw.Config{NetNS: n.NetNS()})
		require.NoError(t, err)
		t.Cleanup(func() { d.Close() })
		c.drivers = append(c.drivers, d)
		c.specs = append(c.specs, c.handMade(i))
		c.handles = append(c.handles, handle(t, n))
		for _, pod := range c.pods(i) {
			c.addAddress(t, i, "lo", netip.PrefixFrom(pod, pod.BitLen()))
		}
	}
	return c
}

func (c *cluster) handMade(own int) hostgw.Spec {
	spec := hostgw.Spec{Device: "eth0"}
	for i, n := range c.fabric.Nodes {
		for _, to := range n.Addrs() {
			if i != own {
				spec.Peers = append(spec.Peers, hostgw.Peer{Node: n.Name, Underlay: to, Prefixes: []netip.Prefix{podSubnet(i, to)}})
			}
		}
	}
	return spec
}

// podSubnet is that of node number i, from 0, in the family of a.
func podSubnet(i int, a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i+1))
	}
	return netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%x::/64", i+1))
}

// pods are the pod addresses of node number i.
func (c *cluster) pods(i int) []netip.Addr {
	var all []netip.Addr
	for _, a := range c.fabric.Nodes[i].Addrs() {
		all = append(all, podSubnet(i, a).Addr().Next())
	}
	return all
}

func (c *cluster) apply(t testing.TB) {
	t.Helper()
	for i, d := range c.drivers {
		_, err := d.Apply(t.Context(), c.specs[i])
		require.NoError(t, err, c.fabric.Nodes[i].Name)
	}
}

// requireReachable pings every pod from every other of its family.
func (c *cluster) requireReachable(t testing.TB) {
	t.Helper()
	for i := range c.fabric.Nodes {
		for j := range c.fabric.Nodes {
			if i != j {
				c.requireReach(t, i, j)
			}
		}
	}
}

func (c *cluster) requireReach(t testing.TB, i, j int) {
	t.Helper()
	for k, to := range c.pods(j) {
		require.NoError(t, sabotage.Reach(t.Context(), c.fabric.Nodes[i], to, testnet.Echo{From: c.pods(i)[k]}), "%s to %s", c.pods(i)[k], to)
	}
}

func handle(t testing.TB, n *testnet.Node) *netlink.Handle {
	t.Helper()
	var h *netlink.Handle
	require.NoError(t, n.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}))
	t.Cleanup(h.Close)
	return h
}

func (c *cluster) link(t testing.TB, i int, name string) netlink.Link {
	t.Helper()
	l, err := c.handles[i].LinkByName(name)
	require.NoError(t, err)
	return l
}

func (c *cluster) addAddress(t testing.TB, i int, link string, p netip.Prefix) {
	t.Helper()
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	require.NoError(t, c.handles[i].AddrReplace(c.link(t, i, link), a))
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// routes are the routes of node number i in a table, as text, but for those that the kernel makes by itself.
func (c *cluster) routes(t testing.TB, i, table int) []string {
	t.Helper()
	list, err := c.handles[i].RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	require.NoError(t, err)
	var all []string
	for _, r := range list {
		if r.Protocol != unix.RTPROT_KERNEL {
			all = append(all, fmt.Sprintf("%s via %s metric %d", r.Dst, r.Gw, r.Priority))
		}
	}
	return all
}
