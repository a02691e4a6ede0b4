package subnet_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"

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
