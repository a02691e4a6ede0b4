package ipip

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/delta"
)

// maxName is IFNAMSIZ of linux/if.h, without the closing zero.
const maxName = 15

// Overhead is what a tunnel adds to a packet, in bytes, when the outer packet is sent to the underlay address a: its IP header.
func Overhead(a netip.Addr) int {
	if a.Is4() {
		return 20
	}
	return 40
}

// Spec is one IP-in-IP network as one node should have it: this node's tunnels and the peers behind them. [Compile] makes one from
// leases; it may just as well be written by hand. The zero Spec wants nothing.
type Spec struct {
	// Tunnels are this node's, at most one for each family of the underlay.
	Tunnels []Tunnel
	// Peers are the other nodes. A peer that is reached over both families is listed twice.
	Peers []Peer
	// Table is the routing table for the peers' routes; 0 is the main table.
	Table uint32
	// CrossSubnet wraps only what has to cross a router: peers on one of the networks that Device is on get a plain route to
	// their underlay address. It applies to prefixes of the underlay's family.
	CrossSubnet bool
}

// Tunnel is an IP-in-IP link of this node.
type Tunnel struct {
	// Name of the link; empty means flannel's, "flannel.ipip", or "flannel-v6.ipip" when Local is IPv6.
	Name string
	// Device is the underlay interface that outer packets leave by. Over IPv6 the kernel's routes choose it.
	Device string
	// Local is this node's underlay address, the source of outer packets.
	Local netip.Addr
	// MTU in bytes; 0 means that of Device less Overhead.
	MTU int
	// Addresses of the link itself, usually the zero address of this node's subnet, as a /32 or /128. Packets that this node
	// itself sends to pods leave with them.
	Addresses []netip.Prefix
}

// Peer is another node and what is behind it.
type Peer struct {
	// Node is the peer's name, for messages.
	Node string
	// Underlay is where outer packets are sent; its family chooses the tunnel.
	Underlay netip.Addr
	// Prefixes are behind it; over IPv4 only IPv4 ones.
	Prefixes []netip.Prefix
}

func (p *Peer) equal(o *Peer) bool {
	return p.Node == o.Node && p.Underlay == o.Underlay && delta.Equal(p.Prefixes, o.Prefixes)
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

// Validate reports everything that is wrong with s, joined, each as a [*podweft.FieldError].
func (s Spec) Validate() error {
	_, err := s.check()
	return err
}

func (s Spec) check() (*index, error) {
	var c checker
	x := &index{tunnels: map[bool]Tunnel{}, prefixes: make(map[netip.Prefix]string, len(s.Peers))}
	names := map[string]bool{}
	for i, t := range s.Tunnels {
		field := fmt.Sprintf("Tunnels[%d]", i)
		c.tunnel(field, t)
		if _, double := x.tunnels[t.Local.Is4()]; double && t.Local.IsValid() {
			c.add(field+".Local", t.Local, "is of the same family as another tunnel's", "give each family of the underlay one tunnel")
		}
		x.tunnels[t.Local.Is4()] = t
		if names[t.name()] {
			c.add(field+".Name", t.name(), "is another tunnel's too", "")
		}
		names[t.name()] = true
	}
	for i, p := range s.Peers {
		c.peer(func() string { return fmt.Sprintf("Peers[%d]", i) }, p, x)
	}
	return x, c.err()
}

// index is the tunnels by whether their underlay is IPv4, and what peers must not share, with the node that has it.
type index struct {
	tunnels  map[bool]Tunnel
	prefixes map[netip.Prefix]string
}

func (x *index) remove(p Peer) {
	for _, prefix := range p.Prefixes {
		delete(x.prefixes, prefix)
	}
}

type checker struct{ errs []error }

func (c *checker) add(field string, value any, problem, remedy string) {
	c.errs = append(c.errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
}

func (c *checker) err() error { return errors.Join(c.errs...) }

func (c *checker) tunnel(field string, t Tunnel) {
	if len(t.name()) > maxName {
		c.add(field+".Name", t.name(), "is too long for a link", "use at most 15 characters")
	}
	if t.Device == "" {
		c.add(field+".Device", nil, "is missing", "name the underlay interface")
	}
	if !usableUnderlay(t.Local) {
		c.add(field+".Local", t.Local, "is not an address that packets can be sent from", "give this node's address on the underlay")
	}
	if t.MTU != 0 && t.MTU < t.minMTU() {
		c.add(field+".MTU", t.MTU, "is too small", fmt.Sprintf("use at least %d", t.minMTU()))
	}
	for i, a := range t.Addresses {
		switch {
		case !a.IsValid() || a.Addr().Is4In6():
			c.add(field+".Addresses", a, "is not an address", "")
		case slices.Contains(t.Addresses[:i], a):
			c.add(field+".Addresses", a, "is there twice", "")
		case !t.carries(a):
			c.add(field+".Addresses", a, "is IPv6, which a tunnel over IPv4 does not carry", "give it to the tunnel over IPv6")
		}
	}
}

// minMTU is what the IP versions demand of a link that carries them: RFC 791 and RFC 8200. Below, the kernel takes IPv6 off the link,
// and over IPv6 the IPv4 routes with it: their nexthop objects are IPv6 ones.
func (t Tunnel) minMTU() int {
	if t.Local.Is4() {
		return 68
	}
	return 1280
}

func (t Tunnel) carries(p netip.Prefix) bool { return p.Addr().Is4() || t.Local.Is6() }

func usableUnderlay(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.IsGlobalUnicast() && a.Zone() == ""
}

// peer checks p against the peers in x and adds it to them. at names it, when something is wrong.
func (c *checker) peer(at func() string, p Peer, x *index) {
	add := func(field string, value any, problem, remedy string) { c.add(at()+"."+field, value, problem, remedy) }
	t, ok := x.tunnels[p.Underlay.Is4()]
	switch {
	case !usableUnderlay(p.Underlay):
		add("Underlay", p.Underlay, "is not an address that packets can be sent to", "")
	case !ok:
		add("Underlay", p.Underlay, "is of a family without a tunnel", "add a tunnel of that family")
	case p.Underlay == t.Local:
		add("Underlay", p.Underlay, "is this node's own", "leave this node out of its peers")
	}
	if len(p.Prefixes) == 0 {
		add("Prefixes", nil, "are missing", "")
	}
	for _, prefix := range p.Prefixes {
		other, double := x.prefixes[prefix]
		switch {
		case !prefix.IsValid() || prefix != prefix.Masked():
			add("Prefixes", prefix, "is not a subnet", "leave no host bits set")
		case prefix.Bits() == 0:
			add("Prefixes", prefix, "is everything", "give a pod subnet")
		case prefix.Contains(p.Underlay):
			add("Prefixes", prefix, "contains "+p.Underlay.String()+", to which its packets are to be sent", "keep pods and underlay apart")
		case ok && !t.carries(prefix):
			add("Prefixes", prefix, "is IPv6, which a tunnel over IPv4 does not carry", "reach it over IPv6, or use vxlan")
		case double:
			add("Prefixes", prefix, "is behind "+other+" too", "")
		}
		x.prefixes[prefix] = p.Node
	}
}

// LinkName is the name of the link whose outer packets are sent from the underlay address local: flannel's for IPv4, and for IPv6,
// which flannel has no such link for, one in its style.
func LinkName(local netip.Addr) string {
	if local.Is4() {
		return "flannel.ipip"
	}
	return "flannel-v6.ipip"
}

func (t Tunnel) name() string { return cmp.Or(t.Name, LinkName(t.Local)) }

// linkNames are the names of all links that matter.
func (s Spec) linkNames() []string {
	var names []string
	for _, t := range s.Tunnels {
		names = append(names, t.name(), t.Device)
	}
	return names
}
