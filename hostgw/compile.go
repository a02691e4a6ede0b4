package hostgw

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// Type is the backend's name in leases and in net-conf.json.
const Type = "host-gw"

// Publish returns what this node's lease says to its peers, which is nothing but its addresses, and the MTU for pods, in
// bytes: the underlay's. A node behind a NAT can have no part in the network: peers route to its address on their own link.
func Publish(node subnet.Node, _ *subnet.Network, _ subnet.Data) (subnet.Data, int, error) {
	if !node.Public.IsZero() {
		return subnet.Data{}, 0, &podweft.FieldError{
			Field: "Node.Public", Value: node.Public, Problem: "is no address of " + node.Device + ", so that peers could not route to pods by it",
			Remedy: "give an address of the interface, or use vxlan",
		}
	}
	return subnet.Data{}, node.MTU, nil
}

// Compile makes the Spec of a node from the leases of all. It is pure. What other nodes wrote and cannot be used is left
// out and reported. The error says why nothing at all can be compiled.
func Compile(node subnet.Node, snap *subnet.Snapshot) (Spec, []subnet.Problem, error) {
	if snap.Lease(node.Name) == nil {
		return Spec{}, nil, fmt.Errorf("compile host-gw for %s: it has no lease", node.Name)
	}
	leases, problems := snap.Peers(node.Name)
	spec := Spec{Device: node.Device, Peers: make([]Peer, 0, 2*len(leases))}
	for _, l := range leases {
		peers, err := peersOf(l)
		if err != nil {
			problems = append(problems, subnet.Problem{Key: l.Key, Node: l.Node, Err: err})
		}
		spec.Peers = append(spec.Peers, peers...)
	}
	slices.SortFunc(spec.Peers, comparePeers)
	return spec, problems, nil
}

func peersOf(l *subnet.Lease) (peers []Peer, err error) {
	if l.Backend != Type {
		return nil, &podweft.FieldError{Field: "BackendType", Value: fmt.Sprintf("%q", l.Backend), Problem: "is not ours", Remedy: "all nodes of a network run one backend"}
	}
	for prefix := range l.Prefixes.All() {
		to := l.Underlay.V6
		if prefix.Addr().Is4() {
			to = l.Underlay.V4
		}
		if !to.IsValid() {
			err = &podweft.FieldError{Field: "PublicIP", Value: l.Underlay, Problem: "has no address of the family of " + prefix.String(), Remedy: "give the node one, or use vxlan"}
			continue
		}
		peers = append(peers, Peer{Node: l.Node, Underlay: to, Prefixes: []netip.Prefix{prefix}})
	}
	return peers, err
}
