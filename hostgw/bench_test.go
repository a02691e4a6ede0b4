package hostgw_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

// bigSpec is n peers on one link of 2^16 addresses.
func bigSpec(n int) hostgw.Spec {
	spec := hostgw.Spec{Device: "eth0"}
	for i := 1; i <= n; i++ {
		spec.Peers = append(spec.Peers, hostgw.Peer{
			Node: fmt.Sprint("node-", i), Underlay: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}),
			Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)},
		})
	}
	return spec
}

func bigNode(b *testing.B) *hostgw.Driver {
	b.Helper()
	n := testnet.NewFabric(b, testnet.FabricConfig{Nodes: 1, V4: netip.MustParsePrefix("198.18.0.0/16")}).Nodes[0]
	d, err := hostgw.New(hostgw.Config{NetNS: n.NetNS()})
	require.NoError(b, err)
	b.Cleanup(func() { d.Close() })
	return d
}

// BenchmarkOnePeer moves one of 5,000 peers: from Set to the kernel.
func BenchmarkOnePeer(b *testing.B) {
	d := bigNode(b)
	loop := podweft.NewLoop(d, podweft.LoopConfig{Coalesce: -1})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	defer func() { cancel(); require.NoError(b, <-done) }()
	spec := bigSpec(5000)
	require.NoError(b, loop.Wait(ctx, loop.Set(spec)))
	sabotage.Settle(b, loop)
	before := d.Stats().Listings
	i := 0
	for b.Loop() {
		i++
		moved := spec
		moved.Peers = slices.Clone(spec.Peers)
		moved.Peers[2500].Underlay = netip.AddrFrom4([4]byte{198, 18, 200, byte(i % 200)})
		require.NoError(b, loop.Wait(ctx, loop.Set(moved)))
		b.StopTimer()
		time.Sleep(2 * time.Millisecond) // for the echoes: one that comes when the peer has moved on looks like somebody else's
		b.StartTimer()
	}
	b.ReportMetric(float64(d.Stats().Listings-before)/float64(b.N), "listings/op")
}

// BenchmarkResync is a whole check of a node with 5,000 peers, where nothing differs.
func BenchmarkResync(b *testing.B) {
	d, spec := bigNode(b), bigSpec(5000)
	_, err := d.Apply(b.Context(), spec)
	require.NoError(b, err)
	for b.Loop() {
		plan, err := d.Apply(b.Context(), spec)
		require.NoError(b, err)
		require.Empty(b, plan)
	}
}
