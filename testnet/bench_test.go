package testnet_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/testnet"
)

// BenchmarkBuild builds and closes what `lab --nodes 30 --pods 3` stands on.
func BenchmarkBuild(b *testing.B) {
	testnet.Require(b)
	for b.Loop() {
		f, err := testnet.Build(testnet.FabricConfig{Nodes: 30, Outside: true})
		require.NoError(b, err)
		for i := range 90 {
			pod, err := testnet.BuildNode(fmt.Sprintf("pod%d", i))
			require.NoError(b, err)
			require.NoError(b, pod.Close())
		}
		require.NoError(b, f.Close())
	}
}

// BenchmarkPing has every node of 30 ping every other at once, in both families.
func BenchmarkPing(b *testing.B) {
	f := testnet.NewFabric(b, testnet.FabricConfig{Nodes: 30})
	pingers := make([]*testnet.Pinger, len(f.Nodes))
	for i, n := range f.Nodes {
		p, err := n.Pinger()
		require.NoError(b, err)
		b.Cleanup(func() { p.Close() })
		pingers[i] = p
	}
	pings := 0
	for b.Loop() {
		var all sync.WaitGroup
		for _, p := range pingers {
			for _, to := range f.Nodes {
				for _, addr := range to.Addrs() {
					pings++
					all.Go(func() {
						if err := pingOnce(b.Context(), p, addr); err != nil {
							b.Error(err)
						}
					})
				}
			}
		}
		all.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(pings), "µs/ping")
}

func pingOnce(ctx context.Context, p *testnet.Pinger, to netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	rtt, err := p.Ping(ctx, to)
	if err == nil && rtt <= 0 {
		return errors.New("an answer before the question")
	}
	return err
}
