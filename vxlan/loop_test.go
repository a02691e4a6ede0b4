package vxlan_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// runLoop keeps node number i at its Spec until the test ends.
func (o *overlay) runLoop(t testing.TB, i int) *podweft.Loop[vxlan.Spec] {
	t.Helper()
	return sabotage.Keep(t, o.drivers[i], o.specs[i])
}

// inNode opens netlink in a node, for what a person would do there with ip and bridge.
func inNode(t testing.TB, n *testnet.Node) *netlink.Handle {
	t.Helper()
	var h *netlink.Handle
	require.NoError(t, n.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}))
	t.Cleanup(h.Close)
	return h
}

func linkNamed(t testing.TB, h *netlink.Handle, name string) netlink.Link {
	t.Helper()
	l, err := h.LinkByName(name)
	require.NoError(t, err)
	return l
}

const patience = sabotage.Patience

// requireSoon waits until something is so. It asks in the test's own goroutine, where a question may end the test.
func requireSoon(t testing.TB, so func() bool) {
	t.Helper()
	for start := time.Now(); !so(); time.Sleep(200 * time.Microsecond) {
		require.Less(t, time.Since(start), patience)
	}
}

// requireRepaired waits until the driver of node number i has nothing to do.
func (o *overlay) requireRepaired(t testing.TB, i int) {
	t.Helper()
	sabotage.RequireRepaired(t, o.drivers[i], o.specs[i])
}

func hardware(m podweft.MAC) net.HardwareAddr { return m[:] }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// breakages are what happens to a node's entries behind the driver's back.
var breakages = []struct {
	name string
	do   func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer)
}{
	{"route deleted", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		require.NoError(t, h.RouteDel(&netlink.Route{Dst: ipNet(p.Prefixes[0])}))
	}},
	{"neighbour deleted", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		require.NoError(t, h.NeighDel(&netlink.Neigh{LinkIndex: vtep.Attrs().Index, IP: gateway(p).AsSlice()}))
	}},
	{"neighbour changed", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		require.NoError(t, h.NeighSet(&netlink.Neigh{
			LinkIndex: vtep.Attrs().Index, IP: gateway(p).AsSlice(), State: netlink.NUD_PERMANENT,
			HardwareAddr: hardware(podweft.MAC{2, 2, 2, 2, 2, 2}),
		}))
	}},
	{"neighbour made temporary", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		require.NoError(t, h.NeighSet(&netlink.Neigh{
			LinkIndex: vtep.Attrs().Index, IP: gateway(p).AsSlice(), State: netlink.NUD_STALE, HardwareAddr: hardware(p.MAC),
		}))
	}},
	{"fdb deleted", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		require.NoError(t, h.NeighDel(fdb(vtep, p)))
	}},
	{"fdb changed", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		e := fdb(vtep, p)
		e.IP = other(p.Underlay).AsSlice()
		require.NoError(t, h.NeighSet(e))
	}},
	{"fdb sent to another VNI", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		e := fdb(vtep, p)
		e.VNI = 99
		require.NoError(t, h.NeighSet(e))
	}},
	{"foreign entries added", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		e := fdb(vtep, p)
		e.HardwareAddr = hardware(podweft.MAC{2, 2, 2, 2, 2, 3})
		require.NoError(t, h.NeighSet(e))
		require.NoError(t, h.NeighSet(&netlink.Neigh{
			LinkIndex: vtep.Attrs().Index, IP: other(gateway(p)).AsSlice(), State: netlink.NUD_PERMANENT, HardwareAddr: e.HardwareAddr,
		}))
	}},
	{"address deleted", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		addrs, err := h.AddrList(vtep, netlink.FAMILY_ALL)
		require.NoError(t, err)
		require.NotEmpty(t, addrs)
		require.NoError(t, h.AddrDel(vtep, &addrs[0]))
	}},
	{"MAC changed", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		require.NoError(t, h.LinkSetHardwareAddr(vtep, hardware(podweft.MAC{2, 2, 2, 2, 2, 4})))
	}},
	{"MTU changed", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		require.NoError(t, h.LinkSetMTU(vtep, 1400))
	}},
	{"replaced by one of another port", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		again := *vtep.(*netlink.Vxlan)
		again.Index, again.Port = 0, 4789
		require.NoError(t, h.LinkDel(vtep))
		err := h.LinkAdd(&again) // before the driver has put its own back, or not at all
		if err == nil {
			require.NoError(t, h.LinkSetAlias(&again, vtep.Attrs().Alias))
		}
	}},
	{"link down", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		require.NoError(t, h.LinkSetDown(vtep))
	}},
	{"link down and up", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		require.NoError(t, h.LinkSetDown(vtep))
		require.NoError(t, h.LinkSetUp(vtep))
	}},
	{"link deleted", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		require.NoError(t, h.LinkDel(vtep))
	}},
	{"link renamed", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		requireSoon(t, func() bool { // kernels before 6.2 demand a link that is down, and the loop is fast
			require.NoError(t, h.LinkSetDown(vtep))
			return h.LinkSetName(vtep, "renamed") == nil
		})
	}},
	{"underlay down and up", func(t testing.TB, h *netlink.Handle, vtep netlink.Link, p vxlan.Peer) {
		eth0 := linkNamed(t, h, "eth0")
		require.NoError(t, h.LinkSetDown(eth0))
		require.NoError(t, h.LinkSetUp(eth0))
		// Taking a link down deletes its IPv6 addresses; whoever configures the host puts them back.
		require.NoError(t, h.AddrReplace(eth0, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("2001:db8::1/64")), Flags: unix.IFA_F_NODAD}))
	}},
}

func fdb(vtep netlink.Link, p vxlan.Peer) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: vtep.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
		IP: p.Underlay.AsSlice(), HardwareAddr: hardware(p.MAC),
	}
}

// gateway is the neighbour that the routes to the peer lead through: the subnet's zero address, or for IPv6 the link-local
// address of its MAC.
func gateway(p vxlan.Peer) netip.Addr {
	a := p.Prefixes[0].Addr()
	if a.Is4() {
		return a
	}
	m := p.MAC
	return netip.MustParseAddr(fmt.Sprintf("fe80::%02x%02x:%02xff:fe%02x:%02x%02x", m[0]^2, m[1], m[2], m[3], m[4], m[5]))
}

// other is an address of the same family that nobody has.
func other(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.MustParseAddr("192.0.2.200")
	}
	return netip.MustParseAddr("2001:db8::200")
}

// TestRepair breaks each object in each way under a running loop, in both families, alone and while ten other peers fail.
func TestRepair(t *testing.T) {
	t.Parallel()
	for _, failing := range []int{0, 10} {
		t.Run(fmt.Sprintf("%d failing peers", failing), func(t *testing.T) {
			t.Parallel()
			o := newOverlay(t, testnet.FabricConfig{Nodes: 2}, nil)
			o.apply(t)
			h := inNode(t, o.fabric.Nodes[0])
			o.failPeers(t, h, failing)
			loop := o.runLoop(t, 0)
			o.requireRepaired(t, 0)
			require.Len(t, loop.Status().Failing, failing)
			for _, p := range o.specs[0].Peers[:2] {
				for _, b := range breakages {
					name := fmt.Sprintf("%s over %s", b.name, p.Underlay)
					t.Run(name, func(t *testing.T) { o.testRepair(t, h, p, b.do) })
				}
			}
		})
	}
}

func (o *overlay) testRepair(t *testing.T, h *netlink.Handle, p vxlan.Peer, do func(testing.TB, *netlink.Handle, netlink.Link, vxlan.Peer)) {
	vtep := linkNamed(t, h, vxlan.LinkName(1, p.Underlay))
	do(t, h, vtep, p)
	o.requireRepaired(t, 0)
	o.requireReachable(t) // both ways: node 2's answers, and its own packets
}

// failPeers adds n peers to node 1 whose routes cannot be made, since another program's stand there.
func (o *overlay) failPeers(t testing.TB, h *netlink.Handle, n int) {
	t.Helper()
	eth0 := linkNamed(t, h, "eth0")
	for i := range n {
		prefix := netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", 100+i))
		require.NoError(t, h.RouteAdd(&netlink.Route{Dst: ipNet(prefix), LinkIndex: eth0.Attrs().Index, Protocol: unix.RTPROT_STATIC}))
		o.specs[0].Peers = append(o.specs[0].Peers, vxlan.Peer{
			Node: fmt.Sprintf("failing-%d", i), MAC: podweft.MAC{0x0e, 9, 9, 9, 9, byte(i)},
			Underlay: netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}), Prefixes: []netip.Prefix{prefix},
		})
	}
}
