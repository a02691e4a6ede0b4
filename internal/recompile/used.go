package recompile

import (
	"net/netip"

	"github.com/podweft/podweft/subnet"
)

// used is what nobody else may have: the pods' addresses of some leases, and the marks of their peers.
type used[M comparable] struct {
	prefixes map[netip.Prefix]struct{}
	lengths  map[length]int // how many prefixes are that long
	marks    map[M]struct{}
}

type length struct {
	v4   bool
	bits int
}

func lengthOf(p netip.Prefix) length { return length{p.Addr().Is4(), p.Bits()} }

func newUsed[M comparable](n int) *used[M] {
	return &used[M]{prefixes: make(map[netip.Prefix]struct{}, n), lengths: map[length]int{}, marks: make(map[M]struct{}, n)}
}

func (u *used[M]) add(leases []*subnet.Lease) {
	for _, l := range leases {
		for p := range l.Prefixes.All() {
			u.prefixes[p.Masked()] = struct{}{}
			u.lengths[lengthOf(p)]++
		}
	}
}

func (u *used[M]) remove(leases []*subnet.Lease) {
	for _, l := range leases {
		for p := range l.Prefixes.All() {
			delete(u.prefixes, p)
			u.lengths[lengthOf(p)]--
		}
	}
}

// meets reports whether one of the leases has an address in common with those that were added.
func (u *used[M]) meets(leases []*subnet.Lease) bool {
	for _, l := range leases {
		for p := range l.Prefixes.All() {
			if u.overlaps(p) {
				return true
			}
		}
	}
	return false
}

// overlaps looks for what encloses p, which takes one look for each length there is; at all prefixes only where some are longer.
func (u *used[M]) overlaps(p netip.Prefix) bool {
	longer := false
	for l, n := range u.lengths {
		switch {
		case n == 0 || l.v4 != p.Addr().Is4():
		case l.bits > p.Bits():
			longer = true
		default:
			if _, taken := u.prefixes[netip.PrefixFrom(p.Addr(), l.bits).Masked()]; taken {
				return true
			}
		}
	}
	if longer {
		for o := range u.prefixes {
			if p.Overlaps(o) {
				return true
			}
		}
	}
	return false
}
