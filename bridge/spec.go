package bridge

import (
	"net/netip"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/cable"
)

const (
	// DefaultName is the bridge of flannel and of most CNI examples.
	DefaultName = "cni0"
	// DefaultInterface is the pod's end of a port that does not say otherwise.
	DefaultInterface = "eth0"
)

// Bridge is a node's bridge as it should be.
type Bridge struct {
	// Name of the link; empty means DefaultName.
	Name string
	// MTU in bytes, of the bridge and of ports that ask for no other: that of the tunnel to other nodes. 0 leaves the
	// bridge's to the kernel, and ports have 1500.
	MTU int
	// MAC is the bridge's Ethernet address. Zero means one derived from the first gateway when the bridge is made, which is
	// thus the same after a reboot; a bridge that is there keeps its own. (A bridge that nobody gives one takes its ports',
	// and changes it with them.)
	MAC podweft.MAC
	// Gateways are the node's addresses on the bridge, one for each subnet of pods, each with the subnet's length: 10.244.1.1/24.
	// The bridge has these and no others, but for a link-local one beside an IPv6 gateway; without any, pods reach each other
	// only. A port's gateway is the first of its family that is in one of its subnets.
	Gateways []netip.Prefix
}

// Port is a pod's place on the bridge. Container and Name identify it: Detach needs no more.
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
	// MAC of the pod's link. Zero means one derived from the first address: a pod that gets the address of an earlier one
	// also gets its MAC, so that nobody's neighbour entry for it is stale.
	MAC podweft.MAC
	// MTU in bytes; 0 means the bridge's.
	MTU int
	// Addresses of the pod, each with the length of its subnet: 10.244.1.2/24. Either family, or both, or none.
	Addresses []netip.Prefix
	// Routes of the pod. Nil means a default route in each family that the pod has an address of and the bridge a gateway: a pod
	// with IPv6 on a bridge that has an IPv4 gateway alone reaches its neighbours by it. An empty list that is not nil means none.
	Routes []Route
	// Hairpin lets the bridge send a frame back through the port it came from: a pod needs it to reach itself through its
	// own service address or host port.
	Hairpin bool
	// Isolated keeps the port from exchanging frames with other isolated ones; it reaches the node and what is behind it.
	Isolated bool
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

// Route is one of a pod.
type Route struct {
	// Prefix is what is reached: 10.244.0.0/16, or 0.0.0.0/0 for the rest of the world.
	Prefix netip.Prefix
	// Via is the next hop, in one of the pod's subnets; zero means the port's gateway of that family.
	Via netip.Addr
}

// Attached is a port as it is.
type Attached struct {
	Bridge Link // in the node's namespace
	Host   Link // in the node's namespace, a port of Bridge
	Pod    Link // in the pod's namespace, the other end of Host
}

// Link is a network link as it is.
type Link struct {
	Index int // in its namespace
	Name  string
	MAC   podweft.MAC
	MTU   int // bytes
}

func (b Bridge) withDefaults() Bridge {
	if b.Name == "" {
		b.Name = DefaultName
	}
	return b
}

// withDefaults fills in what can be derived; routes must be asked for: see Port.routes.
func (p Port) withDefaults(owner string, b Bridge) Port {
	if p.Name == "" {
		p.Name = DefaultInterface
	}
	if p.HostName == "" {
		p.HostName = cable.HostName(owner, p.Container, p.Name)
	}
	if p.MAC.IsZero() {
		p.MAC = podMAC(owner, p)
	}
	if p.MTU == 0 {
		p.MTU = b.MTU
	}
	return p
}

// routes are the port's, none without a Via.
func (p Port) routes(b Bridge) []Route {
	if p.Routes == nil {
		return p.defaultRoutes(b)
	}
	routes := make([]Route, 0, len(p.Routes))
	for _, r := range p.Routes {
		if !r.Via.IsValid() {
			r.Via = p.gateway(b, r.Prefix.Addr()).Addr()
		}
		routes = append(routes, r)
	}
	return routes
}

func (p Port) defaultRoutes(b Bridge) (routes []Route) {
	for _, g := range p.gateways(b) {
		everything := netip.IPv4Unspecified()
		if g.Is6() {
			everything = netip.IPv6Unspecified()
		}
		routes = append(routes, Route{netip.PrefixFrom(everything, 0), g})
	}
	return routes
}

// gateways are the port's, of the families that it has addresses of.
func (p Port) gateways(b Bridge) (all []netip.Addr) {
	for _, of := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if g := p.gateway(b, of); g.IsValid() && p.has(of) {
			all = append(all, g.Addr())
		}
	}
	return all
}

// gateway is the port's of a's family: the first that is in one of its subnets, or where none is the first. The zero Prefix where
// the bridge has none.
func (p Port) gateway(b Bridge, a netip.Addr) (first netip.Prefix) {
	for _, g := range b.Gateways {
		switch {
		case g.Addr().Is4() != a.Is4():
		case p.reaches(g.Addr()):
			return g
		case !first.IsValid():
			first = g
		}
	}
	return first
}

// has reports whether the port has an address of a's family.
func (p Port) has(a netip.Addr) bool {
	for _, own := range p.Addresses {
		if own.Addr().Is4() == a.Is4() {
			return true
		}
	}
	return false
}

// reaches reports whether a is in one of the pod's subnets.
func (p Port) reaches(a netip.Addr) bool {
	for _, own := range p.Addresses {
		if own.Contains(a) {
			return true
		}
	}
	return false
}
