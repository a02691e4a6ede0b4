package ptp

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/cable"
)

// DefaultInterface is the pod's end of a port that does not say otherwise.
const DefaultInterface = "eth0"

// The gateways of every pod. The first is Calico's too.
var (
	Gateway4 = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	Gateway6 = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: 1}) // fe80::1
)

// Port is a pod's link to its node. Container and Name identify it: Detach needs no more.
type Port struct {
	// Container says whose port it is: a container's ID, a pod's name. It must be unique on this node.
	Container string
	// NetNS is the path of the pod's network namespace.
	NetNS string
	// Name of the link in the pod; empty means DefaultInterface.
	Name string
	// HostName is the name of the link's other end, on the node. Empty means one derived from the owner, Container and
	// Name, which is always the same.
	HostName string
	// MAC of the pod's link. Zero means one derived from the first address.
	MAC podweft.MAC
	// MTU in bytes, that of the way to other nodes; 0 means 1500.
	MTU int
	// Addresses of the pod. Either family, or both.
	Addresses []netip.Addr
	// Routes are what the pod reaches through the node. Nil means everything, in each family that the pod has an address of;
	// an empty list that is not nil means none.
	Routes []netip.Prefix
	// Ingress limits what reaches the pod, and Egress what it sends: each a token bucket on the end of the pair that the packets
	// leave by. The pod's own can take Egress off if it may change its links (CAP_NET_ADMIN).
	Ingress, Egress Limit
}

// Limit is how much may pass a port in one direction. The zero Limit is none, and leaves one that is there alone: it may be another
// program's.
type Limit struct {
	Rate  uint64 // bits per second
	Burst uint64 // bits that pass at once after a while without any; 0 means a hundredth of a second's, and at least 128 KiB
}

// Attached is a port as it is.
type Attached struct {
	Host Link // in the node's namespace
	Pod  Link // in the pod's namespace, the other end of Host
}

// Link is a network link as it is.
type Link struct {
	Index int // in its namespace
	Name  string
	MAC   podweft.MAC
	MTU   int // bytes
}

// Validate reports everything that is wrong with p, joined, each as a [*podweft.FieldError].
func (p Port) Validate() error {
	var f cable.Fields
	f.ID(p.id())
	f.NetNS(p.NetNS)
	f.MAC("Port.MAC", p.MAC)
	f.MTU("Port.MTU", p.MTU, p.has(Gateway6))
	if len(p.Addresses) == 0 {
		f.Add("Port.Addresses", nil, "is empty", "a routed port is nothing but the way to its addresses: give one, or use package bridge")
	}
	for i, a := range p.Addresses {
		field := fmt.Sprintf("Port.Addresses[%d]", i)
		switch {
		case !a.IsValid():
			f.Add(field, nil, "is not an address", "write one like 10.244.1.2")
			continue
		case a.Zone() != "":
			f.Add(field, a, "has a zone", "leave it out")
			continue
		}
		f.Address(field, netip.PrefixFrom(a, a.BitLen()))
		if slices.Contains(p.Addresses[:i], a) {
			f.Add(field, a, "is there twice", "")
		}
	}
	for i, r := range p.Routes {
		field := fmt.Sprintf("Port.Routes[%d]", i)
		switch {
		case !r.IsValid() || r != r.Masked() || r.Addr().Is4In6():
			f.Add(field, r, "is not a subnet", "write one like 10.244.0.0/16, no host bits set")
		case !p.has(r.Addr()):
			f.Add(field, r, "is of a family that the port has no address of", "leave it out")
		}
	}
	f.Limit("Port.Ingress", cable.Limit(p.Ingress))
	f.Limit("Port.Egress", cable.Limit(p.Egress))
	return f.Err()
}

func (p Port) id() cable.ID {
	return cable.ID{Container: p.Container, Name: p.Name, HostName: p.HostName}
}

// withDefaults fills in what can be derived.
func (p Port) withDefaults(owner string) Port {
	if p.Name == "" {
		p.Name = DefaultInterface
	}
	if p.HostName == "" {
		p.HostName = cable.HostName(owner, p.Container, p.Name)
	}
	if p.MAC.IsZero() {
		first := ""
		if len(p.Addresses) > 0 {
			first = p.Addresses[0].String()
		}
		p.MAC = cable.PodMAC(owner, p.id(), first)
	}
	return p
}

// has reports whether the port has an address of a's family.
func (p Port) has(a netip.Addr) bool {
	return slices.ContainsFunc(p.Addresses, func(own netip.Addr) bool { return own.Is4() == a.Is4() })
}

// gateways are those of the families that the port has addresses of.
func (p Port) gateways() (all []netip.Addr) {
	for _, g := range []netip.Addr{Gateway4, Gateway6} {
		if p.has(g) {
			all = append(all, g)
		}
	}
	return all
}

// routes are the pod's.
func (p Port) routes() []netip.Prefix {
	if p.Routes != nil {
		return p.Routes
	}
	var everything []netip.Prefix
	for _, g := range p.gateways() {
		everything = append(everything, netip.PrefixFrom(g, 0).Masked())
	}
	return everything
}

// gatewayOf is the gateway to prefixes of a's family.
func gatewayOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return Gateway4
	}
	return Gateway6
}
