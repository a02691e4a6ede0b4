package ipip_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/ipip"
)

// runLoop keeps node number i at its Spec until the test ends.
func (o *overlay) runLoop(t testing.TB, i int) *podweft.Loop[ipip.Spec] {
	t.Helper()
	loop := sabotage.Keep(t, o.drivers[i], o.specs[i])
	require.NoError(t, loop.Status().Last.Err)
	return loop
}

// requireRepaired waits until the driver of node number i has nothing to do.
func (o *overlay) requireRepaired(t testing.TB, i int) {
	t.Helper()
	sabotage.RequireRepaired(t, o.drivers[i], o.specs[i])
}

// breakages are what happens to a node's tunnel and its entries behind the driver's back.
var breakages = []struct {
	name string
	do   func(t testing.TB, h *netlink.Handle, tunnel netlink.Link)
}{
	{"routes deleted", func(t testing.TB, h *netlink.Handle, tunnel netlink.Link) {
		routes := complete(t, func() ([]netlink.Route, error) {
			return h.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{LinkIndex: tunnel.Attrs().Index}, netlink.RT_FILTER_OIF)
		})
		deleted := 0
		for _, r := range routes {
			if r.Protocol != unix.RTPROT_KERNEL {
				require.NoError(t, h.RouteDel(&netlink.Route{Dst: r.Dst}))
				deleted++
			}
		}
		require.NotZero(t, deleted)
	}},
	{"address deleted", func(t testing.TB, h *netlink.Handle, tunnel netlink.Link) {
		addrs := complete(t, func() ([]netlink.Addr, error) { return h.AddrList(tunnel, netlink.FAMILY_ALL) })
		require.NotEmpty(t, addrs)
		require.NoError(t, h.AddrDel(tunnel, &addrs[0]))
	}},
	{"address added", func(t testing.TB, h *netlink.Handle, tunnel netlink.Link) {
		require.NoError(t, h.AddrAdd(tunnel, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.99.0.1/32"))}))
	}},
	{"MTU changed", func(t testing.TB, h *netlink.Handle, tunnel netlink.Link) {
		require.NoError(t, h.LinkSetMTU(tunnel, 1400))
	}},
	{"link down", func(t testing.TB, h *netlink.Handle, tunnel netlink.Link) {
		require.NoError(t, h.LinkSetDown(tunnel))
	}},
	{"link down and up", func(t testing.TB, h *netlink.Handle, tunnel netlink.Link) {
		require.NoError(t, h.LinkSetDown(tunnel))
		require.NoError(t, h.LinkSetUp(tunnel))
	}},
	{"link deleted", func(t testing.TB, h *netlink.Handle, tunnel netlink.Link) {
		require.NoError(t, h.LinkDel(tunnel))
	}},
	{"link renamed", func(t testing.TB, h *netlink.Handle, tunnel netlink.Link) {
		// Before Linux 6.2 only a link that is down takes another name, and the driver soon has it up again.
		require.Eventually(t, func() bool {
			return h.LinkSetDown(tunnel) == nil && h.LinkSetName(tunnel, "renamed") == nil
		}, patience, time.Millisecond)
	}},
	{"replaced by one of another sort", func(t testing.TB, h *netlink.Handle, tunnel netlink.Link) {
		require.NoError(t, h.LinkDel(tunnel))
		again := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: tunnel.Attrs().Name}}
		err := h.LinkAdd(again) // before the driver has put its own back, or not at all
		if err == nil {
			require.NoError(t, h.LinkSetAlias(again, tunnel.Attrs().Alias))
		}
	}},
	{"underlay down and up", func(t testing.TB, h *netlink.Handle, tunnel netlink.Link) {
		eth0 := linkNamed(t, h, "eth0")
		require.NoError(t, h.LinkSetDown(eth0))
		require.NoError(t, h.LinkSetUp(eth0))
		// Taking a link down deletes its IPv6 addresses; whoever configures the host puts them back.
		require.NoError(t, h.AddrReplace(eth0, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("2001:db8::1/64")), Flags: unix.IFA_F_NODAD}))
	}},
}

// TestUnderlayRenamed: the tunnel goes on carrying traffic while nobody finds its underlay interface by name, and that is said.
func TestUnderlayRenamed(t *testing.T) {
	eachOverlay(t, func(t *testing.T, o *overlay) {
		o.apply(t)
		sabotage.Rename(t, o.fabric.Nodes[0], "eth0", "moved")
		_, err := o.drivers[0].Apply(t.Context(), o.specs[0])
		require.ErrorContains(t, err, "find link eth0: no such link")
		o.requireReachable(t)
		sabotage.Rename(t, o.fabric.Nodes[0], "moved", "eth0")
		o.apply(t)
		o.requireReachable(t)
	})
}

// TestTunnelPointedElsewhere: `ip link set ... type ipip remote` takes a tunnel out of our hands; it is made anew.
func TestTunnelPointedElsewhere(t *testing.T) {
	o := newOverlay(t, scenarios[0])
	if !o.supported(t) {
		return
	}
	o.apply(t)
	h := inNode(t, o.fabric.Nodes[0])
	l := linkNamed(t, h, "flannel.ipip").(*netlink.Iptun)
	require.NoError(t, h.LinkDel(l))
	stray := &netlink.Iptun{
		LinkAttrs: netlink.LinkAttrs{Name: l.Name, MTU: l.MTU}, Local: l.Local, Remote: netip.MustParseAddr("192.0.2.66").AsSlice(), Ttl: 7, PMtuDisc: 1,
	}
	require.NoError(t, h.LinkAdd(stray))
	require.NoError(t, h.LinkSetAlias(stray, l.Alias))
	plan, err := o.drivers[0].Plan(t.Context(), o.specs[0])
	require.NoError(t, err)
	require.NotEmpty(t, plan)
	assert.Equal(t, "~ link flannel.ipip type ipip local 192.0.2.1 dev eth0 mtu 1480  "+
		"# replaces link flannel.ipip type ipip mode any local 192.0.2.1 remote 192.0.2.66 mtu 1480", plan[0].String())
	o.apply(t)
	o.requireReachable(t)
}

// TestOwnWritesCauseNoListing: one changed peer costs its own entries, and its echoes nothing.
func TestOwnWritesCauseNoListing(t *testing.T) {
	eachOverlay(t, func(t *testing.T, o *overlay) {
		loop := o.runLoop(t, 0)
		spec, peers := o.specs[0], o.specs[0].Peers
		sabotage.RequireStill(t, loop, func() uint64 { return o.drivers[0].Stats().Listings }, func() {
			for i := range 20 {
				to := peers[0].Underlay
				for range i {
					to = to.Next()
				}
				spec.Peers = append(peers[:len(peers):len(peers)], ipip.Peer{
					Node: "moving", Underlay: to, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.77.0/24")},
				})
				require.NoError(t, loop.Wait(t.Context(), loop.Set(spec)))
			}
		})
		plan, err := o.drivers[0].Plan(t.Context(), spec)
		require.NoError(t, err)
		assert.Empty(t, plan.String(), "no stale entry of the peer that moved")
	})
}

// TestUnderlayMTUFollowed: the tunnel's MTU follows that of the underlay, which nobody has to tell the driver.
func TestUnderlayMTUFollowed(t *testing.T) {
	eachOverlay(t, func(t *testing.T, o *overlay) {
		h := inNode(t, o.fabric.Nodes[0])
		o.runLoop(t, 0)
		require.NoError(t, h.LinkSetMTU(linkNamed(t, h, "eth0"), 1400))
		o.requireRepaired(t, 0)
		for _, tunnel := range o.specs[0].Tunnels {
			assert.Equal(t, 1400-ipip.Overhead(tunnel.Local), linkNamed(t, h, ipip.LinkName(tunnel.Local)).Attrs().MTU)
		}
	})
}
