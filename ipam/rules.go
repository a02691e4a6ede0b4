package ipam

import (
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"github.com/podweft/podweft"
)

// A ruleset is what a Config says, with every default filled in.
type ruleset struct {
	ranges   [][]Range // by set; First and Last are the bounds, Gateway is set
	geometry geometry
	reserved []netip.Prefix
	excluded [][]uint64     // by set: a bit for each position of the window that is never given out
	bounds   []netip.Prefix // outside of which nothing is given out; nil: there are none
}

// name is a set as people know it, by its prefixes.
func (rules *ruleset) name(set int) string {
	var names []string
	for _, r := range rules.ranges[set] {
		if n := r.Prefix.String(); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return strings.Join(names, ", ")
}

// assign puts each wanted address to its set. Sets for which none is wanted have the zero Addr.
func (rules *ruleset) assign(want []netip.Addr) (bySet []netip.Addr, err error) {
	bySet = make([]netip.Addr, len(rules.ranges))
	for _, a := range want {
		a = a.Unmap()
		bad := func(problem string) error { return &podweft.FieldError{Field: "want", Value: a, Problem: problem} }
		set, _, _, ok := rules.geometry.locate(a)
		switch {
		case !ok:
			return nil, bad("is not in the ranges " + rules.geometry.String())
		case rules.isReserved(a):
			return nil, bad("is a gateway or reserved")
		case rules.bounds != nil && !slices.ContainsFunc(rules.bounds, func(p netip.Prefix) bool { return p.Contains(a) }):
			return nil, bad("is not for this owner")
		case bySet[set].IsValid():
			return nil, bad("is the second one wanted of " + rules.name(set))
		}
		bySet[set] = a
	}
	return bySet, nil
}

func (rules *ruleset) isReserved(a netip.Addr) bool {
	for _, set := range rules.ranges {
		if slices.ContainsFunc(set, func(r Range) bool { return r.Gateway == a }) {
			return true
		}
	}
	return slices.ContainsFunc(rules.reserved, func(p netip.Prefix) bool { return p.Contains(a) })
}

// address is an address of a set with what its range says of it.
func (rules *ruleset) address(set int, a netip.Addr) Address {
	for _, r := range rules.ranges[set] {
		if (span{r.First, r.Last}).contains(a) {
			return r.address(a)
		}
	}
	return Address{Prefix: netip.PrefixFrom(a, a.BitLen())}
}

// address is a, an address of r, with what r says of it.
func (r Range) address(a netip.Addr) Address {
	if r.Routed {
		return Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Gateway: r.Gateway}
	}
	return Address{Prefix: netip.PrefixFrom(a, r.Prefix.Bits()), Gateway: r.Gateway}
}

// exclude fills rules.excluded: gateways, the reserved prefixes, and the bits of the last block beyond the window.
func (rules *ruleset) exclude() {
	for set := range rules.geometry {
		size := rules.geometry.size(set)
		mask := make([]uint64, bitmapBlocks(size)*bitmapWords)
		setBits(mask, size, uint32(len(mask)*64-1))
		for _, r := range slices.Concat(rules.ranges...) {
			rules.mark(mask, set, span{r.Gateway, r.Gateway})
		}
		for _, p := range rules.reserved {
			p = p.Masked()
			rules.mark(mask, set, span{p.Addr(), last(p)})
		}
		rules.excluded = append(rules.excluded, mask)
	}
}

// within is rules with nothing but addresses of these prefixes to give out.
func (rules *ruleset) within(prefixes []netip.Prefix) *ruleset {
	narrow := *rules
	narrow.bounds = rules.overlaps(prefixes)
	narrow.excluded = nil
	for set, excluded := range rules.excluded {
		inside := make([]uint64, len(excluded))
		for _, p := range prefixes {
			if p.IsValid() {
				rules.mark(inside, set, span{p.Masked().Addr(), last(p.Masked())})
			}
		}
		mask := slices.Clone(excluded)
		for i := range mask {
			mask[i] |= ^inside[i]
		}
		narrow.excluded = append(narrow.excluded, mask)
	}
	return &narrow
}

// overlaps is what of prefixes lies within the bounds that there are already. It is not nil.
func (rules *ruleset) overlaps(prefixes []netip.Prefix) []netip.Prefix {
	if rules.bounds == nil {
		return append([]netip.Prefix{}, prefixes...)
	}
	both := []netip.Prefix{}
	for _, p := range prefixes {
		for _, q := range rules.bounds {
			if p.Overlaps(q) && q.Bits() > p.Bits() {
				both = append(both, q)
			} else if p.Overlaps(q) {
				both = append(both, p)
			}
		}
	}
	return both
}

// mark sets the bits of those positions of a set that lie in out.
func (rules *ruleset) mark(mask []uint64, set int, out span) {
	for _, s := range rules.geometry[set] {
		if !s.overlaps(out) {
			continue
		}
		_, from, stray, _ := rules.geometry.locate(maxAddr(s.first, out.first))
		if stray {
			continue
		}
		_, to, _, _ := rules.geometry.locate(minAddr(s.last, out.last))
		setBits(mask, from, min(to, rules.geometry.size(set)-1))
	}
}

// capacity is how many addresses a set has to give.
func (rules *ruleset) capacity(set int) int {
	n := len(rules.excluded[set]) * 64
	for _, word := range rules.excluded[set] {
		n -= bits.OnesCount64(word)
	}
	return n
}

func setBits(mask []uint64, from, to uint32) {
	for pos := from; pos <= to; pos++ {
		if pos%64 == 0 && to-pos >= 63 {
			mask[pos/64] = ^uint64(0)
			pos += 63
			continue
		}
		mask[pos/64] |= 1 << (pos % 64)
	}
}
