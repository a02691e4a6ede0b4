package udp

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/delta"
)

const (
	// DefaultPort is flannel's UDP port for this backend.
	DefaultPort = 8285
	// DefaultName is the name of the TUN link, flannel's.
	DefaultName = "flannel0"

	// maxName is IFNAMSIZ of linux/if.h, without the closing zero.
	maxName = 15
	// maxMTU is that of a TUN whose packets fit into one datagram, minMTU what IPv4 demands of a link (RFC 791).
	maxMTU, minMTU = maxDatagram, 68
	// minMTU6 is what IPv6 demands (RFC 8200); the kernel takes it off a link with less.
	minMTU6 = 1280
)

// Overhead is what is added to a packet, in bytes, when the datagram is sent to the underlay address a: the outer IP header
// (20 or 40) and UDP (8).
func Overhead(a netip.Addr) int {
	if a.Is4() {
		return v4HeaderLen + udpHeaderLen
	}
	return v6HeaderLen + udpHeaderLen
}

// Spec is the overlay as one node should have it: its TUN link, its sockets and its peers. [Compile] makes one from leases; it may
// just as well be written by hand. The zero Spec wants nothing.
type Spec struct {
	// Name of the TUN link; empty means DefaultName.
	Name string
	// Device is the underlay interface. The kernel's routes choose by which interface outer packets leave: it is there for its MTU
	// and to see its addresses change.
	Device string
	// Local are this node's underlay addresses, at most one of each family: outer packets are sent from there and received there.
	Local []netip.Addr
	// Port is the UDP port, here and on all peers; 0 means DefaultPort.
	Port uint16
	// MTU of the tunnel in bytes; 0 means that of Device less the largest Overhead of Local.
	MTU int
	// Addresses of the link itself, usually the zero address of this node's subnet, as a /32 or /128. Packets that this node itself
	// sends to pods leave with them, and so do ICMP errors: without one of its family the sender of a packet is told nothing.
	Addresses []netip.Prefix
	// Networks are routed into the tunnel. Who in them is behind no peer is answered with "network unreachable". They contain the
	// prefixes of all peers; this node's own subnet has a longer prefix and stays where it is.
	Networks []netip.Prefix
	// Peers are the other nodes. A peer that is reached over both families is listed twice. Any order will do; that of their first
	// prefixes, as Compile has it, saves sorting thousands of them at each change.
	Peers []Peer
	// Table is the routing table for the routes to Networks; 0 is the main table.
	Table uint32
}

// Peer is another node and what is behind it.
type Peer struct {
	// Node is the peer's name, for messages.
	Node string
	// Underlay is where datagrams are sent, and the only address from which those with a source in Prefixes are accepted.
	Underlay netip.Addr
	// Prefixes are behind it, of either family.
	Prefixes []netip.Prefix
}

func (p Peer) equal(o Peer) bool {
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

func (s Spec) name() string { return cmp.Or(s.Name, DefaultName) }
func (s Spec) port() uint16 { return cmp.Or(s.Port, DefaultPort) }

// isZero reports whether nothing is wanted.
func (s Spec) isZero() bool { return len(s.Local) == 0 }

// equalButPeers reports whether only peers may differ.
func (s Spec) equalButPeers(o Spec) bool {
	return s.name() == o.name() && s.Device == o.Device && s.port() == o.port() && s.MTU == o.MTU && s.Table == o.Table &&
		slices.Equal(s.Local, o.Local) && slices.Equal(s.Addresses, o.Addresses) && slices.Equal(s.Networks, o.Networks)
}

// Validate reports everything that is wrong with s, joined, each as a [*podweft.FieldError].
func (s Spec) Validate() error {
	_, err := s.check()
	return err
}

func (s Spec) check() (owners, error) {
	var c checker
	o := make(owners, len(s.Peers))
	if s.isZero() && (len(s.Peers) > 0 || len(s.Networks) > 0 || len(s.Addresses) > 0) {
		c.add("Local", nil, "is missing", "give this node's addresses on the underlay")
	}
	if !s.isZero() && s.Device == "" {
		c.add("Device", nil, "is missing", "name the underlay interface")
	}
	if len(s.Name) > maxName {
		c.add("Name", s.Name, "is too long for a link", "use at most 15 characters")
	}
	if s.MTU != 0 && (s.MTU < minMTU || s.MTU > maxMTU) {
		c.add("MTU", s.MTU, "is out of range", fmt.Sprintf("use %d to %d", minMTU, maxMTU))
	}
	for i, a := range s.Local {
		field := fmt.Sprintf("Local[%d]", i)
		if !usableUnderlay(a) {
			c.add(field, a, "is not an address that packets can be sent from", "give this node's address on the underlay")
		}
		if slices.ContainsFunc(s.Local[:i], func(o netip.Addr) bool { return o.Is4() == a.Is4() }) {
			c.add(field, a, "is of the same family as another", "give one of each family at most")
		}
	}
	for i, a := range s.Addresses {
		field := fmt.Sprintf("Addresses[%d]", i)
		switch {
		case !a.IsValid() || a.Addr().Is4In6():
			c.add(field, a, "is not an address", "")
		case slices.Contains(s.Addresses[:i], a):
			c.add(field, a, "is there twice", "")
		}
	}
	for i, n := range s.Networks {
		field := fmt.Sprintf("Networks[%d]", i)
		switch {
		case !n.IsValid() || n != n.Masked() || n.Addr().Is4In6():
			c.add(field, n, "is not a network", "leave no host bits set")
		case n.Bits() == 0:
			c.add(field, n, "is everything", "give the pods' network")
		case slices.Contains(s.Networks[:i], n):
			c.add(field, n, "is there twice", "")
		case n.Addr().Is6() && s.MTU != 0 && s.MTU < minMTU6:
			c.add("MTU", s.MTU, "is too small for IPv6", fmt.Sprintf("use at least %d", minMTU6))
		}
	}
	for i, p := range s.Peers {
		c.peer(func() string { return fmt.Sprintf("Peers[%d]", i) }, p, s, o)
	}
	return o, c.err()
}

// owners says behind which node each prefix is.
type owners map[netip.Prefix]string

func (o owners) remove(p Peer) {
	for _, prefix := range p.Prefixes {
		delete(o, prefix)
	}
}

type checker struct{ errs []error }

func (c *checker) add(field string, value any, problem, remedy string) {
	c.errs = append(c.errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
}

func (c *checker) err() error { return errors.Join(c.errs...) }

func usableUnderlay(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.IsGlobalUnicast() && a.Zone() == ""
}

// peer checks p against s and the peers in o, and adds it to them. at names it, when something is wrong.
func (c *checker) peer(at func() string, p Peer, s Spec, o owners) {
	add := func(field string, value any, problem, remedy string) { c.add(at()+"."+field, value, problem, remedy) }
	switch {
	case !usableUnderlay(p.Underlay):
		add("Underlay", p.Underlay, "is not an address that packets can be sent to", "")
	case slices.Contains(s.Local, p.Underlay):
		add("Underlay", p.Underlay, "is this node's own", "leave this node out of its peers")
	case !slices.ContainsFunc(s.Local, func(l netip.Addr) bool { return l.Is4() == p.Underlay.Is4() }):
		add("Underlay", p.Underlay, "is of a family that this node has no address of", "add one to Local")
	}
	if len(p.Prefixes) == 0 {
		add("Prefixes", nil, "are missing", "")
	}
	for _, prefix := range p.Prefixes {
		other, double := o[prefix]
		switch {
		case !prefix.IsValid() || prefix != prefix.Masked() || prefix.Addr().Is4In6():
			add("Prefixes", prefix, "is not a subnet", "leave no host bits set")
		case prefix.Contains(p.Underlay):
			add("Prefixes", prefix, "contains "+p.Underlay.String()+", to which its packets are to be sent", "keep pods and underlay apart")
		case double:
			add("Prefixes", prefix, "is behind "+other+" too", "")
		case !slices.ContainsFunc(s.Networks, func(n netip.Prefix) bool { return n.Overlaps(prefix) && n.Bits() <= prefix.Bits() }):
			add("Prefixes", prefix, "is in none of Networks", "add its network")
		}
		o[prefix] = p.Node
	}
}
