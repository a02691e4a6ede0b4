package nftables_test

import (
	"flag"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/policy/internal/scenario"
)

var (
	clusters = flag.Int("clusters", 30, "random clusters whose packets are sent")
	seed     = flag.Uint64("seed", 0, "of the random clusters; 0 is another one each time")
)

// TestRandomClusters sends a packet between every two addresses of clusters that nobody has thought of, and compares what arrives
// with an evaluator that reads the model. Half of the clusters are changes to the one before. -clusters=10000 is the long run.
func TestRandomClusters(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	numbers := rand.New(rand.NewPCG(*seed, 0))
	r := scenario.Random{Choose: numbers.IntN}
	w := newWorld(t, "n0", "n1")
	m := r.Model()
	for i := range *clusters {
		if i%2 == 0 {
			m = r.Model()
		} else {
			put, gone := r.Update()
			m = scenario.Change(m, put, gone)
		}
		var cells []scenario.Cell
		for _, p := range r.Packets() {
			if p.Protocol == unix.IPPROTO_ICMP && p.Src.Is6() {
				p.Protocol = unix.IPPROTO_ICMPV6
			}
			cells = append(cells, scenario.Cell{Text: "random", Packet: p, Want: scenario.Judge(m, p)})
		}
		for _, n := range w.nodes {
			n.spec.Strict = i%4 > 1
		}
		w.enforce(m)
		w.inSync()
		w.settle(m, cells)
		w.try(cells)
		require.False(t, t.Failed(), "cluster %d of -seed=%d", i, *seed)
	}
}
