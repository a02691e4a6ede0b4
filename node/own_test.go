package node

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/podweft/podweft/subnet"
)

// TestAgreement: whatever becomes of our lease and of others, what is remembered says what a look at all leases does.
func TestAgreement(t *testing.T) {
	lease := func(t *rapid.T, key int) *subnet.Lease {
		return &subnet.Lease{
			Key: fmt.Sprint(key), Node: rapid.SampledFrom([]string{"us", "other", "another"}).Draw(t, "node"),
			Prefixes: subnet.Prefixes{V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(key), 0}), 24)},
			Revision: rapid.Uint64Range(0, 1).Draw(t, "revision"),
			Backend:  rapid.SampledFrom([]string{"vxlan", "host-gw"}).Draw(t, "backend"),
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var agreed agreement
		own, snap := lease(t, 2), &subnet.Snapshot{}
		own.Node = "us"
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			now := &subnet.Snapshot{}
			for key := range 5 {
				at := -1
				for i, l := range snap.Leases {
					if l.Key == fmt.Sprint(key) {
						at = i
					}
				}
				switch fate := rapid.IntRange(0, 9).Draw(t, "fate"); {
				case fate > 1 && at >= 0:
					now.Leases = append(now.Leases, snap.Leases[at])
				case fate > 0:
					now.Leases = append(now.Leases, lease(t, key))
				}
			}
			if rapid.IntRange(0, 4).Draw(t, "own") == 0 {
				own = lease(t, 2)
				own.Node = "us"
			}
			snap = now
			want, got := withOwn(snap, own), agreed.with(snap, own)
			require.Equal(t, want.Leases, got.Leases)
			require.Equal(t, want == snap, got == snap)
		}
	})
}
