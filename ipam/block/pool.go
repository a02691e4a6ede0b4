package block

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
)

// Pool is a prefix whose blocks nodes claim. Which nodes use which pools is the caller's business: give each node its own.
type Pool struct {
	Prefix netip.Prefix
	// BlockBits is the prefix length of a block. Zero: 26 for IPv4 and 122 for IPv6, which are 64 addresses. It can be
	// changed; blocks that are claimed stay as they are.
	BlockBits int
	// Borrow lets nodes take a block in eight parts, one after the other, and of what a node has not taken of its block
	// others may borrow when no block is left. Then no address lies idle while somebody needs it, but a node may have
	// addresses anywhere. False: a block belongs to one node as a whole.
	Borrow bool
}

// borrowBits is by how much a part that can be borrowed is longer than its block.
const borrowBits = 3

func (p Pool) complete(field string) (Pool, error) {
	bad := func(field string, value any, problem, remedy string) (Pool, error) {
		return p, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy}
	}
	if problem := prefixFlaw(p.Prefix); problem != "" {
		return bad(field+".Prefix", p.Prefix, problem, "write one like 10.244.0.0/16")
	}
	all := p.Prefix.Addr().BitLen()
	if p.BlockBits == 0 {
		p.BlockBits = max(all-6, p.Prefix.Bits())
	}
	if p.BlockBits < p.Prefix.Bits() || p.BlockBits > all {
		return bad(field+".BlockBits", p.BlockBits, "is not the length of a part of "+p.Prefix.String(),
			fmt.Sprintf("use %d to %d", p.Prefix.Bits(), all))
	}
	return p, nil
}

// shareBits is the prefix length of the parts that blocks are taken in.
func (p Pool) shareBits() int {
	if !p.Borrow {
		return p.BlockBits
	}
	return min(p.BlockBits+borrowBits, p.Prefix.Addr().BitLen())
}

// unclaimed finds a block of p that overlaps none of blocks, which are in order: the one with want if that is valid, else the
// first from a place on that depends on the node, so that nodes that claim at the same time seldom meet, and one that
// returned a block and claims again finds it where it was.
func (p Pool) unclaimed(blocks []Block, node string, want netip.Addr) (netip.Prefix, bool) {
	if want.IsValid() {
		c := netip.PrefixFrom(want, p.BlockBits).Masked()
		_, taken := overlapping(blocks, c)
		return c, !taken
	}
	c := p.place(node)
	for range 2*len(blocks) + 2 { // each step leaves a block behind, until the walk has come round
		b, taken := overlapping(blocks, c)
		if !taken {
			return c, true
		}
		end := last(c)
		if other := last(b.Prefix); end.Less(other) {
			end = other
		}
		next := end.Next()
		if !next.IsValid() || !p.Prefix.Contains(next) {
			next = p.Prefix.Addr()
		}
		c = netip.PrefixFrom(next, p.BlockBits).Masked()
	}
	return netip.Prefix{}, false
}

// place is the block that a node looks at first.
func (p Pool) place(node string) netip.Prefix {
	h := fnv.New128a()
	h.Write([]byte(node + " in " + p.Prefix.String()))
	sum := h.Sum(nil)
	a := p.Prefix.Addr().AsSlice()
	for i := p.Prefix.Bits(); i < p.BlockBits; i++ {
		a[i/8] |= sum[(i/8)%len(sum)] & (0x80 >> (i % 8))
	}
	addr, _ := netip.AddrFromSlice(a)
	return netip.PrefixFrom(addr, p.BlockBits)
}

// overlapping finds the first of blocks, which are in order and do not overlap each other, that overlaps c.
func overlapping(blocks []Block, c netip.Prefix) (Block, bool) {
	// The first block that ends at or behind c's beginning is the only one that can overlap it first.
	at, _ := slices.BinarySearchFunc(blocks, c.Addr(), func(b Block, a netip.Addr) int { return last(b.Prefix).Compare(a) })
	if at < len(blocks) && blocks[at].Prefix.Overlaps(c) {
		return blocks[at], true
	}
	return Block{}, false
}
