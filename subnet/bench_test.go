package subnet_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/podweft/podweft/subnet"
)

// snapshot makes n dual-stack leases of a cluster that can have 64k nodes.
func snapshot(n int) *subnet.Snapshot {
	network := &subnet.Network{
		V4: subnet.Range{Network: netip.MustParsePrefix("10.0.0.0/8")},
		V6: subnet.Range{Network: netip.MustParsePrefix("fd00:244::/48")},
	}
	s := &subnet.Snapshot{Revision: 1, Network: network}
	for i := range n {
		a, b := byte((i+1)>>8), byte(i+1)
		p4 := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, a, b, 0}), 24)
		p6 := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 2, 0x44, 0, 0, a, b}), 64)
		s.Leases = append(s.Leases, &subnet.Lease{
			Key:      fmt.Sprintf("%s-24&%s-64", p4.Addr(), p6.Addr()),
			Node:     fmt.Sprintf("node-%d", i),
			Prefixes: subnet.Prefixes{V4: p4, V6: p6},
			Underlay: subnet.Addrs{
				V4: netip.AddrFrom4([4]byte{192, 168, a, b}),
				V6: netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 14: a, 15: b}),
			},
			Revision: uint64(i + 1),
		})
	}
	slices.SortFunc(s.Leases, func(x, y *subnet.Lease) int { return strings.Compare(x.Key, y.Key) })
	return s
}

func BenchmarkPeers(b *testing.B) {
	s := snapshot(5000)
	b.ReportAllocs()
	for b.Loop() {
		if peers, problems := s.Peers("node-7"); len(peers) != 4999 || len(problems) != 0 {
			b.Fatal(len(peers), problems)
		}
	}
}
