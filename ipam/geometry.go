package ipam

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

// Window is how many addresses of a set can be given out without being asked for by name. It bounds the bitmaps, and with
// them the time of a call; no node runs more pods.
const Window = 1 << 16

// span is a run of addresses of one family, both ends included.
type span struct{ first, last netip.Addr }

func (s span) contains(a netip.Addr) bool {
	// The family is compared apart since netip orders every IPv4 address before every IPv6 one; a zone sorts after its
	// plain address and would pass as the one before the next.
	return a.BitLen() == s.first.BitLen() && a.Zone() == "" && !a.Less(s.first) && !s.last.Less(a)
}

func (s span) overlaps(t span) bool { return s.contains(t.first) || t.contains(s.first) }

func (s span) String() string { return s.first.String() + "-" + s.last.String() }

// geometry is the sets of spans that a store file is laid out for. The addresses of a set have positions: those of its
// first span from 0 on, then those of the next, up to the end of the window.
type geometry [][]span

// equal reports whether g and h lay out a file alike.
func (g geometry) equal(h geometry) bool { return slices.EqualFunc(g, h, slices.Equal[[]span]) }

// flaw finds what makes g unusable: the number of the offending span, and its problem in words.
func (g geometry) flaw() (n int, problem string) {
	var seen []span
	for _, set := range g {
		for _, s := range set {
			switch i := slices.IndexFunc(seen, s.overlaps); {
			case s.first.BitLen() != set[0].first.BitLen():
				return len(seen), "is of another family than the first range of its set"
			case s.first.BitLen() != s.last.BitLen() || s.last.Less(s.first):
				return len(seen), "ends before it begins"
			case i >= 0:
				return len(seen), fmt.Sprintf("%s overlaps %s", s, seen[i])
			}
			seen = append(seen, s)
		}
	}
	return 0, ""
}

// index is the number of the first span of a set among all spans.
func (g geometry) index(set int) int {
	n := 0
	for _, spans := range g[:set] {
		n += len(spans)
	}
	return n
}

// size is the number of positions of a set.
func (g geometry) size(set int) uint32 {
	n := uint64(0)
	for _, s := range g[set] {
		n += min(distance(s.first, s.last), Window) + 1
	}
	return uint32(min(n, Window))
}

// locate finds the set that a belongs to, and its position there. An address of the set beyond the window is a stray: it
// has no position.
func (g geometry) locate(a netip.Addr) (set int, pos uint32, stray, ok bool) {
	for set, spans := range g {
		before := uint64(0)
		for _, s := range spans {
			if s.contains(a) {
				p := before + min(distance(s.first, a), Window)
				return set, uint32(p), p >= Window, true
			}
			before += min(distance(s.first, s.last), Window) + 1
		}
	}
	return 0, 0, true, false
}

// at is the address at a position of a set.
func (g geometry) at(set int, pos uint32) netip.Addr {
	left := uint64(pos)
	for _, s := range g[set] {
		n := distance(s.first, s.last)
		if left <= n {
			return add(s.first, left)
		}
		left -= n + 1
	}
	return netip.Addr{}
}

// String is the sets as people write them, "10.244.1.1-10.244.1.254 fd00::1-fd00::ff".
func (g geometry) String() string {
	var words []string
	for _, set := range g {
		for _, s := range set {
			words = append(words, s.String())
		}
	}
	return strings.Join(words, " ")
}

// hosts is p without its network's and broadcast address (IPv4) or its subnet-router anycast address (IPv6).
func hosts(p netip.Prefix) span {
	s := span{p.Addr().Next(), last(p)}
	if p.Addr().Is4() {
		s.last = s.last.Prev()
	}
	return s
}

// last is the highest address of p.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// distance is b-a, or the largest number if it is larger, for a <= b of one family.
func distance(a, b netip.Addr) uint64 {
	x, y := a.As16(), b.As16()
	lo, borrow := bits.Sub64(binary.BigEndian.Uint64(y[8:]), binary.BigEndian.Uint64(x[8:]), 0)
	hi, _ := bits.Sub64(binary.BigEndian.Uint64(y[:8]), binary.BigEndian.Uint64(x[:8]), borrow)
	if hi != 0 {
		return ^uint64(0)
	}
	return lo
}

// add is a+n, in a's family.
func add(a netip.Addr, n uint64) netip.Addr {
	b := a.As16()
	lo, carry := bits.Add64(binary.BigEndian.Uint64(b[8:]), n, 0)
	binary.BigEndian.PutUint64(b[8:], lo)
	binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])+carry)
	sum := netip.AddrFrom16(b)
	if a.Is4() {
		return sum.Unmap()
	}
	return sum
}

func minAddr(a, b netip.Addr) netip.Addr {
	if b.Less(a) {
		return b
	}
	return a
}

func maxAddr(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return b
	}
	return a
}
