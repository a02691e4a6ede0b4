package subnet

import (
	"math/bits"
	"math/rand/v2"
	"net/netip"
)

// claim is a prefix that a lease wants, or has, as a number. All prefixes of a snapshot are compared each time a lease changes,
// and netip.Prefix, which has a pointer in it for zones, takes five times as long to hash.
type claim struct {
	first uint128
	lease int32 // its number in the snapshot
	bits  uint8 // of 128, also for IPv4
}

func newClaim(p netip.Prefix, lease int) claim {
	return claim{toUint128(p.Addr()), int32(lease), uint8(p.Bits() + 128 - p.Addr().BitLen())}
}

// enclosing returns the claim widened to that many bits, at most its own.
func (c claim) enclosing(bits uint8) claim {
	host := 128 - int(bits)
	return claim{c.first.shiftRight(host).shiftLeft(host), c.lease, bits}
}

func (c claim) samePrefix(o claim) bool { return c.first == o.first && c.bits == o.bits }

// space tells who has which part of an address space. Prefixes nest or are disjoint, so an overlap is found by looking at a
// few enclosing ones instead of at all others: as many as there are different lengths, and that is one as a rule.
type space struct {
	lengths []uint8 // in use, ascending
	held    *table
	within  *table // prefixes of a length in use -> the holder of some longer one in it
}

// newSpace makes an empty space for n claims of these lengths.
func newSpace(n int, used *[129]bool) *space {
	s := &space{held: newTable(n), within: newTable(0)}
	for bits, yes := range used {
		if yes {
			s.lengths = append(s.lengths, uint8(bits))
		}
	}
	return s
}

// give gives the prefix to the lease unless somebody has a part of it, and reports whether it did.
func (s *space) give(c claim) bool {
	if _, taken := s.overlapping(c); taken {
		return false
	}
	s.take(c)
	return true
}

// take gives the prefix to the lease, whoever else has a part of it.
func (s *space) take(c claim) {
	s.held.put(c)
	for _, bits := range s.lengths {
		if bits >= c.bits {
			break
		}
		s.within.put(c.enclosing(bits))
	}
}

// overlapping returns the lease that has a part of c's prefix, if there is one.
func (s *space) overlapping(c claim) (lease int32, ok bool) {
	for _, bits := range s.lengths {
		if bits > c.bits {
			break
		}
		if lease, ok = s.held.find(c.enclosing(bits)); ok {
			return lease, true
		}
	}
	return s.within.find(c)
}

// table is a hash table from prefixes to leases. It is a few lines because it never forgets.
type table struct {
	seed    [2]uint64 // so that nobody who writes leases can choose colliding ones
	slots   []int32   // a power of two of them, half of them empty: 0, else 1 + the entry
	entries []claim
}

func newTable(n int) *table {
	t := &table{seed: [2]uint64{rand.Uint64(), rand.Uint64()}, entries: make([]claim, 0, n)}
	t.resize(n)
	return t
}

func (t *table) find(c claim) (lease int32, ok bool) {
	if len(t.entries) == 0 {
		return 0, false
	}
	if e := t.slots[t.slot(c)]; e > 0 {
		return t.entries[e-1].lease, true
	}
	return 0, false
}

// put replaces the prefix's lease if it has one.
func (t *table) put(c claim) {
	slot := t.slot(c)
	if e := t.slots[slot]; e > 0 {
		t.entries[e-1].lease = c.lease
		return
	}
	t.entries = append(t.entries, c)
	t.slots[slot] = int32(len(t.entries))
	if 2*len(t.entries) > len(t.slots) {
		t.resize(len(t.entries))
	}
}

// resize makes the table at most half full of n entries.
func (t *table) resize(n int) {
	t.slots = make([]int32, 2<<bits.Len(uint(n)))
	for i, e := range t.entries {
		t.slots[t.slot(e)] = int32(i + 1)
	}
}

// slot returns where the prefix is, or where it would be.
func (t *table) slot(c claim) int {
	high, low := bits.Mul64(c.first.hi^t.seed[0], c.first.lo^t.seed[1]+uint64(c.bits)<<56)
	mask := len(t.slots) - 1
	for at := int(high^low) & mask; ; at = (at + 1) & mask {
		if e := t.slots[at]; e == 0 || t.entries[e-1].samePrefix(c) {
			return at
		}
	}
}
