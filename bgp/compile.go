package bgp

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/podweft/podweft/subnet"
)

// Base is what [Compile] needs to know beside the paths.
type Base struct {
	// Self is this node's own lease. Drivers ask for it and never route its prefixes elsewhere; its Backend is also that of the
	// nodes behind the paths.
	Self subnet.Lease
	// Network bounds the prefixes that drivers may program; nil is no bound, as where service addresses are learned too.
	Network *subnet.Network
	// Known are nodes that a store knows of. A path whose next hop is among a lease's underlay addresses gets that node's name
	// and data, which vxlan needs: BGP tells no VTEPs. The others are called by their next hop.
	Known []*subnet.Lease
}

// Compile makes of what was learned a snapshot as stores yield it, for the Compile functions of drivers: one lease for each
// path. It is pure. It judges nothing: what drivers cannot use they leave out and report.
func Compile(base Base, learned *Snapshot) *subnet.Snapshot {
	nodes := make(map[netip.Addr]*subnet.Lease, 2*len(base.Known))
	for _, l := range base.Known {
		for a := range l.Underlay.All() {
			nodes[a] = l
		}
	}
	self := base.Self
	leases := make([]*subnet.Lease, 0, 1+len(learned.Paths))
	leases = append(leases, &self)
	for _, p := range learned.Paths {
		leases = append(leases, p.lease(self.Backend, learned.Revision, nodes[p.NextHop]))
	}
	slices.SortFunc(leases, func(a, b *subnet.Lease) int { return strings.Compare(a.Key, b.Key) })
	return &subnet.Snapshot{Revision: learned.Revision, Network: base.Network, Leases: leases}
}

func (p Path) lease(backend string, revision uint64, known *subnet.Lease) *subnet.Lease {
	l := &subnet.Lease{Key: p.Prefix.String(), Node: p.NextHop.String(), Backend: backend, Revision: revision}
	if known != nil {
		l.Node, l.Data = known.Node, known.Data
	}
	if p.Prefix.Addr().Is4() {
		l.Prefixes.V4 = p.Prefix
	} else {
		l.Prefixes.V6 = p.Prefix
	}
	if p.NextHop.Is4() {
		l.Underlay.V4 = p.NextHop
	} else {
		l.Underlay.V6 = p.NextHop
	}
	return l
}
