package nft_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/nft"
)

// BenchmarkElement puts one element in and takes it out again, two transactions on the lasting socket.
func BenchmarkElement(b *testing.B) {
	c, _ := dial(b)
	commit(b, c, func(b *nft.Batch) { b.AddTable(ours, 0); b.AddSet(hosts) })
	var in, out nft.Batch
	in.AddElements(hosts, addresses(1)...)
	out.DeleteElements(hosts, addresses(1)...)
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, c.Commit(b.Context(), &in))
		require.NoError(b, c.Commit(b.Context(), &out))
	}
}

// BenchmarkLoad fills a set with 10,000 elements, and empties it untimed.
func BenchmarkLoad(b *testing.B) {
	many := make([]nft.Element, 0, 10_000)
	for i := range cap(many) {
		many = append(many, nft.Element{Key: string([]byte{10, byte(i >> 8), byte(i), 0}), Last: string([]byte{10, byte(i >> 8), byte(i), 9})})
	}
	for _, bench := range []struct {
		name     string
		set      nft.Set
		elements []nft.Element
	}{
		{"plain", hosts, addresses(10_000)},
		{"interval", peers, many},
	} {
		b.Run(bench.name, func(b *testing.B) {
			c, _ := dial(b)
			for b.Loop() {
				var batch nft.Batch
				batch.AddTable(ours, 0)
				batch.AddSet(bench.set)
				batch.AddElements(bench.set, bench.elements...)
				require.NoError(b, c.Load(b.Context(), &batch))
				b.StopTimer()
				commit(b, c, func(b *nft.Batch) { b.DeleteTable(ours) })
				b.StartTimer()
			}
		})
	}
}

// BenchmarkElements reads a set of a few elements, and one of many.
func BenchmarkElements(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c, _ := dial(b)
			var batch nft.Batch
			batch.AddTable(ours, 0)
			batch.AddSet(hosts)
			batch.AddElements(hosts, addresses(n)...)
			require.NoError(b, c.Load(b.Context(), &batch))
			for b.Loop() {
				_, err := c.Elements(b.Context(), hosts)
				require.NoError(b, err)
			}
		})
	}
}
