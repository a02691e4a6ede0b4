package bgp

import (
	"cmp"
	"net/netip"
	"slices"
)

// Path is the best way that peers offer to a prefix.
type Path struct {
	Prefix      netip.Prefix `json:"prefix"`
	NextHop     netip.Addr   `json:"nextHop"` // where packets are to be sent; may be of the other family (RFC 8950)
	Peer        netip.Addr   `json:"peer"`    // who told us
	ASPath      []uint32     `json:"asPath,omitempty"`
	Communities []Community  `json:"communities,omitempty"` // sorted

	// Stale says that Peer has not confirmed the path since its process, or ours, restarted.
	Stale bool `json:"stale,omitempty"`
}

func (p Path) equal(o Path) bool {
	return p.Prefix == o.Prefix && p.NextHop == o.NextHop && p.Peer == o.Peer && p.Stale == o.Stale &&
		slices.Equal(p.ASPath, o.ASPath) && slices.Equal(p.Communities, o.Communities)
}

func comparePaths(a, b Path) int { return a.Prefix.Compare(b.Prefix) }

// Snapshot is everything a Speaker has learned at one moment. It is shared and never changes.
type Snapshot struct {
	Revision uint64 // grows with each snapshot of a Speaker
	Paths    []Path // one for each prefix, in the order of the prefixes; what the Speaker itself advertises is not among them
}

// Path returns the path to exactly that prefix.
func (s *Snapshot) Path(prefix netip.Prefix) (Path, bool) {
	i, ok := slices.BinarySearchFunc(s.Paths, prefix, func(p Path, to netip.Prefix) int { return p.Prefix.Compare(to) })
	if !ok {
		return Path{}, false
	}
	return s.Paths[i], true
}

// Advertisement is a prefix that this node tells its peers is behind it: a pod subnet, a block, a service's address.
type Advertisement struct {
	Prefix      netip.Prefix
	NextHop     netip.Addr // zero: Config.NextHop of the prefix's family, or of IPv6 for an IPv4 prefix where there is no other
	Communities []Community
}

func (a Advertisement) equal(o Advertisement) bool {
	return a.Prefix == o.Prefix && a.NextHop == o.NextHop && slices.Equal(a.Communities, o.Communities)
}

func compareAdvertisements(a, b Advertisement) int {
	return cmp.Or(a.Prefix.Compare(b.Prefix), a.NextHop.Compare(b.NextHop))
}
