package hostgw

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/delta"
)

// Spec says which pod subnets are behind which neighbours. [Compile] makes one from leases; it may just as well be written
// by hand. The zero Spec wants no routes.
type Spec struct {
	// Device is the underlay interface, on whose link the peers are.
	Device string
	// Peers are the other nodes. A peer that is reached over both families is listed twice.
	Peers []Peer
	// Table is the routing table for the routes; 0 is the main table.
	Table uint32
	// Metric of the routes; 0 is the kernel's own choice: 0 for IPv4, 1024 for IPv6.
	Metric uint32
}

// Peer is another node and what is behind it.
type Peer struct {
	// Node is the peer's name, for messages.
	Node string
	// Underlay is its address on the link.
	Underlay netip.Addr
	// Prefixes are behind it, of the family of Underlay.
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

func (s Spec) check() (owners, error) {
	var errs []error
	if s.Device == "" && len(s.Peers) > 0 {
		errs = append(errs, &podweft.FieldError{Field: "Device", Problem: "is missing", Remedy: "name the underlay interface"})
	}
	x := owners{}
	for i, p := range s.Peers {
		errs = append(errs, x.add(func() string { return fmt.Sprintf("Peers[%d]", i) }, p)...)
	}
	return x, errors.Join(errs...)
}

// owners says behind which node each prefix is.
type owners map[netip.Prefix]string

func (o owners) remove(p Peer) {
	for _, prefix := range p.Prefixes {
		delete(o, prefix)
	}
}

// replace takes the removed peers out and checks the added ones against the rest.
func (o owners) replace(removed, added []Peer) error {
	for _, p := range removed {
		o.remove(p)
	}
	var errs []error
	for _, p := range added {
		errs = append(errs, o.add(func() string { return "Peers of " + p.Node }, p)...)
	}
	return errors.Join(errs...)
}

// add checks p against the peers in o and adds it to them. at names it, when something is wrong.
func (o owners) add(at func() string, p Peer) (errs []error) {
	add := func(field string, value any, problem, remedy string) {
		errs = append(errs, &podweft.FieldError{Field: at() + "." + field, Value: value, Problem: problem, Remedy: remedy})
	}
	if !p.Underlay.IsValid() || p.Underlay.Is4In6() || !p.Underlay.IsGlobalUnicast() || p.Underlay.Zone() != "" {
		add("Underlay", p.Underlay, "is not an address that packets can be sent to", "")
	}
	if len(p.Prefixes) == 0 {
		add("Prefixes", nil, "are missing", "")
	}
	for _, prefix := range p.Prefixes {
		other, double := o[prefix]
		switch {
		case !prefix.IsValid() || prefix != prefix.Masked():
			add("Prefixes", prefix, "is not a subnet", "leave no host bits set")
		case prefix.Bits() == 0:
			add("Prefixes", prefix, "is everything", "give a pod subnet")
		case prefix.Addr().Is4() != p.Underlay.Is4():
			add("Prefixes", prefix, "is of another family than "+p.Underlay.String(), "list the peer once for each family")
		case double:
			add("Prefixes", prefix, "is behind "+other+" too", "")
		}
		o[prefix] = p.Node
	}
	return errs
}
