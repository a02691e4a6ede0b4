package subnet_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/podweft/podweft/subnet"
)

// TestOf: which lease is the node's own.
func TestOf(t *testing.T) {
	named, public, own := &subnet.Lease{Node: "here"}, &subnet.Lease{Node: "203.0.113.7"}, &subnet.Lease{Node: "192.0.2.7"}
	plain := subnet.Node{Name: "here", Underlay: subnet.Addrs{V4: netip.MustParseAddr("192.0.2.7"), V6: netip.MustParseAddr("2001:db8::7")}}
	hidden := plain
	hidden.Public.V4 = netip.MustParseAddr("203.0.113.7")
	assert.Equal(t, plain.Underlay, plain.Published())
	assert.Equal(t, "203.0.113.7, 2001:db8::7", hidden.Published().String(), "the other family is as it was")
	for _, tc := range []struct {
		name   string
		node   subnet.Node
		leases []*subnet.Lease
		want   *subnet.Lease
	}{
		{"its name's", plain, []*subnet.Lease{own, public, named}, named},
		{"its address's", plain, []*subnet.Lease{public, own}, own},
		{"its public address's", hidden, []*subnet.Lease{own, public}, public},
		{"nobody's that has its address behind another NAT", hidden, []*subnet.Lease{own}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			assert.Same(t, tc.want, (&subnet.Snapshot{Leases: tc.leases}).Of(tc.node))
		})
	}
}

// TestChanges compares with a look at everything, for snapshots one after the other as a Store makes them.
func TestChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := &subnet.Snapshot{}
		made := uint64(0)
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			now := &subnet.Snapshot{}
			for i := range 8 {
				key := string(rune('a' + i))
				at := slices.IndexFunc(before.Leases, func(l *subnet.Lease) bool { return l.Key == key })
				switch fate := rapid.IntRange(0, 9).Draw(t, key); {
				case fate > 3 && at >= 0:
					now.Leases = append(now.Leases, before.Leases[at])
				case fate > 1:
					made++
					now.Leases = append(now.Leases, &subnet.Lease{Key: key, Revision: made})
				}
			}
			gone, come := now.Changes(before)
			assert.Equal(t, without(before.Leases, now.Leases), gone)
			assert.Equal(t, without(now.Leases, before.Leases), come)
			before = now
		}
	})
}

// without are those of some leases that others are not.
func without(some, others []*subnet.Lease) (left []*subnet.Lease) {
	for _, l := range some {
		if !slices.Contains(others, l) {
			left = append(left, l)
		}
	}
	return left
}
