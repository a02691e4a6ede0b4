package ipam

import (
	"cmp"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
)

func TestConfigValidate(t *testing.T) {
	addr := netip.MustParseAddr
	set := func(ranges ...Range) [][]Range { return [][]Range{ranges} }
	v4 := netip.MustParsePrefix("10.244.1.0/24")
	tests := []struct {
		name string
		cfg  Config
		want string // empty: valid
	}{
		{name: "path", cfg: Config{Path: "-"}, want: "Path: is missing: name the store file"},
		{name: "grace", cfg: Config{Grace: -time.Second}, want: "Grace: -1s is negative"},
		{
			name: "boot ID", cfg: Config{BootID: strings.Repeat("x", 65)},
			want: "BootID: " + strings.Repeat("x", 65) + " is too long: use at most 64 bytes",
		},
		{
			name: "no prefix", cfg: Config{Prefixes: []netip.Prefix{{}}},
			want: "Prefixes[0]: invalid Prefix is not a prefix: write one like 10.244.1.0/24",
		},
		{
			name: "host bits", cfg: Config{Prefixes: prefixes("10.244.1.7/24")},
			want: "Prefixes[0]: 10.244.1.7/24 has host bits: write 10.244.1.0/24",
		},
		{
			name: "v4 in v6 form", cfg: Config{Prefixes: prefixes("::ffff:10.244.1.0/120")},
			want: "Prefixes[0]: ::ffff:10.244.1.0/120 holds IPv4 addresses in IPv6 form: write IPv4 as IPv4",
		},
		{
			name: "v6 around v4", cfg: Config{Prefixes: prefixes("::/64")},
			want: "Prefixes[0]: ::/64 holds IPv4 addresses in IPv6 form: write IPv4 as IPv4",
		},
		{name: "multicast", cfg: Config{Prefixes: prefixes("ff00::/64")}, want: "Prefixes[0]: ff00::/64 is multicast"},
		{
			name: "v4 /31", cfg: Config{Prefixes: prefixes("10.0.0.0/31")},
			want: "Prefixes[0]: 10.0.0.0/31 has no host address: use a shorter prefix",
		},
		{
			name: "v4 /32", cfg: Config{Prefixes: prefixes("10.0.0.1/32")},
			want: "Prefixes[0]: 10.0.0.1/32 has no host address: use a shorter prefix",
		},
		{
			name: "the last v4 address", cfg: Config{Prefixes: prefixes("255.255.255.255/32")},
			want: "Prefixes[0]: 255.255.255.255/32 has no host address: use a shorter prefix",
		},
		{
			name: "v6 /128", cfg: Config{Prefixes: prefixes("fd00::1/128")},
			want: "Prefixes[0]: fd00::1/128 has no host address: use a shorter prefix",
		},
		{
			name: "only a gateway", cfg: Config{Prefixes: prefixes("fd00::/127")},
			want: "Prefixes[0]: [fd00::1-fd00::1] has no address to give beside its gateway and what is reserved: use a shorter prefix",
		},
		{name: "v6 /127 with a gateway elsewhere", cfg: Config{Sets: set(Range{Prefix: netip.MustParsePrefix("fd00::/127"), Gateway: addr("fe80::1")})}},
		{
			name: "all is reserved", cfg: Config{Prefixes: prefixes("fd00::/64", "10.244.1.0/24"), Reserved: prefixes("10.244.0.0/16")},
			want: "Prefixes[1]: [10.244.1.1-10.244.1.254] has no address to give beside its gateway and what is reserved: use a shorter prefix",
		},
		{
			name: "reserved nothing", cfg: Config{Reserved: []netip.Prefix{{}}},
			want: "Reserved[0]: invalid Prefix is not a prefix: write one like 10.244.1.10/32",
		},
		{
			name: "reserved v4 in v6 form", cfg: Config{Reserved: prefixes("::ffff:10.0.0.0/120")},
			want: "Reserved[0]: ::ffff:10.0.0.0/120 holds IPv4 addresses in IPv6 form: write IPv4 as IPv4",
		},
		{
			name: "reserved with host bits", cfg: Config{Prefixes: prefixes("10.244.1.0/24"), Reserved: prefixes("10.244.1.9/24")},
			want: "Reserved[0]: 10.244.1.9/24 has host bits: write 10.244.1.9/32 for the one address, 10.244.1.0/24 for all",
		},
		{
			name: "loopback", cfg: Config{Prefixes: prefixes("127.1.0.0/16")},
			want: "Prefixes[0]: 127.1.0.0/16 has addresses of 127.0.0.0/8, which no pod can have: " +
				"use a prefix for private networks, as in 10.0.0.0/8 or fd00::/8",
		},
		{
			name: "link-local", cfg: Config{Prefixes: prefixes("fe80::/64")},
			want: "Prefixes[0]: fe80::/64 has addresses of fe80::/10, which no pod can have: " +
				"use a prefix for private networks, as in 10.0.0.0/8 or fd00::/8",
		},
		{
			name: "gateway is the network", cfg: Config{Sets: set(Range{Prefix: v4, Gateway: addr("10.244.1.0")})},
			want: "Sets[0][0].Gateway: 10.244.1.0 is not a host address of 10.244.1.0/24: use 10.244.1.1 to 10.244.1.254",
		},
		{
			name: "gateway is broadcast", cfg: Config{Sets: set(Range{Prefix: v4, Gateway: addr("10.244.1.255")})},
			want: "Sets[0][0].Gateway: 10.244.1.255 is not a host address of 10.244.1.0/24: use 10.244.1.1 to 10.244.1.254",
		},
		{name: "gateway is the network where routed", cfg: Config{Sets: set(Range{Prefix: v4, Gateway: addr("10.244.1.0"), Routed: true})}},
		{name: "empty set", cfg: Config{Sets: [][]Range{{}}}, want: "Sets[0]: has no range"},
		{
			name: "gateway of another family", cfg: Config{Sets: set(Range{Prefix: v4, Gateway: addr("fd00::1")})},
			want: "Sets[0][0].Gateway: fd00::1 cannot be the gateway of 10.244.1.0/24",
		},
		{
			name: "gateway with a zone",
			cfg:  Config{Sets: set(Range{Prefix: netip.MustParsePrefix("fd00::/64"), Gateway: addr("fe80::1%eth0")})},
			want: "Sets[0][0].Gateway: fe80::1%eth0 cannot be the gateway of fd00::/64",
		},
		{
			name: "first outside", cfg: Config{Sets: set(Range{Prefix: v4, First: addr("10.244.2.1")})},
			want: "Sets[0][0].First: 10.244.2.1 is not a host address of 10.244.1.0/24",
		},
		{
			name: "last is broadcast", cfg: Config{Sets: set(Range{Prefix: v4, Last: addr("10.244.1.255")})},
			want: "Sets[0][0].Last: 10.244.1.255 is not a host address of 10.244.1.0/24",
		},
		{
			name: "last before first", cfg: Config{Sets: set(Range{Prefix: v4, First: addr("10.244.1.9"), Last: addr("10.244.1.8")})},
			want: "Sets[0][0].Last: 10.244.1.8 comes before First 10.244.1.9",
		},
		{
			name: "two families in a set", cfg: Config{Sets: set(Range{Prefix: v4}, Range{Prefix: netip.MustParsePrefix("fd00::/64")})},
			want: "Sets[0][1]: is of another family than the first range of its set",
		},
		{
			name: "overlap", cfg: Config{Prefixes: prefixes("10.244.0.0/16"), Sets: set(Range{Prefix: v4})},
			want: "Sets[0][0]: 10.244.1.1-10.244.1.254 overlaps 10.244.0.1-10.244.255.254",
		},
		{
			name: "two parts of one subnet", cfg: Config{Sets: set(
				Range{Prefix: v4, First: addr("10.244.1.10"), Last: addr("10.244.1.19")},
				Range{Prefix: v4, First: addr("10.244.1.30"), Last: addr("10.244.1.39")},
			)},
		},
		{
			name: "too many sets", cfg: Config{Prefixes: prefixes("10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24", "10.0.4.0/24")},
			want: "Sets: 5 are too many, those of Prefixes counted: use at most 4",
		},
		{
			name: "several problems", cfg: Config{Grace: -1, Prefixes: prefixes("10.244.1.7/24", "10.0.0.0/32")},
			want: "Grace: -1ns is negative\n" +
				"Prefixes[0]: 10.244.1.7/24 has host bits: write 10.244.1.0/24\n" +
				"Prefixes[1]: 10.0.0.0/32 has no host address: use a shorter prefix",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Path = strings.TrimPrefix(cmp.Or(tt.cfg.Path, "/run/ipam"), "-")
			err := tt.cfg.Validate()
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tt.want)
			var field *podweft.FieldError
			require.ErrorAs(t, err, &field)
			_, err = Open(tt.cfg)
			assert.EqualError(t, err, tt.want)
		})
	}
}

func TestTooManyRanges(t *testing.T) {
	var ranges []Range
	for i := range MaxRanges + 1 {
		ranges = append(ranges, Range{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24)})
	}
	assert.EqualError(t, Config{Path: "/run/ipam", Sets: [][]Range{ranges}}.Validate(), "Sets: 13 ranges are too many: use at most 12")
	assert.NoError(t, Config{Path: "/run/ipam", Sets: [][]Range{ranges[1:]}}.Validate())
}

// Positions and addresses must agree in both directions, across ranges and up to the window's end.
func TestGeometry(t *testing.T) {
	s := func(first, last string) span { return span{netip.MustParseAddr(first), netip.MustParseAddr(last)} }
	g := geometry{
		{s("10.0.0.250", "10.0.1.5"), s("10.9.0.0", "10.9.255.255"), s("10.200.0.0", "10.200.0.9")},
		{s("fd00::ffff:ffff:ffff:fffe", "fd00:0:0:1::1"), s("fd01::", "fd01::ffff:ffff:ffff:ffff")},
		{s("fe00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")},
	}
	tests := []struct {
		addr  string
		set   int
		pos   uint32
		stray bool
	}{
		{addr: "10.0.0.250", set: 0, pos: 0},
		{addr: "10.0.1.5", set: 0, pos: 11},
		{addr: "10.9.0.0", set: 0, pos: 12},
		{addr: "10.9.255.243", set: 0, pos: Window - 1},
		{addr: "10.9.255.244", set: 0, stray: true},
		{addr: "10.200.0.0", set: 0, stray: true},
		{addr: "fd00::ffff:ffff:ffff:fffe", set: 1, pos: 0},
		{addr: "fd00:0:0:1::", set: 1, pos: 2},
		{addr: "fd00:0:0:1::1", set: 1, pos: 3},
		{addr: "fd01::", set: 1, pos: 4},
		{addr: "fd01::fffb", set: 1, pos: Window - 1},
		{addr: "fd01::fffc", set: 1, stray: true},
		{addr: "fd01::1:0:0:0", set: 1, stray: true},
		{addr: "fe00::ffff", set: 2, pos: Window - 1},
		{addr: "fe00::1:0", set: 2, stray: true},
		{addr: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", set: 2, stray: true},
	}
	for _, tt := range tests {
		t.Run(tt.addr, func(t *testing.T) {
			set, pos, stray, ok := g.locate(netip.MustParseAddr(tt.addr))
			require.True(t, ok)
			assert.Equal(t, tt.set, set)
			assert.Equal(t, tt.stray, stray)
			if !tt.stray {
				assert.Equal(t, tt.pos, pos)
				assert.Equal(t, tt.addr, g.at(set, pos).String())
			}
		})
	}
	for set := range g {
		assert.EqualValues(t, Window, g.size(set))
	}
	_, _, _, ok := g.locate(netip.MustParseAddr("10.0.1.6"))
	assert.False(t, ok)

	l := newLayout("boot", 42, g)
	decoded, ok := decodeLayout(l.encode())
	require.True(t, ok)
	assert.Equal(t, l, decoded)
}
