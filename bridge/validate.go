package bridge

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft/internal/cable"
)

// Validate reports everything that is wrong with b, joined, each as a [*podweft.FieldError].
func (b Bridge) Validate() error {
	var f cable.Fields
	b = b.withDefaults()
	f.Name("Bridge.Name", b.Name)
	f.MAC("Bridge.MAC", b.MAC)
	f.MTU("Bridge.MTU", b.MTU, hasIPv6(b.Gateways))
	for i, g := range b.Gateways {
		field := fmt.Sprintf("Bridge.Gateways[%d]", i)
		f.Address(field, g)
		for _, other := range b.Gateways[:i] {
			if other.Overlaps(g) {
				f.Add(field, g, "is of the same subnet as "+other.String(), "give one gateway for each subnet")
			}
		}
	}
	return f.Err()
}

// Validate reports everything that is wrong with p by itself, joined, each as a [*podweft.FieldError]. Attach also checks
// that it fits its bridge.
func (p Port) Validate() error {
	var f cable.Fields
	f.ID(p.id())
	f.NetNS(p.NetNS)
	f.MAC("Port.MAC", p.MAC)
	f.MTU("Port.MTU", p.MTU, hasIPv6(p.Addresses))
	seen := map[netip.Addr]bool{}
	for i, a := range p.Addresses {
		field := fmt.Sprintf("Port.Addresses[%d]", i)
		f.Address(field, a)
		if seen[a.Addr()] {
			f.Add(field, a, "is there twice", "")
		}
		seen[a.Addr()] = true
	}
	for i, r := range p.Routes {
		field := fmt.Sprintf("Port.Routes[%d]", i)
		checkRoute(&f, field, r)
		if seen[r.Via] {
			f.Add(field+".Via", r.Via, "is the port's own address", "leave it out, which means the gateway")
		}
	}
	f.Limit("Port.Ingress", cable.Limit(p.Ingress))
	f.Limit("Port.Egress", cable.Limit(p.Egress))
	return f.Err()
}

// fits checks the port against its bridge; each of them is valid.
func (p Port) fits(b Bridge) error {
	var f cable.Fields
	if b.MTU != 0 && p.MTU > b.MTU {
		f.Add("Port.MTU", p.MTU, "is more than the bridge's", fmt.Sprintf("use at most %d: the bridge drops longer packets", b.MTU))
	}
	if b.MAC == p.MAC && !p.MAC.IsZero() {
		f.Add("Port.MAC", p.MAC, "is the bridge's", "")
	}
	for i, a := range p.Addresses {
		field := fmt.Sprintf("Port.Addresses[%d]", i)
		g := p.gateway(b, a.Addr())
		switch {
		case !g.IsValid():
		case slices.ContainsFunc(b.Gateways, func(g netip.Prefix) bool { return g.Addr() == a.Addr() }):
			f.Add(field, a, "is the gateway's", "")
		case p.Routes == nil && !p.reaches(g.Addr()):
			f.Add(field, a, "is in another subnet than the gateway "+g.String(), "")
		}
	}
	for i, r := range p.routes(b) {
		field := fmt.Sprintf("Port.Routes[%d]", i)
		switch {
		case p.Routes == nil: // said above
		case !r.Via.IsValid():
			f.Add(field, r.Prefix, "needs a gateway and the bridge has none of its family", "set Via")
		case !p.reaches(r.Via):
			f.Add(field+".Via", r.Via, "is in none of the port's subnets", "")
		}
	}
	return f.Err()
}

func hasIPv6(addresses []netip.Prefix) bool {
	return slices.ContainsFunc(addresses, func(a netip.Prefix) bool { return a.Addr().Is6() })
}

func checkRoute(f *cable.Fields, field string, r Route) {
	switch {
	case !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() || r.Prefix.Addr().Is4In6():
		f.Add(field+".Prefix", r.Prefix, "is not a subnet", "write one like 10.244.0.0/16, no host bits set")
	case r.Via.IsValid() && r.Via.Is4() != r.Prefix.Addr().Is4():
		f.Add(field+".Via", r.Via, "is of another family than "+r.Prefix.String(), "")
	}
}
