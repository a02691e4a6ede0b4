package subnet

import (
	"net/netip"

	"github.com/podweft/podweft"
)

// Peers returns the leases of the other nodes that a driver may program, in the order of their keys, and what it left out.
// Whatever stands in the snapshot, the prefixes it returns
//
//   - lie inside the Network's range of their family, without host bits;
//   - overlap neither self's own nor each other. Self's always win; among the others those of the Network's SubnetLen win
//     over those of another length, and then the one that comes first by Key;
//
// and the underlay addresses are unicast addresses that a packet can be sent to: not unspecified, loopback, link-local or
// self's own.
//
// A prefix of another length than SubnetLen is kept where it overlaps nothing: such are the leases from before a change of
// SubnetLen, and those of Kubernetes nodes, whose lengths the cluster chooses.
//
// A lease with something bad in one family keeps the other: it is returned as a copy without the bad prefix or address. One
// that has no prefix or no address left is not returned.
func (s *Snapshot) Peers(self string) ([]*Lease, []Problem) {
	j := newJudge(s, self)
	peers := make([]*Lease, 0, len(s.Leases))
	for i, l := range s.Leases {
		if l == nil || l.Node == self {
			continue
		}
		if sound := j.judge(i, l); sound != nil {
			peers = append(peers, sound)
		}
	}
	return peers, j.problems
}

// judge decides which parts of which leases are sound.
type judge struct {
	leases   []*Lease
	anywhere bool         // there is no Network to judge by
	ranges   [2]Range     // the Network's
	own      []netip.Addr // self's underlay addresses
	space    [2]*space    // who has which prefix
	holds    [2][]bool    // whether lease number i has its own
	problems []Problem
}

func newJudge(s *Snapshot, self string) *judge {
	j := &judge{leases: s.Leases, anywhere: s.Network == nil}
	if s.Network != nil {
		j.ranges = [...]Range{s.Network.V4.filled(), s.Network.V6.filled()}
	}
	for _, l := range s.Leases {
		if l != nil && l.Node == self {
			j.own = append(j.own, l.Underlay.V4, l.Underlay.V6)
		}
	}
	for _, f := range families {
		j.divide(f, self)
	}
	return j
}

// divide gives each prefix of the family to the first lease by rank, then by Key, that claims it or a part of it.
func (j *judge) divide(f family, self string) {
	const ours, usualLength, otherLength = 0, 1, 2
	var byRank [3][]claim
	var lengths [129]bool
	for i, l := range j.leases {
		if l == nil {
			continue
		}
		p := l.Prefixes.pair()[f]
		if p == (netip.Prefix{}) || j.unsound(f, p) != "" {
			continue
		}
		rank := otherLength
		switch {
		case l.Node == self:
			rank = ours
		case p.Bits() == j.ranges[f].SubnetLen:
			rank = usualLength
		}
		if byRank[rank] == nil && rank != ours {
			byRank[rank] = make([]claim, 0, len(j.leases)-i)
		}
		c := newClaim(p, i)
		byRank[rank] = append(byRank[rank], c)
		lengths[c.bits] = true
	}
	j.space[f] = newSpace(len(j.leases), &lengths)
	j.holds[f] = make([]bool, len(j.leases))
	for _, c := range byRank[ours] {
		j.space[f].take(c)
	}
	for _, claims := range byRank[usualLength:] {
		for _, c := range claims {
			j.holds[f][c.lease] = j.space[f].give(c)
		}
	}
}

// judge returns the sound part of l, which is number i: l itself when all of it is sound, nil when too little is.
func (j *judge) judge(i int, l *Lease) *Lease {
	prefixes, underlay := l.Prefixes.pair(), l.Underlay.pair()
	before := len(j.problems)
	for _, f := range families {
		if p := prefixes[f]; !j.holds[f][i] && p != (netip.Prefix{}) {
			j.report(l, "Prefixes."+f.suffix(), p, j.whyNotHeld(f, p))
			prefixes[f] = netip.Prefix{}
		}
		if a := underlay[f]; a != (netip.Addr{}) {
			if why := j.unreachable(f, a); why != "" {
				j.report(l, "Underlay."+f.suffix(), a, why)
				underlay[f] = netip.Addr{}
			}
		}
	}
	if l.Prefixes.IsZero() {
		j.report(l, "Prefixes", nil, "are missing")
	}
	if l.Underlay.IsZero() {
		j.report(l, "Underlay", nil, "is missing")
	}
	if len(j.problems) == before {
		return l
	}
	part := *l
	part.Prefixes = Prefixes{prefixes[v4], prefixes[v6]}
	part.Underlay = Addrs{underlay[v4], underlay[v6]}
	if part.Prefixes.IsZero() || part.Underlay.IsZero() {
		return nil
	}
	return &part
}

func (j *judge) report(l *Lease, field string, value any, problem string) {
	j.problems = append(j.problems, Problem{Key: l.Key, Node: l.Node, Err: &podweft.FieldError{Field: field, Value: value, Problem: problem}})
}

func (j *judge) whyNotHeld(f family, p netip.Prefix) string {
	if why := j.unsound(f, p); why != "" {
		return why
	}
	number, _ := j.space[f].overlapping(newClaim(p, 0))
	first := j.leases[number]
	return "overlaps " + first.Prefixes.pair()[f].String() + " of " + first.Node
}

// unsound says what is wrong with a prefix by itself, or nothing.
func (j *judge) unsound(f family, p netip.Prefix) string {
	if !p.IsValid() || !f.has(p.Addr()) {
		return "is not an " + f.String() + " subnet"
	}
	if p != p.Masked() {
		return "has host bits set"
	}
	if j.anywhere {
		return ""
	}
	within := &j.ranges[f].Network
	switch {
	case !within.IsValid():
		return "has no place in a network without " + f.String()
	case !within.Contains(p.Addr()) || p.Bits() < within.Bits():
		return "lies outside the network " + within.String()
	}
	return ""
}

// unreachable says why no packet can be sent to a, or nothing.
func (j *judge) unreachable(f family, a netip.Addr) string {
	switch {
	case !f.has(a) || a.Zone() != "":
		return "is not an " + f.String() + " address"
	case a.IsUnspecified():
		return "is the unspecified address"
	case a.IsLoopback():
		return "is a loopback address"
	case a.IsLinkLocalUnicast():
		return "is a link-local address"
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is not one station's address"
	}
	for _, own := range j.own {
		if a == own {
			return "is this node's own address"
		}
	}
	return ""
}
