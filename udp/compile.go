package udp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// Type is the backend's name in net-conf.json and in our leases. In flannel's leases it is left out.
const Type = "udp"

// backendConfig is the "Backend" object of net-conf.json with the fields that are ours.
type backendConfig struct {
	Port uint16
}

func parseConfig(network *subnet.Network) (c backendConfig, err error) {
	if network == nil || len(network.Backend.Config) == 0 {
		return c, nil
	}
	if err := json.Unmarshal(network.Backend.Config, &c); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return c, &podweft.FieldError{Field: "Backend." + wrong.Field, Value: wrong.Value, Problem: "does not fit", Remedy: "write a " + wrong.Type.String()}
		}
		return c, &podweft.FieldError{Field: "Backend", Problem: err.Error()}
	}
	return c, nil
}

// Publish returns what this node's lease says to its peers, which is nothing but its addresses, and the MTU that is left for pods,
// in bytes.
func Publish(node subnet.Node, network *subnet.Network, _ subnet.Data) (subnet.Data, int, error) {
	if _, err := parseConfig(network); err != nil {
		return subnet.Data{}, 0, err
	}
	if network == nil {
		return subnet.Data{}, 0, &podweft.FieldError{Field: "Network", Problem: "is missing", Remedy: "take it from the store's snapshot"}
	}
	return subnet.Data{}, podMTU(node, networks(network)), nil
}

// networks are the pods', of each family that is on.
func networks(n *subnet.Network) subnet.Prefixes {
	return subnet.Prefixes{V4: n.V4.Network, V6: n.V6.Network}
}

// podMTU is what is left of the underlay's MTU for packets in any of the prefixes, between nodes that have the same families.
func podMTU(node subnet.Node, prefixes subnet.Prefixes) int {
	mtu := node.MTU
	for prefix := range prefixes.All() {
		if local := carrier(prefix, node.Underlay, node.Underlay); local.IsValid() {
			mtu = min(mtu, node.MTU-Overhead(local))
		}
	}
	return mtu
}

// Compile makes the Spec of a node from the leases of all. It is pure. What other nodes wrote and cannot be used is left out and
// reported: a bad lease costs its own node the connection, and nobody else. The error says why nothing at all can be compiled: the
// configuration is wrong, or the node has no lease of its own (yet).
//
// The subnet of each family goes over the underlay of that family. Where one of the two nodes lacks an address of it, both go over
// the other family.
func Compile(node subnet.Node, snap *subnet.Snapshot) (Spec, []subnet.Problem, error) {
	c, err := parseConfig(snap.Network)
	if err != nil {
		return Spec{}, nil, err
	}
	own := snap.Lease(node.Name)
	if own == nil {
		return Spec{}, nil, fmt.Errorf("compile udp for %s: it has no lease", node.Name)
	}
	if node.Underlay.IsZero() {
		return Spec{}, nil, fmt.Errorf("compile udp for %s: it has no address on the underlay", node.Name)
	}
	spec := Spec{Device: node.Device, Port: c.Port, Local: slices.Collect(node.Underlay.All())}
	for prefix := range own.Prefixes.All() {
		spec.Addresses = append(spec.Addresses, host(prefix.Addr()))
	}
	leases, problems := snap.Peers(node.Name)
	spec.Peers = make([]Peer, 0, 2*len(leases))
	for _, l := range leases {
		peers, err := peersOf(node, l)
		if err != nil {
			problems = append(problems, subnet.Problem{Key: l.Key, Node: l.Node, Err: err})
		}
		spec.Peers = append(spec.Peers, peers...)
	}
	slices.SortFunc(spec.Peers, comparePeers)
	switch {
	case snap.Network != nil:
		spec.MTU = podMTU(node, networks(snap.Network))
		spec.Networks = slices.Collect(networks(snap.Network).All())
	default: // a snapshot made by hand
		spec.MTU = podMTU(node, own.Prefixes)
		for _, p := range spec.Peers {
			spec.Networks = append(spec.Networks, p.Prefixes...)
		}
	}
	return spec, problems, nil
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

// peersOf returns the lease as one Peer for each underlay address that it needs.
func peersOf(node subnet.Node, l *subnet.Lease) ([]Peer, error) {
	if l.Backend != Type && l.Backend != "" {
		return nil, &podweft.FieldError{Field: "BackendType", Value: fmt.Sprintf("%q", l.Backend), Problem: "is not ours", Remedy: "all nodes of a network run one backend"}
	}
	var peers []Peer
	for prefix := range l.Prefixes.All() {
		to := carrier(prefix, node.Underlay, l.Underlay)
		switch i := slices.IndexFunc(peers, func(p Peer) bool { return p.Underlay == to }); {
		case !to.IsValid():
			return peers, &podweft.FieldError{Field: "PublicIP", Value: l.Underlay, Problem: "has no family in common with this node's " + node.Underlay.String()}
		case !usableUnderlay(to) || prefix.Contains(to) || to == node.Underlay.V4 || to == node.Underlay.V6:
			return peers, &podweft.FieldError{Field: "PublicIP", Value: to, Problem: "is not an address that packets for " + prefix.String() + " can be sent to"}
		case i >= 0:
			peers[i].Prefixes = append(peers[i].Prefixes, prefix)
		default:
			peers = append(peers, Peer{Node: l.Node, Underlay: to, Prefixes: []netip.Prefix{prefix}})
		}
	}
	return peers, nil
}
