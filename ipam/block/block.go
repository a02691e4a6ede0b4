package block

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/podweft/podweft"
)

// Block is one block of a pool, as a [Store] has it.
type Block struct {
	Prefix netip.Prefix `json:"prefix"`
	// Node is whose block it is: that node takes shares of it first. Empty: its node has none any more, but others do.
	Node string `json:"node,omitempty"`
	// Shares are the parts that nodes have taken, in order. No two overlap. Of a block that is claimed as a whole there is
	// one.
	Shares []Share `json:"shares"`
	// Revision is the Store's, and changes with every Write. It means nothing but to that Store; empty is a block that is
	// not there.
	Revision string `json:"-"`
}

// Share is a part of a block, or all of it, whose addresses one node gives out and no other.
type Share struct {
	Prefix netip.Prefix `json:"prefix"`
	Node   string       `json:"node"`
	// Doubted is since when the node is held for dead; see [Collect].
	Doubted time.Time `json:"doubted,omitzero"`
}

// String is the share as "10.244.1.0/26 of node-1".
func (s Share) String() string { return s.Prefix.String() + " of " + s.Node }

// Validate reports everything in b that no Store should take, joined, each as a [*podweft.FieldError].
func (b Block) Validate() error {
	var errs []error
	bad := func(field string, value any, problem string) {
		errs = append(errs, &podweft.FieldError{Field: field, Value: value, Problem: problem})
	}
	if problem := prefixFlaw(b.Prefix); problem != "" {
		bad("Prefix", b.Prefix, problem)
		return errors.Join(errs...)
	}
	for i, s := range b.Shares {
		field := fmt.Sprintf("Shares[%d]", i)
		switch {
		case prefixFlaw(s.Prefix) != "":
			bad(field+".Prefix", s.Prefix, prefixFlaw(s.Prefix))
		case !within(s.Prefix, b.Prefix):
			bad(field+".Prefix", s.Prefix, "is no part of "+b.Prefix.String())
		case i > 0 && !b.Shares[i-1].Prefix.Addr().Less(s.Prefix.Addr()):
			bad(field+".Prefix", s.Prefix, "is not in order")
		case i > 0 && b.Shares[i-1].Prefix.Overlaps(s.Prefix):
			bad(field+".Prefix", s.Prefix, "overlaps "+b.Shares[i-1].Prefix.String())
		}
		if s.Node == "" {
			bad(field+".Node", nil, "is missing")
		}
	}
	return errors.Join(errs...)
}

// Clone returns a copy that shares nothing with b.
func (b Block) Clone() Block {
	b.Shares = slices.Clone(b.Shares)
	return b
}

// with is b with one more share, which must be free.
func (b Block) with(s Share) Block {
	b = b.Clone()
	at, _ := slices.BinarySearchFunc(b.Shares, s, func(a, s Share) int { return a.Prefix.Addr().Compare(s.Prefix.Addr()) })
	b.Shares = slices.Insert(b.Shares, at, s)
	return b
}

// without is b without the shares that gone says yes to. A node without a share in its block loses that too.
func (b Block) without(gone func(Share) bool) Block {
	b = b.Clone()
	b.Shares = slices.DeleteFunc(b.Shares, gone)
	if !slices.ContainsFunc(b.Shares, func(s Share) bool { return s.Node == b.Node }) {
		b.Node = ""
	}
	return b
}

// free finds the first part of b of a length that nobody has taken, the one with want if that is valid.
func (b Block) free(bits int, want netip.Addr) (netip.Prefix, bool) {
	if want.IsValid() {
		part := netip.PrefixFrom(want, bits).Masked()
		return part, within(part, b.Prefix) && !b.taken(part)
	}
	for part := netip.PrefixFrom(b.Prefix.Addr(), bits); within(part, b.Prefix); {
		if !b.taken(part) {
			return part, true
		}
		next := last(part).Next()
		if !next.IsValid() {
			break
		}
		part = netip.PrefixFrom(next, bits)
	}
	return netip.Prefix{}, false
}

func (b Block) taken(part netip.Prefix) bool {
	return slices.ContainsFunc(b.Shares, func(s Share) bool { return s.Prefix.Overlaps(part) })
}

// prefixFlaw says what is wrong with a prefix, or nothing.
func prefixFlaw(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "is not a prefix"
	case p.Addr().Is4In6():
		return "holds IPv4 addresses in IPv6 form"
	case p != p.Masked():
		return "has host bits"
	}
	return ""
}

// within reports whether all of p lies in q.
func within(p, q netip.Prefix) bool { return p.Bits() >= q.Bits() && q.Overlaps(p) }

// last is the highest address of p.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
