package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
)

// Spec says which packets leave the node with the node's own address: those from Masquerade, unless they go to Exempt, to
// Masquerade itself or to a multicast group. Both families may be mixed. The zero Spec masquerades nothing and needs no
// table.
type Spec struct {
	// Masquerade are this node's own pod prefixes. Every node masquerades its own pods and nobody else's: the packets of
	// others pass through it untouched.
	Masquerade []netip.Prefix
	// Exempt are the destinations towards which pods keep their address: the cluster's pod networks, and whatever else
	// knows the way back to a pod.
	Exempt []netip.Prefix
}

// multicast destinations are never masqueraded towards: a group's members answer the sender they see.
func multicast() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8")}
}

// Validate reports everything in the Spec that makes no sense, each as a [*podweft.FieldError].
func (s Spec) Validate() error {
	var errs []error
	for i, p := range s.Masquerade {
		errs = append(errs, checkPrefix(fmt.Sprintf("Masquerade[%d]", i), p))
		if p.IsValid() && p.Bits() == 0 {
			errs = append(errs, &podweft.FieldError{
				Field: fmt.Sprintf("Masquerade[%d]", i), Value: p, Problem: "is every address, this node's own included",
				Remedy: "name this node's pod prefix",
			})
		}
	}
	for i, p := range s.Exempt {
		errs = append(errs, checkPrefix(fmt.Sprintf("Exempt[%d]", i), p))
	}
	return errors.Join(errs...)
}

func checkPrefix(field string, p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return &podweft.FieldError{Field: field, Problem: "is not a prefix", Remedy: "write one like 10.244.1.0/24"}
	case p.Addr().Is4In6():
		return &podweft.FieldError{
			Field: field, Value: p, Problem: "is an IPv4 address written as IPv6",
			Remedy: "write " + p.Addr().Unmap().String() + " and its own prefix length",
		}
	case p != p.Masked():
		return &podweft.FieldError{
			Field: field, Value: p, Problem: "has bits set behind its prefix length", Remedy: "write " + p.Masked().String(),
		}
	}
	return nil
}

// disjoint sorts prefixes and leaves out those that another one contains: the ranges in a set must not overlap.
func disjoint(prefixes []netip.Prefix) []netip.Prefix {
	sorted := slices.SortedFunc(slices.Values(prefixes), netip.Prefix.Compare) // the wider first, at the same address
	var kept []netip.Prefix
	for _, p := range sorted {
		if len(kept) == 0 || !kept[len(kept)-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return kept
}
