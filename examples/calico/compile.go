package calico

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/vxlan"
)

// The links that packets are wrapped up on.
const (
	vxlanLink4 = "podweft-vxlan"
	vxlanLink6 = "podweft-vxlan6"
	ipipLink4  = "podweft-ipip"
	ipipLink6  = "podweft-ipip6"
)

// path is what was learned of a prefix.
type path struct {
	prefix  netip.Prefix
	nextHop netip.Addr
	peer    netip.Addr // who told us; zero for the store
	stale   bool
}

// Route is the way to a prefix of another node.
type Route struct {
	Prefix  netip.Prefix `json:"prefix"`
	Node    string       `json:"node,omitempty"` // whose it is, where the next hop is a node's
	NextHop netip.Addr   `json:"nextHop"`
	Way     string       `json:"way"`             // "direct", "vxlan", "ipip", or "none" for one that is not used
	Peer    netip.Addr   `json:"peer,omitzero"`   // who told us by BGP
	Stale   bool         `json:"stale,omitempty"` // since a restart the peer has not confirmed it
	Problem string       `json:"problem,omitempty"`
}

// view is what a node sees, and all that its routes follow from.
type view struct {
	self     subnet.Node
	networks []netip.Prefix // that it is on
	pools    []Pool
	nodes    []fellow
	own      []netip.Prefix // its shares of blocks
	tunnels  map[way][]netip.Addr
	paths    []path
	vni      uint32
	port     uint16
}

// blank reports whether v is of a node that has seen nothing yet.
func (v view) blank() bool { return v.self.Name == "" }

// specs is what follows for the drivers that lead to other nodes.
type specs struct {
	direct hostgw.Spec
	vxlan  vxlan.Spec
	ipip   ipip.Spec
	routes []Route
}

// compile says how the node reaches what it has learned of. It is pure. A path that cannot be used costs nobody else anything; its
// Route says why.
func (v view) compile() specs {
	s := specs{direct: hostgw.Spec{Device: v.self.Device}}
	reached := map[way]map[netip.Addr][]netip.Prefix{direct: {}, byVXLAN: {}, byIPIP: {}}
	nodes := map[netip.Addr]fellow{}
	for _, n := range v.nodes {
		for a := range n.Underlay.All() {
			nodes[a] = n
		}
	}
	for _, p := range v.paths {
		n, known := nodes[p.nextHop]
		if known {
			p.nextHop = v.reachable(n, p.nextHop)
		}
		w, problem := v.judge(p, n, known)
		if problem != "" {
			w = noWay
		} else {
			reached[w][p.nextHop] = append(reached[w][p.nextHop], p.prefix)
		}
		s.routes = append(s.routes, Route{p.prefix, n.Name, p.nextHop, string(w), p.peer, p.stale, problem})
	}
	slices.SortFunc(s.routes, func(a, b Route) int { return a.Prefix.Compare(b.Prefix) })
	name := func(a netip.Addr) string {
		if n, ok := nodes[a]; ok {
			return n.Name
		}
		return a.String()
	}
	for hop, prefixes := range reached[direct] {
		s.direct.Peers = append(s.direct.Peers, hostgw.Peer{Node: name(hop), Underlay: hop, Prefixes: inOrder(prefixes)})
	}
	for hop, prefixes := range reached[byVXLAN] {
		s.vxlan.Peers = append(s.vxlan.Peers, vxlan.Peer{
			Node: name(hop), MAC: nodes[hop].vtep(hop), Underlay: hop, Prefixes: inOrder(prefixes),
		})
	}
	for hop, prefixes := range reached[byIPIP] {
		s.ipip.Peers = append(s.ipip.Peers, ipip.Peer{Node: name(hop), Underlay: hop, Prefixes: inOrder(prefixes)})
	}
	slices.SortFunc(s.direct.Peers, func(a, b hostgw.Peer) int { return a.Prefixes[0].Compare(b.Prefixes[0]) })
	slices.SortFunc(s.vxlan.Peers, func(a, b vxlan.Peer) int { return a.Prefixes[0].Compare(b.Prefixes[0]) })
	slices.SortFunc(s.ipip.Peers, func(a, b ipip.Peer) int { return a.Prefixes[0].Compare(b.Prefixes[0]) })
	s.vxlan.VTEPs = v.vteps(reached[byVXLAN])
	s.ipip.Tunnels = v.ipipTunnels(reached[byIPIP])
	return s
}

// reachable is another address of the node, where this one has none of hop's family: a speaker tells everybody of one address for each
// family of prefixes, also those who lack that.
func (v view) reachable(n fellow, hop netip.Addr) netip.Addr {
	if other := v.hop(n, hop.Is4()); other.IsValid() {
		return other
	}
	return hop
}

func inOrder(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return prefixes
}

// judge says how packets of a path travel, or why they cannot.
func (v view) judge(p path, n fellow, known bool) (way, string) {
	pool, ok := poolOf(v.pools, p.prefix)
	near := slices.ContainsFunc(v.networks, func(on netip.Prefix) bool { return on.Contains(p.nextHop) })
	alike := p.nextHop.Is4() == p.prefix.Addr().Is4()
	w := pool.way(near && alike) // to a node of the other family only a tunnel leads, however near it is
	if !known && near {
		w = direct // a router, which unpacks nothing
	}
	switch {
	case !ok:
		return noWay, "it is in no pool"
	case slices.ContainsFunc(v.own, p.prefix.Overlaps):
		return noWay, "it overlaps a block of this node"
	case p.nextHop == v.self.Underlay.V4 || p.nextHop == v.self.Underlay.V6:
		return noWay, "its next hop is this node"
	case w == direct && !near:
		return noWay, fmt.Sprintf("its next hop is on none of the networks of %s, and its pool wraps nothing up", v.self.Device)
	case w == direct && !alike:
		return noWay, "its next hop is of the other family, to which only a tunnel leads"
	case w == direct:
		return w, ""
	case !v.local(p.nextHop.Is4()).IsValid():
		return noWay, fmt.Sprintf("its next hop is reached over %s, which this node has no address of", familyName(p.nextHop.Is4()))
	case w == byIPIP && p.nextHop.Is4() && p.prefix.Addr().Is6():
		return noWay, "IP in IP over IPv4 carries no IPv6"
	case w == byVXLAN && n.vtep(p.nextHop).IsZero():
		return noWay, "nobody has told of a VTEP there"
	}
	return w, ""
}

// local is the node's underlay address of a family.
func (v view) local(v4 bool) netip.Addr {
	if v4 {
		return v.self.Underlay.V4
	}
	return v.self.Underlay.V6
}

// carrier is the underlay address over which the node and its likes carry pools of a family.
func (v view) carrier(v4 bool) netip.Addr {
	if a := v.local(v4); a.IsValid() {
		return a
	}
	return v.local(!v4)
}

// locals are the node's addresses that need a link of that kind: for its pools, and for the peers.
func (v view) locals(w way, peers map[netip.Addr][]netip.Prefix) []netip.Addr {
	var all []netip.Addr
	for _, p := range v.pools {
		if p.wraps(w) {
			all = append(all, v.carrier(p.is4()))
		}
	}
	for hop := range peers {
		all = append(all, v.local(hop.Is4()))
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// on are the tunnel's own addresses that its link over local has: those of its family, or all where there is no other link.
func (v view) on(w way, local netip.Addr, locals []netip.Addr) (addrs []netip.Prefix) {
	for _, a := range v.tunnels[w] {
		other := slices.ContainsFunc(locals, func(l netip.Addr) bool { return l.Is4() == a.Is4() })
		if a.Is4() == local.Is4() || !other && (w == byVXLAN || local.Is6()) {
			addrs = append(addrs, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return addrs
}

func (v view) vteps(peers map[netip.Addr][]netip.Prefix) (all []vxlan.VTEP) {
	locals := v.locals(byVXLAN, peers)
	for _, local := range locals {
		name := vxlanLink6
		if local.Is4() {
			name = vxlanLink4
		}
		all = append(all, vxlan.VTEP{
			Name: name, VNI: v.vni, Port: v.port, Device: v.self.Device, Local: local, MAC: vtepMAC(v.self.Name, local.Is4()),
			MTU: v.self.MTU - vxlan.Overhead(local), Addresses: v.on(byVXLAN, local, locals),
		})
	}
	return all
}

func (v view) ipipTunnels(peers map[netip.Addr][]netip.Prefix) (all []ipip.Tunnel) {
	locals := v.locals(byIPIP, peers)
	for _, local := range locals {
		name := ipipLink6
		if local.Is4() {
			name = ipipLink4
		}
		all = append(all, ipip.Tunnel{
			Name: name, Device: v.self.Device, Local: local, MTU: v.self.MTU - ipip.Overhead(local), Addresses: v.on(byIPIP, local, locals),
		})
	}
	return all
}

// podMTU is what is left for pods of the underlay's, whichever way their packets go.
func (v view) podMTU() int {
	mtu := v.self.MTU
	for _, p := range v.pools {
		local := v.carrier(p.is4())
		if !local.IsValid() {
			continue
		}
		if p.wraps(byVXLAN) {
			mtu = min(mtu, v.self.MTU-vxlan.Overhead(local))
		}
		if p.wraps(byIPIP) {
			mtu = min(mtu, v.self.MTU-ipip.Overhead(local))
		}
	}
	return mtu
}

// fromStore is what the store's blocks and the directory say of others' shares.
func (v view) fromStore(shares map[string][]netip.Prefix) (paths []path) {
	for _, n := range v.nodes {
		if n.Name == v.self.Name {
			continue
		}
		for _, prefix := range shares[n.Name] {
			if hop := v.hop(n, prefix.Addr().Is4()); hop.IsValid() {
				paths = append(paths, path{prefix: prefix, nextHop: hop})
			}
		}
	}
	slices.SortFunc(paths, func(a, b path) int { return a.prefix.Compare(b.prefix) })
	return paths
}

// hop is the node's underlay address for prefixes of a family: of the same one if both nodes have it.
func (v view) hop(n fellow, v4 bool) netip.Addr {
	of := map[bool]netip.Addr{true: n.Underlay.V4, false: n.Underlay.V6}
	if of[v4].IsValid() && v.local(v4).IsValid() {
		return of[v4]
	}
	if of[!v4].IsValid() && v.local(!v4).IsValid() {
		return of[!v4]
	}
	return netip.Addr{}
}

// String is the route as a line for people.
func (r Route) String() string {
	text := fmt.Sprintf("%s via %s %s", r.Prefix, r.NextHop, r.Way)
	if r.Node != "" {
		text += " (" + r.Node + ")"
	}
	if r.Problem != "" {
		text += ": " + r.Problem
	}
	return strings.TrimSpace(text)
}
