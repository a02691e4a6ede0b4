package ipip

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// Type is the backend's name in leases and in net-conf.json.
const Type = "ipip"

// backendConfig is the "Backend" object of net-conf.json with the fields that are ours.
type backendConfig struct {
	DirectRouting bool
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
// in bytes: that of the narrowest tunnel the node may need.
func Publish(node subnet.Node, network *subnet.Network, _ subnet.Data) (subnet.Data, int, error) {
	if _, err := parseConfig(network); err != nil {
		return subnet.Data{}, 0, err
	}
	mtu := node.MTU
	for local := range node.Underlay.All() {
		mtu = min(mtu, node.MTU-Overhead(local))
	}
	return subnet.Data{}, mtu, nil
}

// Compile makes the Spec of a node from the leases of all. It is pure. What other nodes wrote and cannot be used is left out and
// reported: a bad lease costs its own node the connection, and nobody else. The error says why nothing at all can be compiled: the
// configuration is wrong, or the node has no lease of its own (yet).
//
// The subnet of each family goes over the underlay of that family. Where one of the two nodes lacks an IPv4 underlay address, IPv4
// goes over IPv6 too; where one lacks an IPv6 one, its IPv6 subnet cannot be reached. A tunnel that nothing needs is left out.
func Compile(node subnet.Node, snap *subnet.Snapshot) (Spec, []subnet.Problem, error) {
	c, err := parseConfig(snap.Network)
	if err != nil {
		return Spec{}, nil, err
	}
	own := snap.Lease(node.Name)
	if own == nil {
		return Spec{}, nil, fmt.Errorf("compile ipip for %s: it has no lease", node.Name)
	}
	leases, problems := snap.Peers(node.Name)
	spec := Spec{CrossSubnet: c.DirectRouting, Peers: make([]Peer, 0, 2*len(leases))}
	for _, l := range leases {
		peers, err := peersOf(node, l)
		if err != nil {
			problems = append(problems, subnet.Problem{Key: l.Key, Node: l.Node, Err: err})
		}
		spec.Peers = append(spec.Peers, peers...)
	}
	slices.SortFunc(spec.Peers, comparePeers)
	for local := range node.Underlay.All() {
		if t, needed := ownTunnel(node, own, local, spec.Peers); needed {
			spec.Tunnels = append(spec.Tunnels, t)
		}
	}
	return spec, problems, nil
}

// ownTunnel returns this node's tunnel from local, and whether it or a peer has pods that need it.
func ownTunnel(node subnet.Node, own *subnet.Lease, local netip.Addr, peers []Peer) (t Tunnel, needed bool) {
	t = Tunnel{Device: node.Device, Local: local, MTU: node.MTU - Overhead(local)}
	for prefix := range own.Prefixes.All() {
		if carrier(prefix, node.Underlay, node.Underlay) == local {
			t.Addresses = append(t.Addresses, netip.PrefixFrom(prefix.Addr(), prefix.Addr().BitLen()))
		}
	}
	needed = len(t.Addresses) > 0 || slices.ContainsFunc(peers, func(p Peer) bool { return p.Underlay.Is4() == local.Is4() })
	return t, needed
}

// carrier returns which of the peer's underlay addresses leads to prefix, from a node that has the addresses ours.
func carrier(prefix netip.Prefix, ours, peers subnet.Addrs) netip.Addr {
	if prefix.Addr().Is4() && ours.V4.IsValid() && peers.V4.IsValid() {
		return peers.V4
	}
	if ours.V6.IsValid() {
		return peers.V6
	}
	return netip.Addr{}
}

// peersOf returns the lease as one Peer for each tunnel that it needs.
func peersOf(node subnet.Node, l *subnet.Lease) ([]Peer, error) {
	if l.Backend != Type {
		return nil, &podweft.FieldError{Field: "BackendType", Value: fmt.Sprintf("%q", l.Backend), Problem: "is not ours", Remedy: "all nodes of a network run one backend"}
	}
	var peers []Peer
	for prefix := range l.Prefixes.All() {
		to := carrier(prefix, node.Underlay, l.Underlay)
		switch i := slices.IndexFunc(peers, func(p Peer) bool { return p.Underlay == to }); {
		case !to.IsValid():
			return peers, &podweft.FieldError{
				Field: "PublicIP", Value: l.Underlay, Problem: "and this node's " + node.Underlay.String() + " have no way for " + prefix.String(),
				Remedy: "give both nodes an address of its family, or use vxlan",
			}
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
