package udp_test

import (
	"testing"
	"time"

	"github.com/podweft/podweft/testnet"
)

// BenchmarkKilled is for how long nothing gets through, in either family, when the process is killed and another started at once.
func BenchmarkKilled(b *testing.B) {
	o := newOverlay(b, testnet.FabricConfig{}, nil)
	startAgent(b, o.fabric.Nodes[1]).keep(b, o.specs[1])
	a := startAgent(b, o.fabric.Nodes[0])
	a.keep(b, o.specs[0])
	o.requireReachable(b)
	var gaps []float64
	for b.Loop() {
		start := time.Now()
		a.kill(b)
		a = startAgent(b, o.fabric.Nodes[0])
		a.keep(b, o.specs[0])
		o.requireReachable(b)
		gaps = append(gaps, float64(time.Since(start).Microseconds())/1000)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(middle(gaps), "ms")
}
