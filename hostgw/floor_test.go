package hostgw_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

// BenchmarkFloor programs all peers of an empty node, in turns with a bare program that sends the same requests and does nothing
// else: no reading, no comparing, no plan. It prints both medians and their ratio, and the median of a check of all that finds
// nothing to do.
func BenchmarkFloor(b *testing.B) {
	for _, n := range []int{1000, 5000, 20000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			node := testnet.NewFabric(b, testnet.FabricConfig{Nodes: 1, V4: netip.MustParsePrefix("198.18.0.0/16")}).Nodes[0]
			d, err := hostgw.New(hostgw.Config{NetNS: node.NetNS()})
			require.NoError(b, err)
			defer d.Close()
			conn, err := nl.Dial(node.NetNS())
			require.NoError(b, err)
			defer conn.Close()
			eth0, err := conn.Link("eth0")
			require.NoError(b, err)
			spec := bigSpec(n)
			var ours, again, bare []time.Duration
			for b.Loop() {
				ours = append(ours, timed(func() { apply(b, d, spec) }))
				again = append(again, timed(func() { apply(b, d, spec) }))
				apply(b, d, hostgw.Spec{})
				bare = append(bare, timed(func() { writeAll(b, conn, eth0.Index, spec) }))
				clean(b, conn, spec)
			}
			mine, floor := median(ours), median(bare)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(mine, "ms/apply")
			b.ReportMetric(floor, "ms/bare")
			b.ReportMetric(mine/floor, "ratio")
			b.ReportMetric(median(again), "ms/resync")
		})
	}
}

func timed(fn func()) time.Duration {
	start := time.Now()
	fn()
	return time.Since(start)
}

// median returns the middle of the durations, in ms, and sorts them.
func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1000
}

func apply(b *testing.B, d *hostgw.Driver, spec hostgw.Spec) {
	b.Helper()
	_, err := d.Apply(b.Context(), spec)
	require.NoError(b, err)
}

const bareNexthops = 1 << 20 // the first of the bare program's ids: far from the driver's

func writeAll(b *testing.B, conn *nl.Conn, link int, spec hostgw.Spec) {
	var batch nl.Batch
	batch.Grow(2 * len(spec.Peers))
	for i, p := range spec.Peers {
		batch.AddNexthop(nl.Nexthop{ID: bareNexthops + uint32(i), Protocol: 250, Gateway: p.Underlay, Link: link})
	}
	for i, p := range spec.Peers {
		batch.AddRoute(bareRoute(i, p))
	}
	require.Nil(b, conn.Do(b.Context(), &batch))
}

func bareRoute(i int, p hostgw.Peer) nl.Route {
	return nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: p.Prefixes[0]}, Protocol: 250, Nexthop: bareNexthops + uint32(i)}
}

func clean(b *testing.B, conn *nl.Conn, spec hostgw.Spec) {
	var batch nl.Batch
	for i, p := range spec.Peers {
		batch.DeleteRoute(bareRoute(i, p))
	}
	for i := range spec.Peers {
		batch.DeleteNexthop(bareNexthops + uint32(i))
	}
	require.Nil(b, conn.Do(b.Context(), &batch))
}
