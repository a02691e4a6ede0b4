package calico

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/subnet"
)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

// TestWays: what becomes of a path, by its pool's modes, its next hop, and what is known of that.
func TestWays(t *testing.T) {
	self := subnet.Node{Name: "node1", Device: "eth0", MTU: 1500, Underlay: subnet.Addrs{V4: addr("192.0.2.1"), V6: addr("2001:db8::1")}}
	vteps := map[bool]podweft.MAC{true: {2, 1}, false: {2, 2}}
	v := view{
		self: self, networks: []netip.Prefix{prefix("192.0.2.0/24"), prefix("2001:db8::/64")}, vni: 1,
		pools: []Pool{
			{Name: "never", Prefix: prefix("10.1.0.0/16")},
			{Name: "cross", Prefix: prefix("10.2.0.0/16"), VXLAN: CrossSubnet},
			{Name: "always", Prefix: prefix("10.3.0.0/16"), VXLAN: Always},
			{Name: "ipip", Prefix: prefix("10.4.0.0/16"), IPIP: CrossSubnet},
			{Name: "six", Prefix: prefix("fd00::/64"), VXLAN: CrossSubnet},
			{Name: "six-ipip", Prefix: prefix("fd01::/64"), IPIP: Always},
		},
		nodes: []fellow{
			{roster.Node{Name: "near", Underlay: subnet.Addrs{V4: addr("192.0.2.2"), V6: addr("2001:db8::2")}}, vteps},
			{roster.Node{Name: "far", Underlay: subnet.Addrs{V4: addr("198.51.100.2"), V6: addr("2001:db8:1::2")}}, vteps},
			{roster.Node{Name: "mute", Underlay: subnet.Addrs{V4: addr("198.51.100.3")}}, nil},
		},
		own: []netip.Prefix{prefix("10.2.9.0/26")},
	}
	for _, tt := range []struct {
		name, prefix, hop string
		want              way
		problem           string
	}{
		{"never, near", "10.1.0.0/26", "192.0.2.2", direct, ""},
		{"never, far", "10.1.0.0/26", "198.51.100.2", noWay, "its next hop is on none of the networks of eth0, and its pool wraps nothing up"},
		{"cross, near", "10.2.0.0/26", "192.0.2.2", direct, ""},
		{"cross, far", "10.2.0.0/26", "198.51.100.2", byVXLAN, ""},
		{"always, near", "10.3.0.0/26", "192.0.2.2", byVXLAN, ""},
		{"always, behind a router that is no node", "10.3.0.0/26", "192.0.2.254", direct, ""},
		{"ipip, near", "10.4.0.0/26", "192.0.2.2", direct, ""},
		{"ipip, far", "10.4.0.0/26", "198.51.100.2", byIPIP, ""},
		{"IPv6, near", "fd00::40/122", "2001:db8::2", direct, ""},
		{"IPv6, far", "fd00::40/122", "2001:db8:1::2", byVXLAN, ""},
		{"IPv6 in VXLAN over IPv4", "fd00::40/122", "198.51.100.2", byVXLAN, ""},
		{"IPv6 in IP over IPv4", "fd01::40/122", "198.51.100.2", noWay, "IP in IP over IPv4 carries no IPv6"},
		{"never, IPv4 by an IPv6 node", "10.1.0.0/26", "2001:db8::2", noWay, "its next hop is of the other family, to which only a tunnel leads"},
		{"IPv4 in VXLAN to a node nearby that has IPv6 alone", "10.2.0.0/26", "2001:db8::2", byVXLAN, ""},
		{"IPv4 in IP over IPv6 to such a node", "10.4.0.0/26", "2001:db8::2", byIPIP, ""},
		{"IPv4 by an IPv6 router that is no node", "10.2.0.0/26", "2001:db8::fe", noWay, "its next hop is of the other family, to which only a tunnel leads"},
		{"no VTEP", "10.2.0.0/26", "198.51.100.3", noWay, "nobody has told of a VTEP there"},
		{"no pool", "10.9.0.0/26", "192.0.2.2", noWay, "it is in no pool"},
		{"ours", "10.2.9.0/27", "192.0.2.2", noWay, "it overlaps a block of this node"},
		{"ourselves", "10.2.0.0/26", "192.0.2.1", noWay, "its next hop is this node"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v.paths = []path{{prefix: prefix(tt.prefix), nextHop: addr(tt.hop)}}
			s := v.compile()
			assert.Equal(t, string(tt.want), s.routes[0].Way)
			assert.Equal(t, tt.problem, s.routes[0].Problem)
			assert.NoError(t, s.direct.Validate())
			assert.NoError(t, s.vxlan.Validate())
			assert.NoError(t, s.ipip.Validate())
			for w, peers := range map[way]int{direct: len(s.direct.Peers), byVXLAN: len(s.vxlan.Peers), byIPIP: len(s.ipip.Peers)} {
				want := 0
				if w == tt.want {
					want = 1
				}
				assert.Equal(t, want, peers, w)
			}
		})
	}
	assert.Equal(t, 1500-70, v.podMTU(), "the narrowest way")

	// A node without IPv4 hears of both addresses' prefixes, and has one way to that node.
	v.self.Underlay.V4, v.networks = netip.Addr{}, v.networks[1:]
	for hop, want := range map[string]string{"192.0.2.2": "2001:db8::2", "198.51.100.2": "2001:db8:1::2", "198.51.100.3": "198.51.100.3"} {
		v.paths = []path{{prefix: prefix("10.2.0.0/26"), nextHop: addr(hop)}}
		r := v.compile().routes[0]
		assert.Equal(t, addr(want), r.NextHop, hop)
		assert.Equal(t, want != hop, r.Way == string(byVXLAN), "%s: %s", hop, r)
	}
}

// TestWithout: closed prefixes with holes for what is the node's own.
func TestWithout(t *testing.T) {
	got := without([]netip.Prefix{prefix("10.0.0.0/29"), prefix("10.0.1.0/26"), prefix("fd00::/127")}, []netip.Addr{addr("10.0.0.5"), addr("fd00::1"), addr("192.0.2.1")})
	assert.Equal(t, []netip.Prefix{
		prefix("10.0.0.0/30"), prefix("10.0.0.4/32"), prefix("10.0.0.6/31"), prefix("10.0.1.0/26"), prefix("fd00::/128"),
	}, got)
}
