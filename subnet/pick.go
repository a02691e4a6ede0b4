package subnet

import (
	"cmp"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// Pick chooses subnets for a node, one for each family that is on: in each family the first of prefer that is a subnet of
// the Network and free, else a free one at random. taken yields what other nodes hold and what is reserved, of whatever
// length. Pick only chooses; to make the choice the node's own is the Store's part.
//
// The error is [ErrExhausted] only when every subnet between Min and Max overlaps something taken, and podweft.ErrInvalid
// when n makes no sense.
func (n *Network) Pick(prefer []Prefixes, taken iter.Seq[Prefixes]) (Prefixes, error) {
	full, err := n.complete()
	if err != nil {
		return Prefixes{}, err
	}
	var used [2][]netip.Prefix
	for t := range taken {
		for f, p := range t.pair() {
			if p.IsValid() {
				used[f] = append(used[f], p)
			}
		}
	}
	var picked [2]netip.Prefix
	for f, r := range full.ranges() {
		if r.IsZero() {
			continue
		}
		var wanted []netip.Prefix
		for _, p := range prefer {
			wanted = append(wanted, p.pair()[f])
		}
		if picked[f], err = r.pick(wanted, used[f]); err != nil {
			return Prefixes{}, err
		}
	}
	return Prefixes{picked[v4], picked[v6]}, nil
}

// Fits reports whether p is what n gives to one node: a subnet of every family that is on, and of no other.
func (n *Network) Fits(p Prefixes) bool {
	for f, r := range n.ranges() {
		if p := p.pair()[f]; r.IsZero() != (p == netip.Prefix{}) || !r.IsZero() && !r.Contains(p) {
			return false
		}
	}
	return true
}

func (r Range) pick(wanted, taken []netip.Prefix) (netip.Prefix, error) {
	for _, p := range wanted {
		if r.Contains(p) && !slices.ContainsFunc(taken, p.Overlaps) {
			return p, nil
		}
	}
	gaps, free := r.gaps(taken)
	if free == 0 {
		return netip.Prefix{}, fmt.Errorf("%w: every /%d from %s to %s is taken (%d)", ErrExhausted, r.SubnetLen, r.Min, r.Max, r.count())
	}
	nth, i := rand.Uint64N(free), 0
	for ; nth >= gaps[i].size(); i++ {
		nth -= gaps[i].size()
	}
	return r.subnet(gaps[i].start + nth), nil
}

// span is the subnets number start up to, not including, end.
type span struct{ start, end uint64 }

func (s span) size() uint64 { return s.end - s.start }

// gaps returns the subnets that overlap nothing taken, and their number.
func (r Range) gaps(taken []netip.Prefix) (gaps []span, free uint64) {
	spans := make([]span, 0, len(taken))
	for _, p := range taken {
		if s, ok := r.touched(p); ok {
			spans = append(spans, s)
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	at, count := uint64(0), r.count()
	for _, s := range append(spans, span{count, count}) {
		if s.start > at {
			gaps = append(gaps, span{at, s.start})
			free += s.start - at
		}
		at = max(at, s.end)
	}
	return gaps, free
}

// touched returns the subnets of r that overlap p.
func (r Range) touched(p netip.Prefix) (span, bool) {
	p = p.Masked()
	host := p.Addr().BitLen() - p.Bits()
	first := toUint128(p.Addr())
	last := first.add(uint128{lo: 1}.shiftLeft(host)).sub(uint128{lo: 1})
	size := uint128{lo: 1}.shiftLeft(r.Min.BitLen() - r.SubnetLen)
	low, high := toUint128(r.Min), toUint128(r.Max).add(size).sub(uint128{lo: 1})
	if p.Addr().BitLen() != r.Min.BitLen() || first.compare(high) > 0 || last.compare(low) < 0 {
		return span{}, false
	}
	if first.compare(low) < 0 {
		first = low
	}
	s := span{r.number(first), r.number(last)}
	if count := r.count(); s.start >= count {
		return span{}, false
	} else if s.end < count {
		s.end++
	}
	return s, true
}

// maxCount bounds how many subnets of a range are told apart. An IPv6 network can have more, and enough is enough.
const maxCount = 1 << 62

// count is the number of subnets in r, at most maxCount.
func (r Range) count() uint64 { return min(r.number(toUint128(r.Max)), maxCount-1) + 1 }

// number is which subnet the address is in, counted from Min; addresses beyond the countable ones share a number.
func (r Range) number(addr uint128) uint64 {
	n := addr.sub(toUint128(r.Min)).shiftRight(r.Min.BitLen() - r.SubnetLen)
	if n.hi > 0 {
		return maxCount
	}
	return min(n.lo, maxCount)
}

// subnet is subnet number n.
func (r Range) subnet(n uint64) netip.Prefix {
	at := toUint128(r.Min).add(uint128{lo: n}.shiftLeft(r.Min.BitLen() - r.SubnetLen))
	return netip.PrefixFrom(at.addr(r.Min), r.SubnetLen)
}
