package hostgw_test

import (
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
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

// runLoop keeps node number i at its Spec until the test ends.
func (c *cluster) runLoop(t testing.TB, i int) *podweft.Loop[hostgw.Spec] {
	t.Helper()
	return sabotage.Keep(t, c.drivers[i], c.specs[i])
}

// requireRepaired waits until the driver of node number i has nothing to do.
func (c *cluster) requireRepaired(t testing.TB, i int) {
	t.Helper()
	sabotage.RequireRepaired(t, c.drivers[i], c.specs[i])
}

// breakages are what happens to a node's routes behind the driver's back.
var breakages = []struct {
	name string
	do   func(t *testing.T, c *cluster, loop *podweft.Loop[hostgw.Spec])
}{
	{"routes deleted", func(t *testing.T, c *cluster, _ *podweft.Loop[hostgw.Spec]) {
		for _, to := range c.fabric.Nodes[1].Addrs() {
			require.NoError(t, c.handles[0].RouteDel(&netlink.Route{Dst: ipNet(podSubnet(1, to))}))
		}
	}},
	{"underlay down and up", func(t *testing.T, c *cluster, _ *podweft.Loop[hostgw.Spec]) {
		sabotage.Bounce(t, c.fabric.Nodes[0], "eth0")
	}},
	{"underlay address moved away and back", func(t *testing.T, c *cluster, loop *podweft.Loop[hostgw.Spec]) {
		eth0, failing := c.link(t, 0, "eth0"), len(loop.Status().Failing)
		for _, own := range c.fabric.Nodes[0].Addrs() {
			a := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(own, map[bool]int{true: 24, false: 64}[own.Is4()])), Flags: unix.IFA_F_NODAD}
			require.NoError(t, c.handles[0].AddrDel(eth0, a))
			require.Eventually(t, func() bool { return len(loop.Status().Failing) > failing }, patience, time.Millisecond)
			require.NoError(t, c.handles[0].AddrAdd(eth0, a))
			require.Eventually(t, func() bool { return len(loop.Status().Failing) == failing }, patience, time.Millisecond)
		}
	}},
	{"underlay renamed and back", func(t *testing.T, c *cluster, _ *podweft.Loop[hostgw.Spec]) {
		sabotage.Rename(t, c.fabric.Nodes[0], "eth0", "renamed")
		sabotage.Rename(t, c.fabric.Nodes[0], "renamed", "eth0")
	}},
}

// TestRepairBesideFailingPeers breaks what the driver made while ten other peers fail.
func TestRepairBesideFailingPeers(t *testing.T) {
	const failing = 10
	c := newCluster(t, testnet.FabricConfig{})
	for i := range failing {
		c.specs[0].Peers = append(c.specs[0].Peers, peer("failing", fmt.Sprintf("198.51.100.%d", 1+i), fmt.Sprintf("10.244.%d.0/24", 100+i)))
	}
	c.apply1(t)
	loop := c.runLoop(t, 0)
	c.requireRepaired(t, 0)
	for _, b := range breakages {
		t.Run(b.name, func(t *testing.T) {
			b.do(t, c, loop)
			require.Eventually(t, func() bool { return len(loop.Status().Failing) == failing }, patience, time.Millisecond)
			c.requireRepaired(t, 0)
			c.requireReach(t, 0, 1)
		})
	}
}

// apply1 applies the specs of all nodes but the first, which a Loop keeps.
func (c *cluster) apply1(t testing.TB) {
	t.Helper()
	for i := 1; i < len(c.drivers); i++ {
		_, err := c.drivers[i].Apply(t.Context(), c.specs[i])
		require.NoError(t, err)
	}
}

// TestPeerComesOntoTheLink: an address that the underlay interface gets makes a peer reachable that was not.
func TestPeerComesOntoTheLink(t *testing.T) {
	c := newCluster(t, testnet.FabricConfig{V4: netip.MustParsePrefix("192.0.2.0/24")})
	c.addAddress(t, 1, "eth0", netip.MustParsePrefix("198.51.100.2/24"))
	c.specs[0].Peers = []hostgw.Peer{peer("node2", "198.51.100.2", "10.244.2.0/24")}
	c.apply1(t)
	loop := c.runLoop(t, 0)
	require.Len(t, loop.Status().Failing, 1)
	require.ErrorIs(t, loop.Status().Failing[0].Err, hostgw.ErrOffLink)
	c.addAddress(t, 0, "eth0", netip.MustParsePrefix("198.51.100.1/24"))
	require.Eventually(t, func() bool { return len(loop.Status().Failing) == 0 }, patience, time.Millisecond)
	c.requireReach(t, 0, 1)
}

// TestConflictEnds: another program's route that goes away is no reason to wait.
func TestConflictEnds(t *testing.T) {
	c := newCluster(t, testnet.FabricConfig{})
	foreign := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.244.2.0/24")), LinkIndex: c.link(t, 0, "eth0").Attrs().Index, Protocol: unix.RTPROT_STATIC}
	require.NoError(t, c.handles[0].RouteAdd(foreign))
	c.apply1(t)
	loop := c.runLoop(t, 0)
	require.Len(t, loop.Status().Failing, 1)
	require.NoError(t, c.handles[0].RouteDel(foreign))
	require.Eventually(t, func() bool { return len(loop.Status().Failing) == 0 }, patience, time.Millisecond)
	c.requireReach(t, 0, 1)
}

// TestLaterConflictIsNoticed: another program puts its route in front of ours, or in its place, after we made ours.
func TestLaterConflictIsNoticed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		prefix string
		metric int
	}{
		{"IPv4, replaced", "10.244.2.0/24", 0},
		{"IPv6, in front", "fd00:244:0:2::/64", 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, testnet.FabricConfig{})
			loop := c.runLoop(t, 0)
			sabotage.Settle(t, loop)
			require.Empty(t, loop.Status().Failing)
			foreign := &netlink.Route{
				Dst: ipNet(netip.MustParsePrefix(tt.prefix)), Priority: tt.metric, LinkIndex: c.link(t, 0, "eth0").Attrs().Index, Protocol: unix.RTPROT_STATIC,
			}
			require.NoError(t, c.handles[0].RouteReplace(foreign))
			require.Eventually(t, func() bool { return len(loop.Status().Failing) == 1 }, patience, time.Millisecond)
			assert.ErrorIs(t, loop.Status().Failing[0].Err, podweft.ErrConflict)
			require.NoError(t, c.handles[0].RouteDel(foreign))
			require.Eventually(t, func() bool { return len(loop.Status().Failing) == 0 }, patience, time.Millisecond)
			c.requireRepaired(t, 0)
		})
	}
}

// TestDeviceAppears: a Loop may run before its underlay interface is there.
func TestDeviceAppears(t *testing.T) {
	n := testnet.NewNode(t, "n")
	d, err := hostgw.New(hostgw.Config{NetNS: n.NetNS()})
	require.NoError(t, err)
	defer d.Close()
	c := &cluster{fabric: &testnet.Fabric{Nodes: []*testnet.Node{n}}, drivers: []*hostgw.Driver{d}, handles: []*netlink.Handle{handle(t, n)}}
	c.specs = []hostgw.Spec{{Device: "late", Peers: []hostgw.Peer{peer("two", "192.0.2.2", "10.244.2.0/24")}}}
	loop := c.runLoop(t, 0)
	require.Error(t, loop.Status().Last.Err)
	require.NoError(t, c.handles[0].LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "late"}}))
	require.NoError(t, c.handles[0].LinkSetUp(c.link(t, 0, "late")))
	c.addAddress(t, 0, "late", netip.MustParsePrefix("192.0.2.1/24"))
	require.Eventually(t, func() bool { return loop.Status().Last.Err == nil && len(loop.Status().Failing) == 0 }, patience, time.Millisecond)
	c.requireRepaired(t, 0)
	assert.Len(t, c.routes(t, 0, unix.RT_TABLE_MAIN), 1)
}

// TestForeignEventsCauseNoListing is the promise that a node's pod churn costs nothing; and neither do the echoes of what the
// driver writes itself.
func TestForeignEventsCauseNoListing(t *testing.T) {
	c := newCluster(t, testnet.FabricConfig{})
	loop := c.runLoop(t, 0)
	eth0 := c.link(t, 0, "eth0").Attrs().Index
	listings := func() uint64 { return c.drivers[0].Stats().Listings }
	sabotage.RequireStill(t, loop, func() uint64 { return listings() + loop.Status().Passes }, func() {
		for i := range 200 {
			pod := &netlink.Route{Dst: ipNet(netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/32", i))), LinkIndex: eth0}
			require.NoError(t, c.handles[0].RouteAdd(pod))
			require.NoError(t, c.handles[0].RouteDel(pod))
		}
	})

	spec := c.specs[0]
	sabotage.RequireStill(t, loop, listings, func() {
		for i := range 50 {
			spec.Peers = append(slices.Clip(c.specs[0].Peers), peer("moving", fmt.Sprintf("192.0.2.%d", 50+i), "10.244.77.0/24"))
			require.NoError(t, loop.Wait(t.Context(), loop.Set(spec)))
		}
	})
	plan, err := c.drivers[0].Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Empty(t, plan.String())
}

// TestTornDownIsAtRest: with the zero Spec nothing on the node concerns the driver any more.
func TestTornDownIsAtRest(t *testing.T) {
	c := newCluster(t, testnet.FabricConfig{})
	loop := c.runLoop(t, 0)
	require.NoError(t, loop.Wait(t.Context(), loop.Set(hostgw.Spec{})))
	sabotage.Settle(t, loop)
	assert.Empty(t, c.routes(t, 0, unix.RT_TABLE_MAIN))
	sabotage.RequireStill(t, loop, func() uint64 { return loop.Status().Passes }, func() {
		c.addAddress(t, 0, "eth0", netip.MustParsePrefix("203.0.113.1/24"))
		c.addAddress(t, 0, "lo", netip.MustParsePrefix("203.0.113.2/32"))
	})
}
