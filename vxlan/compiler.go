package vxlan

import (
	"github.com/podweft/podweft/internal/recompile"
	"github.com/podweft/podweft/subnet"
)

// NewCompiler returns a Compile that remembers its last answer: its cost is that of the leases that have changed since, a small
// part of what Compile takes among thousands. It is for one node's snapshots, one after the other, and safe for concurrent use.
func NewCompiler() func(subnet.Node, *subnet.Snapshot) (Spec, []subnet.Problem, error) {
	return recompile.New(recompile.Kind[Spec, Peer, macOf]{
		Compile: Compile, Peers: func(s *Spec) *[]Peer { return &s.Peers }, Order: comparePeers, SameRest: Spec.equalButPeers,
		Mark: func(p Peer) macOf { return macOf{p.Underlay.Is4(), p.MAC} }, Same: (*Peer).equal,
	})
}
