package nat_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

// BenchmarkApply reads the table and finds nothing to do, or puts one prefix in or takes it out.
func BenchmarkApply(b *testing.B) {
	other := nodeSpec()
	other.Masquerade = append(other.Masquerade, prefixes("10.244.9.0/24")...)
	for _, bench := range []struct {
		name  string
		specs [2]nat.Spec
	}{
		{"in sync", [2]nat.Spec{nodeSpec(), nodeSpec()}},
		{"one element", [2]nat.Spec{nodeSpec(), other}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			n := testnet.NewNode(b, "node")
			d := newDriver(b, nat.Config{NetNS: n.NetNS()})
			apply(b, d, nodeSpec())
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				_, err := d.Apply(b.Context(), bench.specs[i%2])
				require.NoError(b, err)
			}
		})
	}
}

// BenchmarkNew is what a short-lived process pays: the socket, and a table that is there already.
func BenchmarkNew(b *testing.B) {
	n := testnet.NewNode(b, "node")
	apply(b, newDriver(b, nat.Config{NetNS: n.NetNS()}), nodeSpec())
	for b.Loop() {
		d, err := nat.New(nat.Config{NetNS: n.NetNS()})
		require.NoError(b, err)
		_, err = d.Apply(b.Context(), nodeSpec())
		require.NoError(b, err)
		require.NoError(b, d.Close())
	}
}
