package vxlan

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/delta"
)

const (
	// DefaultPort is the UDP port of flannel and of Linux before RFC 7348 assigned 4789; a VTEP without a port uses it.
	DefaultPort = 8472
	// DefaultVNI is the VNI of a flannel network that names none.
	DefaultVNI = 1

	maxVNI = 1<<24 - 1
	// maxName is IFNAMSIZ of linux/if.h, without the closing zero.
	maxName = 15
)

// Overhead is what VXLAN adds to a packet, in bytes, when the outer packet is sent to the underlay address a: the outer IP
// header (20 or 40), UDP (8), VXLAN (8) and the inner Ethernet header (14).
func Overhead(a netip.Addr) int {
	if a.Is4() {
		return 50
	}
	return 70
}

// Spec is one VXLAN network as one node should have it: this node's VTEPs and the peers behind them. Compile makes one from
// leases; it may just as well be written by hand.
type Spec struct {
	// VTEPs are this node's, at most one for each family of the underlay.
	VTEPs []VTEP
	// Peers are the other nodes. A peer that is reached over both families is listed twice. Any order will do; that of their
	// first prefixes, as Compile has it, saves sorting thousands of them at each change.
	Peers []Peer
	// Table is the routing table for the peers' routes; 0 is the main table.
	Table uint32
	// DirectRouting sends packets without a tunnel to peers that are on the same link as Device: by a plain route to their
	// underlay address. It applies to prefixes of the underlay's family.
	DirectRouting bool
}

// VTEP is a VXLAN link of this node.
type VTEP struct {
	// Name of the link; empty means flannel's, "flannel.VNI", or "flannel-v6.VNI" when Local is IPv6.
	Name string
	// VNI is the network's number, 1 to 16777215.
	VNI uint32
	// Port is the UDP port, here and on all peers; 0 means DefaultPort.
	Port uint16
	// Device is the underlay interface that outer packets leave by.
	Device string
	// Local is this node's underlay address, the source of outer packets.
	Local netip.Addr
	// MAC is the VTEP's Ethernet address, which peers program. It must be given and stay the same: with a new one every
	// peer's entries are wrong until it has seen it published.
	MAC podweft.MAC
	// MTU in bytes; 0 means that of Device less Overhead.
	MTU int
	// Addresses of the VTEP itself, usually the zero address of this node's subnet, as a /32 or /128. Packets that
	// this node itself sends to pods leave with them.
	Addresses []netip.Prefix
	// GBP turns on the group policy extension, which all peers must have too. VTEPs that share a port and a family share a socket,
	// and the kernel refuses them unless they agree on it; those of other drivers count too.
	GBP bool
	// Learning lets the VTEP learn forwarding entries from traffic. Peers are known, so nothing needs it.
	Learning bool
	// Checksum sends outer UDP checksums over IPv4. Over IPv6 they are always sent: receivers drop packets without. A VTEP that is
	// there and sends them goes on to, also when it need not.
	Checksum bool
	// Offload is about inner checksums and the like; its zero value leaves it all as it is.
	Offload Offload
}

// Peer is another node's VTEP and what is behind it.
type Peer struct {
	// Node is the peer's name, for messages.
	Node string
	// MAC is its VTEP's.
	MAC podweft.MAC
	// Underlay is where outer packets are sent; its family chooses the VTEP.
	Underlay netip.Addr
	// Prefixes are behind it.
	Prefixes []netip.Prefix
}

func (p *Peer) equal(o *Peer) bool {
	return p.MAC == o.MAC && p.Underlay == o.Underlay && delta.Equal(p.Prefixes, o.Prefixes)
}

// Validate reports everything that is wrong with s, joined, each as a [*podweft.FieldError].
func (s Spec) Validate() error {
	_, err := s.check()
	return err
}

func (s Spec) check() (*index, error) {
	var c checker
	x := &index{
		vteps: map[bool]VTEP{}, macs: make(map[macOf]string, len(s.Peers)), prefixes: make(map[netip.Prefix]behind, len(s.Peers)),
	}
	names := map[string]bool{}
	for i, v := range s.VTEPs {
		field := fmt.Sprintf("VTEPs[%d]", i)
		c.vtep(field, v)
		if _, double := x.vteps[v.Local.Is4()]; double && v.Local.IsValid() {
			c.add(field+".Local", v.Local, "is of the same family as another VTEP's", "give each family of the underlay one VTEP, and each VNI a driver of its own")
		}
		x.vteps[v.Local.Is4()] = v
		if names[v.name()] {
			c.add(field+".Name", v.name(), "is another VTEP's too", "")
		}
		names[v.name()] = true
	}
	if a, b := x.vteps[true], x.vteps[false]; len(x.vteps) == 2 && a.port() == b.port() && a.GBP != b.GBP {
		// The kernel has a socket for each family and would take it. It is a slip all the same: these are one network, and all its
		// nodes have one setting.
		c.add("VTEPs", nil, "share a port but not GBP", "turn GBP on for both or for none")
	}
	for i, p := range s.Peers {
		c.peer(func() string { return fmt.Sprintf("Peers[%d]", i) }, p, x)
	}
	return x, c.err()
}

// index is what peers must not share, with the node that has it.
type index struct {
	vteps    map[bool]VTEP // by whether the underlay is IPv4
	macs     map[macOf]string
	prefixes map[netip.Prefix]behind // by their gateways
}

// behind is what has a gateway: a prefix of that length, behind that node.
type behind struct {
	node string
	bits int
}

// gatewayOf is what the routes to two prefixes must not share. In IPv4 the first address of a prefix is its gateway: of two
// prefixes that begin alike, one would be sent to the other's peer.
func gatewayOf(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4() {
		return netip.PrefixFrom(p.Addr(), 32)
	}
	return p
}

// macOf is a MAC as seen by one VTEP.
type macOf struct {
	v4  bool
	mac podweft.MAC
}

func (x *index) remove(p Peer) {
	delete(x.macs, macOf{p.Underlay.Is4(), p.MAC})
	for _, prefix := range p.Prefixes {
		delete(x.prefixes, gatewayOf(prefix))
	}
}

type checker struct{ errs []error }

func (c *checker) add(field string, value any, problem, remedy string) {
	c.errs = append(c.errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
}

func (c *checker) err() error { return errors.Join(c.errs...) }

func (c *checker) vtep(field string, v VTEP) {
	if v.VNI == 0 || v.VNI > maxVNI {
		c.add(field+".VNI", v.VNI, "is not a VNI", "use 1 to 16777215")
	}
	if len(v.name()) > maxName {
		c.add(field+".Name", v.name(), "is too long for a link", "use at most 15 characters")
	}
	if v.Device == "" {
		c.add(field+".Device", nil, "is missing", "name the underlay interface")
	}
	if !usableUnderlay(v.Local) {
		c.add(field+".Local", v.Local, "is not an address that packets can be sent from", "give this node's address on the underlay")
	}
	if !v.MAC.IsUnicast() {
		c.add(field+".MAC", v.MAC, "is not one station's address", "keep one made by podweft.NewMAC")
	}
	if v.MTU != 0 && v.MTU < minMTU(v) {
		c.add(field+".MTU", v.MTU, "is too small", fmt.Sprintf("use at least %d", minMTU(v)))
	}
	for _, t := range []struct {
		field string
		value Toggle
	}{{".Offload.Checksum", v.Offload.Checksum}, {".Offload.GRO", v.Offload.GRO}} {
		if t.value > Off {
			c.add(field+t.field, t.value, "is not a setting", "use Keep, On or Off")
		}
	}
	for i, a := range v.Addresses {
		switch {
		case !a.IsValid() || a.Addr().Is4In6():
			c.add(field+".Addresses", a, "is not an address", "")
		case slices.Contains(v.Addresses[:i], a):
			c.add(field+".Addresses", a, "is there twice", "")
		}
	}
}

// minMTU is what the IP versions demand of a link: RFC 791 and RFC 8200.
func minMTU(v VTEP) int {
	for _, a := range v.Addresses {
		if a.Addr().Is6() {
			return 1280
		}
	}
	return 68
}

func usableUnderlay(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.IsGlobalUnicast() && a.Zone() == ""
}

// peer checks p against the peers in x and adds it to them. at names it, when something is wrong.
func (c *checker) peer(at func() string, p Peer, x *index) {
	add := func(field string, value any, problem, remedy string) { c.add(at()+"."+field, value, problem, remedy) }
	v, ok := x.vteps[p.Underlay.Is4()]
	switch {
	case !usableUnderlay(p.Underlay):
		add("Underlay", p.Underlay, "is not an address that packets can be sent to", "")
	case !ok:
		add("Underlay", p.Underlay, "is of a family without a VTEP", "add a VTEP of that family")
	case p.Underlay == v.Local:
		add("Underlay", p.Underlay, "is this node's own", "leave this node out of its peers")
	}
	key := macOf{p.Underlay.Is4(), p.MAC}
	other, double := x.macs[key]
	switch {
	case !p.MAC.IsUnicast():
		add("MAC", p.MAC, "is not one station's address", "")
	case ok && p.MAC == v.MAC:
		add("MAC", p.MAC, "is this node's own", "") // the kernel drops frames from its own MAC
	case double:
		add("MAC", p.MAC, "is that of "+other+" too", "")
	}
	x.macs[key] = p.Node
	if len(p.Prefixes) == 0 {
		add("Prefixes", nil, "are missing", "")
	}
	for _, prefix := range p.Prefixes {
		other, double := x.prefixes[gatewayOf(prefix)]
		switch {
		case !prefix.IsValid() || prefix != prefix.Masked():
			add("Prefixes", prefix, "is not a subnet", "leave no host bits set")
		case prefix.Bits() == 0:
			add("Prefixes", prefix, "is everything", "give a pod subnet")
		case double && other.bits == prefix.Bits():
			add("Prefixes", prefix, "is behind "+other.node+" too", "")
		case double:
			add("Prefixes", prefix, "begins as a subnet behind "+other.node+" does", "leave one of them out")
		}
		x.prefixes[gatewayOf(prefix)] = behind{p.Node, prefix.Bits()}
	}
}

// LinkName is the name flannel gives the VTEP of a VNI whose outer packets are sent from the underlay address local.
func LinkName(vni uint32, local netip.Addr) string {
	if local.Is4() {
		return fmt.Sprintf("flannel.%d", vni)
	}
	return fmt.Sprintf("flannel-v6.%d", vni)
}

func (v VTEP) name() string {
	if v.Name != "" {
		return v.Name
	}
	return LinkName(v.VNI, v.Local)
}

// linkNames are the names of all links that matter.
func (s Spec) linkNames() []string {
	var names []string
	for _, v := range s.VTEPs {
		names = append(names, v.name(), v.Device)
	}
	return names
}

func (v VTEP) port() uint16 {
	if v.Port != 0 {
		return v.Port
	}
	return DefaultPort
}
