package policy

import (
	"net/netip"
	"slices"
)

// ranges is all addresses of blocks, each less its own holes: sorted, and so that no two ranges overlap or touch. A packet
// filter's own ways to say "but not" (nomatch, a second set) mean "in none of the blocks" instead.
func ranges(blocks []*Block) []Range {
	var all []Range
	for _, b := range blocks {
		all = append(all, b.ranges()...)
	}
	slices.SortFunc(all, Range.compare)
	var apart []Range
	for _, r := range all {
		last := len(apart) - 1
		if last < 0 || !apart[last].meets(r) {
			apart = append(apart, r)
		} else if apart[last].To.Less(r.To) {
			apart[last].To = r.To
		}
	}
	return apart
}

// ranges is the block less its holes.
func (b *Block) ranges() []Range {
	whole := prefixRange(b.CIDR)
	holes := make([]Range, 0, len(b.Except))
	for _, except := range b.Except {
		if hole := prefixRange(except); except.Addr().BitLen() == b.CIDR.Addr().BitLen() {
			holes = append(holes, hole)
		}
	}
	slices.SortFunc(holes, Range.compare)

	var left []Range
	from := whole.From // the first address that no hole before has taken; invalid after the last there is
	for _, hole := range holes {
		if !from.IsValid() || whole.To.Less(hole.From) {
			break
		}
		if from.Less(hole.From) {
			left = append(left, Range{from, hole.From.Prev()})
		}
		if !hole.To.Less(from) {
			from = hole.To.Next()
		}
	}
	if from.IsValid() && !whole.To.Less(from) {
		left = append(left, Range{from, whole.To})
	}
	return left
}

// prefixRange is all addresses of a prefix.
func prefixRange(p netip.Prefix) Range {
	first := p.Masked().Addr()
	last := first.AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	to, _ := netip.AddrFromSlice(last)
	return Range{first, to}
}

// compare orders by the first address, IPv4 before IPv6.
func (r Range) compare(o Range) int { return r.From.Compare(o.From) }

// meets reports whether o, which does not begin before r, overlaps r or begins where r ends. Families never meet: the last
// address of IPv4 has no next one.
func (r Range) meets(o Range) bool {
	if r.From.BitLen() != o.From.BitLen() {
		return false
	}
	next := r.To.Next()
	return !next.IsValid() || !next.Less(o.From)
}
