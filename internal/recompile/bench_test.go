package recompile_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/vxlan"
)

// BenchmarkOneOf5000 is one lease that comes or goes among 5,000, compiled by the pure Compile and by one that remembers, also beside
// a lease that nobody can use.
func BenchmarkOneOf5000(b *testing.B) {
	for _, way := range []struct {
		name    string
		bad     int // how many leases have no address to send to
		compile func(subnet.Node, *subnet.Snapshot) (vxlan.Spec, []subnet.Problem, error)
	}{{"pure", 0, vxlan.Compile}, {"remembered", 0, vxlan.NewCompiler()}, {"one is bad", 1, vxlan.NewCompiler()}} {
		b.Run(way.name, func(b *testing.B) {
			snaps := [2]*subnet.Snapshot{{Network: parse(b, vxlan.Type)}, {}}
			for i := range 5000 {
				l := leaseOf(vxlan.Type, i)
				l.Key = fmt.Sprintf("%06d", i)
				l.Prefixes = subnet.Prefixes{V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}
				l.Underlay.V4 = netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})
				if i >= 5000-way.bad {
					l.Underlay = subnet.Addrs{}
				}
				snaps[0].Leases = append(snaps[0].Leases, l)
			}
			*snaps[1] = *snaps[0]
			snaps[1].Leases = slices.Delete(slices.Clone(snaps[0].Leases), 2500, 2501)
			i := 0
			for b.Loop() {
				_, problems, err := way.compile(self, snaps[i%2])
				require.NoError(b, err)
				require.Len(b, problems, way.bad)
				i++
			}
		})
	}
}
