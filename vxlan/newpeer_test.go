package vxlan_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// newcomer is a Spec with one peer more than spec has: the i-th to join. Its peers are in the order that Compile gives them.
func newcomer(spec vxlan.Spec, i int, v4 bool) vxlan.Spec {
	p := vxlan.Peer{
		Node: fmt.Sprintf("new-%d", i), MAC: podweft.MAC{0x0e, 7, 0, 0, byte(i >> 8), byte(i)},
		Underlay: netip.AddrFrom4([4]byte{192, 0, 2, byte(150 + i%50)}),
		Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 245, byte(i), 0}), 24)},
	}
	if !v4 {
		p.Underlay = netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 150+i))
		p.Prefixes[0] = netip.MustParsePrefix(fmt.Sprintf("fd00:245:0:%x::/64", i))
	}
	spec.Peers = append(slices.Clone(spec.Peers), p)
	slices.SortFunc(spec.Peers, func(a, b vxlan.Peer) int { return a.Prefixes[0].Compare(b.Prefixes[0]) })
	return spec
}

// TestNewPeerDoesNotWait: a peer that joins while ten others fail is there when its own pass ends, and that pass does not try
// the others.
func TestNewPeerDoesNotWait(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fail  func(t *testing.T, o *overlay, h *netlink.Handle)
		with  error
		heal  func(t *testing.T, o *overlay, h *netlink.Handle)
		newV4 bool
		calm  bool // nothing happens to the links, which would be a reason to try the others
	}{
		{
			name: "another program's routes", newV4: true, calm: true, with: podweft.ErrConflict,
			fail: func(t *testing.T, o *overlay, h *netlink.Handle) { o.failPeers(t, h, 10) },
			heal: func(t *testing.T, o *overlay, h *netlink.Handle) {
				for _, p := range o.specs[0].Peers {
					if strings.HasPrefix(p.Node, "failing-") {
						require.NoError(t, h.RouteDel(&netlink.Route{Dst: ipNet(p.Prefixes[0]), Protocol: unix.RTPROT_STATIC}))
					}
				}
			},
		},
		{
			// Of IPv4's VTEP, whose one peer has its place. (Neighbours are never too many: the kernel does not count permanent ones.)
			name: "full forwarding table", with: unix.ENOSPC,
			fail: func(t *testing.T, o *overlay, h *netlink.Handle) {
				limitForwards(t, h, "flannel.1", 1)
				for i := range 10 {
					o.specs[0].Peers = append(o.specs[0].Peers, manyPeer(i+1))
				}
			},
			heal: func(t *testing.T, o *overlay, h *netlink.Handle) {
				require.NoError(t, h.LinkDel(linkNamed(t, h, "flannel.1"))) // the driver's own has no limit
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOverlay(t, testnet.FabricConfig{}, withChecksums(nil))
			o.apply(t)
			h := inNode(t, o.fabric.Nodes[0])
			tt.fail(t, o, h)
			loop := podweft.NewLoop(o.drivers[0], podweft.LoopConfig{Coalesce: -1, RetryMin: time.Hour, RetryMax: time.Hour})
			sabotage.RunLoop(t, loop, o.specs[0])
			failing := loop.Status().Failing
			require.Len(t, failing, 10)
			for i := range 20 {
				spec := newcomer(o.specs[0], i, tt.newV4)
				start := time.Now()
				require.ErrorIs(t, loop.Wait(t.Context(), loop.Set(spec)), tt.with, "of the others")
				took := time.Since(start)
				at := slices.IndexFunc(spec.Peers, func(p vxlan.Peer) bool { return p.Node == fmt.Sprintf("new-%d", i) })
				f := &fire{overlay: o, peer: spec.Peers[at]}
				assert.NotZero(t, f.routeOf(t).Nexthop, "the route of newcomer %d", i)
				t.Logf("newcomer %d in force after %v", i, took.Round(10*time.Microsecond))
				assert.Less(t, took, patience)
			}
			now := loop.Status().Failing
			require.Len(t, now, 10)
			for i := 0; tt.calm && i < len(now); i++ {
				assert.Equal(t, failing[i].Attempts, now[i].Attempts, "%s was tried again", now[i].ID)
			}
			tt.heal(t, o, h)
			require.Eventually(t, func() bool { return len(loop.Status().Failing) == 0 }, patience, time.Millisecond,
				"what they failed for is gone")
		})
	}
}

// limitForwards makes the link anew, with room for so many forwarding entries (`ip link add ... maxaddress MOST`). It bears our
// alias and is as the Spec wants it, so that the driver keeps it.
func limitForwards(t *testing.T, h *netlink.Handle, name string, most int) {
	t.Helper()
	old := linkNamed(t, h, name)
	limited := *old.(*netlink.Vxlan)
	limited.Index, limited.Limit = 0, most
	require.NoError(t, h.LinkDel(old))
	require.NoError(t, h.LinkAdd(&limited))
	require.NoError(t, h.LinkSetAlias(&limited, old.Attrs().Alias))
}

// BenchmarkNewPeer is how long a peer that joins 5,000 takes to be in force, from Set, while ten others fail.
func BenchmarkNewPeer(b *testing.B) {
	o := newOverlay(b, testnet.FabricConfig{}, nil)
	h := inNode(b, o.fabric.Nodes[0])
	for i := 1; i <= 5000; i++ {
		p := manyPeer(i)
		p.Prefixes[0] = netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 0}), 24)
		o.specs[0].Peers = append(o.specs[0].Peers, p)
	}
	o.failPeers(b, h, 10)
	loop := podweft.NewLoop(o.drivers[0], podweft.LoopConfig{Coalesce: -1, RetryMin: time.Hour, RetryMax: time.Hour})
	sabotage.RunLoop(b, loop, o.specs[0])
	sabotage.Settle(b, loop)
	require.Len(b, loop.Status().Failing, 10)
	var took []time.Duration
	i := 0
	for b.Loop() {
		i++
		spec := newcomer(o.specs[0], i, true)
		took = append(took, timed(func() { _ = loop.Wait(b.Context(), loop.Set(spec)) }))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(took), "ms/median")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms/worst")
}
