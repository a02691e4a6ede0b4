package subnet

import "slices"

// Snapshot is everything a Store holds at one revision. It and what it points to never change; a lease that did not change
// is the same *Lease in the next snapshot.
type Snapshot struct {
	Revision uint64    // no two different snapshots of a Store have the same; not less than that of any of its Leases
	Network  *Network  // never nil in a Store's snapshots; in one made by hand nil means that any address will do
	Leases   []*Lease  // everybody's, sorted by Key
	Problems []Problem // what could not be read at all
}

// Lease returns the node's lease, or nil: the first by Key, should there be more than one.
func (s *Snapshot) Lease(node string) *Lease {
	for _, l := range s.Leases {
		if l.Node == node {
			return l
		}
	}
	return nil
}

// Of returns the node's lease, or nil: the one of its name, else the one that stands under the address that it publishes, as
// flannel's nodes have theirs.
func (s *Snapshot) Of(n Node) *Lease {
	if l := s.Lease(n.Name); l != nil {
		return l
	}
	for a := range n.Published().All() {
		if l := s.Lease(a.String()); l != nil {
			return l
		}
	}
	return nil
}

// Changes returns the leases of an earlier snapshot that s does not have, and those of s that the earlier one did not have; one that
// changed is in both. What both have is told by its address in memory and not looked at, so that one change among thousands costs
// little.
func (s *Snapshot) Changes(since *Snapshot) (gone, come []*Lease) {
	was, is := since.Leases, s.Leases
	for len(was) > 0 && len(is) > 0 && was[0] == is[0] {
		was, is = was[1:], is[1:]
	}
	for len(was) > 0 && len(is) > 0 && was[len(was)-1] == is[len(is)-1] {
		was, is = was[:len(was)-1], is[:len(is)-1]
	}
	for len(was) > 0 && len(is) > 0 {
		switch a, b := was[0], is[0]; {
		case a == b:
			was, is = was[1:], is[1:]
		case a.Key < b.Key:
			gone, was = append(gone, a), was[1:]
		case a.Key > b.Key:
			come, is = append(come, b), is[1:]
		default:
			gone, come, was, is = append(gone, a), append(come, b), was[1:], is[1:]
		}
	}
	return append(gone, was...), append(come, is...)
}

// same reports whether s and o say the same. Equal revisions alone do not: a Store that has lost its data counts anew.
func (s *Snapshot) same(o *Snapshot) bool {
	return s.Revision == o.Revision && slices.EqualFunc(s.Leases, o.Leases, func(a, b *Lease) bool {
		return a == b || a.Key == b.Key && a.Node == b.Node && a.Revision == b.Revision && a.sameAttributes(b)
	})
}
