package fib

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nl"
)

// TestMarkOf holds the marks of owners. Were they to change, an upgraded agent would not know the routes of the one before.
func TestMarkOf(t *testing.T) {
	tests := []struct {
		owner string
		want  Mark
	}{
		{"vxlan podweft", Mark{Protocol: 253, First: 0x644e0000}},
		{"host-gw podweft", Mark{Protocol: 217, First: 0x7bee0000}},
		{"host-gw blue", Mark{Protocol: 227, First: 0x75e30000}},
		{"", Mark{Protocol: 217, First: 0x44420000}},
	}
	for _, tt := range tests {
		t.Run(tt.owner, func(t *testing.T) { assert.Equal(t, tt.want, MarkOf(tt.owner)) })
	}
}

func TestMarksKeepToTheirRange(t *testing.T) {
	seen := map[Mark]bool{}
	for i := range 1000 {
		m := MarkOf(fmt.Sprint("tenant-", i))
		assert.GreaterOrEqual(t, m.Protocol, uint8(193), "of nobody's")
		assert.Less(t, m.Protocol, uint8(254), "254 and 255 are reserved")
		assert.GreaterOrEqual(t, m.First, uint32(1<<30), "far from automatic ids")
		assert.Zero(t, m.First%idsPerOwner, "ranges do not overlap")
		assert.LessOrEqual(t, uint64(m.First)+idsPerOwner, uint64(1<<31))
		seen[m] = true
	}
	assert.GreaterOrEqual(t, len(seen), 998, "500,000 pairs, of which one in 900,000 shares a mark")
}

func TestMarkOwns(t *testing.T) {
	m := Mark{Protocol: 200, First: 1<<30 + 5*idsPerOwner}
	tests := []struct {
		name     string
		protocol uint8
		nexthop  uint32
		want     bool
	}{
		{"first", 200, m.First, true},
		{"last", 200, m.First + idsPerOwner - 1, true},
		{"before", 200, m.First - 1, false},
		{"behind", 200, m.First + idsPerOwner, false},
		{"without a nexthop object", 200, 0, false},
		{"of another protocol", 201, m.First, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, m.ours(nl.Route{Protocol: tt.protocol, Nexthop: tt.nexthop}))
		})
	}
}

func TestRouteKey(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("fd00:2::/64")
	tests := []struct {
		name  string
		route Route
		want  nl.RouteKey
	}{
		{"IPv4", Route{Prefix: v4}, nl.RouteKey{Table: unix.RT_TABLE_MAIN, Prefix: v4}},
		{"IPv6 has a metric", Route{Prefix: v6}, nl.RouteKey{Table: unix.RT_TABLE_MAIN, Prefix: v6, Metric: 1024}},
		{"metric and table", Route{Prefix: v6, Metric: 5, Table: 1000}, nl.RouteKey{Table: 1000, Prefix: v6, Metric: 5}},
		{"host bits", Route{Prefix: netip.MustParsePrefix("10.244.2.9/24")}, nl.RouteKey{Table: unix.RT_TABLE_MAIN, Prefix: v4}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, tt.route.key()) })
	}
}
