package block

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"github.com/podweft/podweft/ipam"
)

// bridge makes one range of two until there are no more than a pool takes, the two with the least between them first. What is between is
// others': it becomes reserved. Ranges that are too far apart for that stay.
func bridge(cfg *ipam.Config) {
	cfg.Reserved = slices.Clone(cfg.Reserved)
	for {
		all, set, at, least := 0, 0, 0, uint64(math.MaxUint64)
		for i, ranges := range cfg.Sets {
			all += len(ranges)
			for j := 1; j < len(ranges); j++ {
				gap := distance(ranges[j-1].Last, ranges[j].First)
				if gap < least && gap < ipam.Window-addresses(ranges) {
					set, at, least = i, j, gap
				}
			}
		}
		if all <= ipam.MaxRanges || at == 0 {
			return
		}
		ranges := cfg.Sets[set]
		cfg.Reserved = append(cfg.Reserved, between(ranges[at-1].Last.Next(), ranges[at].First.Prev())...)
		ranges[at-1] = upTo(ranges[at-1], ranges[at].Last)
		cfg.Sets[set] = slices.Delete(ranges, at, at+1)
	}
}

// upTo is r with everything up to that address.
func upTo(r ipam.Range, end netip.Addr) ipam.Range {
	r.Last = end
	for !r.Prefix.Contains(end) {
		r.Prefix = netip.PrefixFrom(r.First, r.Prefix.Bits()-1).Masked()
	}
	return r
}

// addresses is how many there are in ranges.
func addresses(ranges []ipam.Range) (n uint64) {
	for _, r := range ranges {
		n += min(distance(r.First, r.Last), ipam.Window-1) + 1
	}
	return min(n, ipam.Window)
}

// distance is b-a, or the largest number if that is larger, for a <= b of one family.
func distance(a, b netip.Addr) uint64 {
	x, y := a.As16(), b.As16()
	if [8]byte(x[:8]) != [8]byte(y[:8]) {
		return math.MaxUint64
	}
	return binary.BigEndian.Uint64(y[8:]) - binary.BigEndian.Uint64(x[8:])
}

// between are the prefixes that make up everything from an address to another.
func between(from, to netip.Addr) (all []netip.Prefix) {
	for from.Compare(to) <= 0 {
		p := netip.PrefixFrom(from, from.BitLen())
		for wider := p; wider.Addr() == from && last(wider).Compare(to) <= 0 && p.Bits() > 0; wider = netip.PrefixFrom(from, p.Bits()-1).Masked() {
			p = wider
		}
		all = append(all, p)
		from = last(p).Next()
	}
	return all
}
