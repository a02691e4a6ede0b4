package block_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/memory"
)

// BenchmarkClaim is a claim and its return while other nodes have a number of blocks.
func BenchmarkClaim(b *testing.B) {
	for _, n := range []int{0, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			if n > 1000 && testing.Short() {
				b.Skip("takes half a minute to set up")
			}
			s := memory.New()
			for i := range n {
				_, err := claimer(b, s, fmt.Sprint("node-", i), pools("10.0.0.0/8")...).Claim(b.Context(), anywhere)
				require.NoError(b, err)
			}
			c := claimer(b, s, "this", pools("10.0.0.0/8")...)
			for b.Loop() {
				share, err := c.Claim(b.Context(), anywhere)
				require.NoError(b, err)
				require.NoError(b, c.Return(b.Context(), share.Prefix))
			}
		})
	}
}

// BenchmarkAllocator is one pod after the other: an address of a block that the node has.
func BenchmarkAllocator(b *testing.B) {
	c := claimer(b, memory.New(), "node-1", pools("10.0.0.0/16")...)
	a := allocator(b, block.AllocatorConfig{Claimers: []*block.Claimer{c}})
	for i := 0; b.Loop(); i++ {
		_, err := a.Allocate(b.Context(), pod(fmt.Sprint(i)))
		require.NoError(b, err)
		require.NoError(b, a.Release(b.Context(), pod(fmt.Sprint(i))))
	}
}
