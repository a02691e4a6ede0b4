package vxlan_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// newcomer is a Spec with one peer more than spec has: the i-th to join. Its peers are in the order that Compile gives them.
func newcomer(spec vxlan.Spec, i int) vxlan.Spec {
	spec.Peers = append(slices.Clone(spec.Peers), vxlan.Peer{
		Node: fmt.Sprintf("new-%d", i), MAC: podweft.MAC{0x0e, 7, 0, 0, byte(i >> 8), byte(i)},
		Underlay: netip.AddrFrom4([4]byte{192, 0, 2, byte(150 + i%50)}),
		Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 245, byte(i), 0}), 24)},
	})
	slices.SortFunc(spec.Peers, func(a, b vxlan.Peer) int { return a.Prefixes[0].Compare(b.Prefixes[0]) })
	return spec
}

// TestNewPeerDoesNotWait: a peer that joins while ten others fail is there when its own pass ends, and that pass does not try
// the others.
func TestNewPeerDoesNotWait(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	o.apply(t)
	h := inNode(t, o.fabric.Nodes[0])
	o.failPeers(t, h, 10)
	loop := podweft.NewLoop(o.drivers[0], podweft.LoopConfig{Coalesce: -1, RetryMin: time.Hour, RetryMax: time.Hour})
	keepLoop(t, loop, o.specs[0])
	failing := loop.Status().Failing
	require.Len(t, failing, 10)
	for i := range 20 {
		spec := newcomer(o.specs[0], i)
		start := time.Now()
		require.ErrorIs(t, loop.Wait(t.Context(), loop.Set(spec)), podweft.ErrConflict, "of the others")
		took := time.Since(start)
		at := slices.IndexFunc(spec.Peers, func(p vxlan.Peer) bool { return p.Node == fmt.Sprintf("new-%d", i) })
		f := &fire{overlay: o, peer: spec.Peers[at]}
		assert.NotZero(t, f.routeOf(t).Nexthop, "the route of newcomer %d", i)
		t.Logf("newcomer %d in force after %v", i, took.Round(10*time.Microsecond))
		assert.Less(t, took, patience)
	}
	now := loop.Status().Failing
	require.Len(t, now, 10)
	for i := range now {
		assert.Equal(t, failing[i].Attempts, now[i].Attempts, "%s was tried again", now[i].ID)
	}
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
	keepLoop(b, loop, o.specs[0])
	settle(b, loop)
	require.Len(b, loop.Status().Failing, 10)
	var took []time.Duration
	i := 0
	for b.Loop() {
		i++
		spec := newcomer(o.specs[0], i)
		took = append(took, timed(func() { _ = loop.Wait(b.Context(), loop.Set(spec)) }))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(took), "ms/median")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms/worst")
}
