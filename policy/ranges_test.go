package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

// parseBlocks reads "10.0.0.0/8 except 10.1.0.0/16 10.2.0.0/16; fd00::/8".
func parseBlocks(text string) (out []*Block) {
	for part := range strings.SplitSeq(text, ";") {
		cidr, holes, _ := strings.Cut(part, "except")
		b := &Block{CIDR: netip.MustParsePrefix(strings.TrimSpace(cidr))}
		for _, hole := range strings.Fields(holes) {
			b.Except = append(b.Except, netip.MustParsePrefix(hole))
		}
		out = append(out, b)
	}
	return out
}

func TestRanges(t *testing.T) {
	tests := []struct{ name, blocks, want string }{
		{"one", "10.0.0.0/8", "10.0.0.0-10.255.255.255"},
		{"one address", "10.0.0.1/32; fd00::1/128", "10.0.0.1-10.0.0.1 fd00::1-fd00::1"},
		{"host bits", "10.1.2.3/8", "10.0.0.0-10.255.255.255"},
		{"all of IPv4", "0.0.0.0/0", "0.0.0.0-255.255.255.255"},
		{"all of IPv6", "::/0", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"all of both do not run into each other", "::/0; 0.0.0.0/0", "0.0.0.0-255.255.255.255 ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"the last of IPv4 and the first of IPv6", "255.255.255.255/32; ::/128", "255.255.255.255-255.255.255.255 ::-::"},
		{"a hole", "10.0.0.0/24 except 10.0.0.64/26", "10.0.0.0-10.0.0.63 10.0.0.128-10.0.0.255"},
		{"a hole at each end", "10.0.0.0/24 except 10.0.0.0/26 10.0.0.192/26", "10.0.0.64-10.0.0.191"},
		{"holes in any order, one in the other", "10.0.0.0/24 except 10.0.0.64/28 10.0.0.64/26 10.0.0.0/32", "10.0.0.1-10.0.0.63 10.0.0.128-10.0.0.255"},
		{"holes that leave nothing", "10.0.0.0/24 except 10.0.0.0/25 10.0.0.128/25", ""},
		{"a hole as large as the block", "10.0.0.0/24 except 10.0.0.0/24", ""},
		{"a hole larger than the block", "10.0.0.0/24 except 10.0.0.0/8", ""},
		{"a hole elsewhere", "10.0.0.0/24 except 10.1.0.0/16", "10.0.0.0-10.0.0.255"},
		{"a hole before the block", "10.1.0.0/24 except 10.0.0.0/24", "10.1.0.0-10.1.0.255"},
		{"a hole of the other family", "10.0.0.0/24 except ::/0", "10.0.0.0-10.0.0.255"},
		{"the last address there is as a hole", "0.0.0.0/0 except 255.255.255.255/32", "0.0.0.0-255.255.255.254"},
		{"the first address there is as a hole", "::/0 except ::/128", "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"a hole that another block covers", "10.0.0.0/8 except 10.1.0.0/16; 10.1.2.0/24", "10.0.0.0-10.0.255.255 10.1.2.0-10.1.2.255 10.2.0.0-10.255.255.255"},
		{"blocks that overlap", "10.0.0.0/24; 10.0.0.0/16; 10.0.0.0/24", "10.0.0.0-10.0.255.255"},
		{"blocks that touch", "10.0.0.0/25; 10.0.0.128/25", "10.0.0.0-10.0.0.255"},
		{"a small block within an earlier one", "10.0.0.0/8; 10.1.0.0/16; 10.2.0.0/16", "10.0.0.0-10.255.255.255"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, r := range ranges(parseBlocks(tt.blocks)) {
				got = append(got, fmt.Sprintf("%s-%s", r.From, r.To))
			}
			assert.Equal(t, tt.want, strings.Join(got, " "))
		})
	}
}

// TestRangesAreTheBlocks looks at every address near both ends of each family.
func TestRangesAreTheBlocks(t *testing.T) {
	ends := []netip.Addr{netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.240"), netip.MustParseAddr("10.0.0.0"),
		netip.MustParseAddr("::"), netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0"), netip.MustParseAddr("fd00::")}
	at := func(end netip.Addr, i int) netip.Addr {
		b := end.AsSlice()
		b[len(b)-1] += byte(i)
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		a := at(rapid.SampledFrom(ends).Draw(t, "end"), rapid.IntRange(0, 15).Draw(t, "i"))
		return netip.PrefixFrom(a, rapid.SampledFrom([]int{0, 1, a.BitLen() - 4, a.BitLen() - 3, a.BitLen() - 2, a.BitLen() - 1, a.BitLen()}).Draw(t, "bits"))
	})
	rapid.Check(t, func(t *rapid.T) {
		var blocks []*Block
		for range rapid.IntRange(0, 4).Draw(t, "blocks") {
			blocks = append(blocks, &Block{CIDR: prefix.Draw(t, "cidr"), Except: rapid.SliceOfN(prefix, 0, 4).Draw(t, "except")})
		}
		set := BlockSet{Ranges: ranges(blocks)}
		for i, r := range set.Ranges {
			if r.To.Less(r.From) || r.From.BitLen() != r.To.BitLen() {
				t.Fatalf("%v is no range", r)
			}
			if i > 0 && set.Ranges[i-1].meets(r) {
				t.Fatalf("%v and %v are not apart", set.Ranges[i-1], r)
			}
		}
		for _, end := range ends {
			for i := range 16 {
				a, want := at(end, i), false
				for _, b := range blocks {
					want = want || b.contains(a)
				}
				if want != set.contains(a) {
					t.Fatalf("%s: want %t of %v", a, want, set.Ranges)
				}
			}
		}
	})
}
