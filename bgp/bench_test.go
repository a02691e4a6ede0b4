package bgp_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bgp"
)

// A full mesh of 20 speakers, 190 sessions, from the first word to everybody knowing everything; about two seconds of it are the
// engine's rest before it dials. The bar is 5 s.
func BenchmarkMeshOf20(b *testing.B) {
	const n = 20
	r := newRow(b, n, nil)
	for b.Loop() {
		r.mesh(b)
		for _, s := range r {
			waitFor(b, s, "everybody's blocks", func(s *bgp.Snapshot) bool { return len(s.Paths) == 2*(n-1) })
		}
		b.StopTimer()
		for _, s := range r {
			require.NoError(b, s.SetPeers(nil))
		}
		for _, s := range r {
			waitFor(b, s, "nobody's blocks", func(s *bgp.Snapshot) bool { return len(s.Paths) == 0 })
		}
		b.StartTimer()
	}
}

// manyBlocks are n of an agent's blocks, half of them of each family.
func manyBlocks(n int) []bgp.Advertisement {
	var all []bgp.Advertisement
	for i := range n / 2 {
		all = append(all,
			bgp.Advertisement{Prefix: netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/26", 64+i/256, i%256))},
			bgp.Advertisement{Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:64:0:%x::/122", i))})
	}
	return all
}

// pairOfAgents are two with a session, in the first of which the kernel's routes are counted.
func pairOfAgents(t testing.TB) (one, two *agent, want order, count func() int) {
	t.Helper()
	f := racks(t, 2)
	one, two = startAgent(t, f.Nodes[0], configOf(t, f.Nodes[0])), startAgent(t, f.Nodes[1], configOf(t, f.Nodes[1]))
	one.order(t, order{Peers: []bgp.Peer{sessionWith(f.Nodes[1])}})
	want = order{Peers: []bgp.Peer{sessionWith(f.Nodes[0])}}
	two.order(t, want)
	one.wait(t, "the session", func(a answer) bool { return a.Established == 1 })
	h := handle(t, f.Nodes[0])
	return one, two, want, func() int { return routes(t, h) }
}

// 500 blocks, from their node's word to the other node's kernel, through hostgw and a Loop; and back out of it. The bars are
// a second and 80 MiB.
func BenchmarkBlocksIntoTheKernel(b *testing.B) {
	const n = 500
	one, two, want, count := pairOfAgents(b)
	before := count()
	until := func(wanted int) time.Duration {
		begun := time.Now()
		for count() != wanted {
			require.Less(b, time.Since(begun), patience)
			time.Sleep(time.Millisecond)
		}
		return time.Since(begun)
	}
	var withdrawn time.Duration
	rounds := 0
	for b.Loop() {
		want.Advertise = manyBlocks(n)
		two.order(b, want)
		until(before + n)
		b.StopTimer()
		want.Advertise = nil
		two.order(b, want)
		withdrawn += until(before)
		rounds++
		b.StartTimer()
	}
	b.ReportMetric(float64(withdrawn.Milliseconds())/float64(rounds), "ms/withdrawal")
	want.Advertise = manyBlocks(n)
	two.order(b, want)
	until(before + n)
	b.ReportMetric(float64(one.ask(b, nil).RSS)/1024, "MiB-RSS")
}
