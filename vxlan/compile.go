package vxlan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// Compile makes the Spec of a node from the leases of all. It is pure. What other nodes wrote and cannot be used is left
// out and reported: a bad lease costs its own node the connection, and nobody else. The error says why nothing at all can
// be compiled: the configuration is wrong, or the node has no lease of its own (yet).
//
// The subnet of each family goes over the VTEP of that family. Where one of the two nodes lacks an underlay address of it,
// the other family's VTEP carries both. What several leases have behind one VTEP of one node, as package bgp makes them of a
// node's blocks, is one Peer.
func Compile(node subnet.Node, snap *subnet.Snapshot) (Spec, []subnet.Problem, error) {
	c, err := parseConfig(snap.Network)
	if err != nil {
		return Spec{}, nil, err
	}
	own := snap.Lease(node.Name)
	if own == nil {
		return Spec{}, nil, fmt.Errorf("compile vxlan for %s: it has no lease", node.Name)
	}
	if node.Underlay.IsZero() {
		return Spec{}, nil, fmt.Errorf("compile vxlan for %s: it has no address on the underlay", node.Name)
	}
	spec := Spec{DirectRouting: c.DirectRouting}
	all := peering{self: node.Name, macs: map[macOf]int{}}
	for _, local := range carriers(own.Prefixes, node.Underlay) {
		v, err := ownVTEP(node, own, c, local)
		if err != nil {
			return Spec{}, nil, err
		}
		spec.VTEPs = append(spec.VTEPs, v)
		if local.Is4() {
			all.vteps.V4 = local
		} else {
			all.vteps.V6 = local
		}
		all.macs[macOf{local.Is4(), v.MAC}] = ours
	}
	leases, problems := snap.Peers(node.Name)
	// Of two nodes that say one MAC, the lease that has stood for longer is believed: nobody takes another's by coming later.
	slices.SortStableFunc(leases, func(a, b *subnet.Lease) int { return cmp.Compare(a.Revision, b.Revision) })
	all.peers = make([]Peer, 0, len(leases)*len(spec.VTEPs))
	for _, l := range leases {
		if err := all.add(l); err != nil {
			problems = append(problems, subnet.Problem{Key: l.Key, Node: l.Node, Err: err})
		}
	}
	spec.Peers = all.peers
	slices.SortFunc(spec.Peers, comparePeers)
	return spec, problems, nil
}

func ownVTEP(node subnet.Node, own *subnet.Lease, c backendConfig, local netip.Addr) (VTEP, error) {
	data, err := parseLeaseData(dataOf(own.Data, local))
	if err != nil {
		return VTEP{}, fmt.Errorf("own lease %s: %w", own.Key, err)
	}
	v := VTEP{
		VNI: c.VNI, Port: c.Port, Device: node.Device, Local: local, MAC: data.VtepMAC,
		MTU: podMTU(node, c, local), GBP: c.GBP, Learning: c.Learning,
	}
	for prefix := range own.Prefixes.All() {
		if carrier(prefix, node.Underlay, node.Underlay) == local {
			v.Addresses = append(v.Addresses, netip.PrefixFrom(prefix.Addr(), prefix.Addr().BitLen()))
		}
	}
	return v, nil
}

// carriers returns the node's own underlay addresses that its VTEPs have: those that carry one of its prefixes. There is none
// for a node without an underlay address.
func carriers(prefixes subnet.Prefixes, ours subnet.Addrs) []netip.Addr {
	var all []netip.Addr
	for prefix := range prefixes.All() {
		if local := carrier(prefix, ours, ours); local.IsValid() && !slices.Contains(all, local) {
			all = append(all, local)
		}
	}
	return all
}

// carrier returns which of the peer's underlay addresses leads to prefix, from a node that has the addresses ours.
func carrier(prefix netip.Prefix, ours, peers subnet.Addrs) netip.Addr {
	v4, v6 := ours.V4.IsValid() && peers.V4.IsValid(), ours.V6.IsValid() && peers.V6.IsValid()
	switch {
	case prefix.Addr().Is4() && v4, !v6 && v4:
		return peers.V4
	case v6:
		return peers.V6
	}
	return netip.Addr{}
}

// peering makes the peers of a node out of leases.
type peering struct {
	self  string       // the node's name
	vteps subnet.Addrs // where its VTEPs are
	peers []Peer
	macs  map[macOf]int // which peer's they are, or ours: two VTEPs with one MAC would take each other's packets
}

// ours is, in macs, this node's own.
const ours = -1

// add makes the lease one Peer for each of our VTEPs that it needs, or a part of the Peer that another lease of its node is.
func (x *peering) add(l *subnet.Lease) error {
	if l.Backend != Type {
		return &podweft.FieldError{Field: "BackendType", Value: fmt.Sprintf("%q", l.Backend), Problem: "is not ours", Remedy: "all nodes of a network run one backend"}
	}
	var last *Peer // of the lease
	for prefix := range l.Prefixes.All() {
		to := carrier(prefix, x.vteps, l.Underlay)
		switch {
		case !to.IsValid():
			return &podweft.FieldError{Field: "PublicIP", Value: l.Underlay, Problem: "has no family in common with this node's " + x.vteps.String()}
		case to == x.vteps.V4 || to == x.vteps.V6: // of a node that is gone, as a rule, whose address this one has now
			return &podweft.FieldError{Field: "PublicIP", Value: to, Problem: "is this node's own"}
		}
		if last == nil || last.Underlay != to {
			data, err := parseLeaseData(dataOf(l.Data, to))
			if err != nil {
				return err
			}
			if last, err = x.peer(l.Node, to, data.VtepMAC); err != nil {
				return err
			}
		}
		last.take(prefix)
	}
	return nil
}

// peer returns the one with that VTEP, which is new unless the same node has it already.
func (x *peering) peer(node string, underlay netip.Addr, mac podweft.MAC) (*Peer, error) {
	key := macOf{underlay.Is4(), mac}
	i, known := x.macs[key]
	switch {
	case !known:
		i = len(x.peers)
		x.macs[key] = i
		x.peers = append(x.peers, Peer{Node: node, MAC: mac, Underlay: underlay})
	case i == ours:
		return nil, stolen(mac, x.self)
	case x.peers[i].Node != node || x.peers[i].Underlay != underlay:
		return nil, stolen(mac, x.peers[i].Node)
	}
	return &x.peers[i], nil
}

func stolen(mac podweft.MAC, from string) error {
	return &podweft.FieldError{Field: "VtepMAC", Value: mac, Problem: "is that of " + from + " too"}
}

// take puts the prefix in its place, so that it does not matter which lease came first.
func (p *Peer) take(prefix netip.Prefix) {
	at, _ := slices.BinarySearchFunc(p.Prefixes, prefix, netip.Prefix.Compare)
	p.Prefixes = slices.Insert(p.Prefixes, at, prefix)
}

// comparePeers orders by what no two peers share, their first prefix.
func comparePeers(a, b Peer) int {
	if order := firstPrefix(a).Compare(firstPrefix(b)); order != 0 { // nearly always: thousands are compared at each change
		return order
	}
	return a.Underlay.Compare(b.Underlay)
}

func firstPrefix(p Peer) netip.Prefix {
	if len(p.Prefixes) == 0 {
		return netip.Prefix{}
	}
	return p.Prefixes[0]
}
