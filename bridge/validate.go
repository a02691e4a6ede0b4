package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	"github.com/podweft/podweft"
)

const (
	// maxName is IFNAMSIZ of linux/if.h, without the closing zero.
	maxName = 15
	// maxContainer keeps an alias below IFALIASZ of linux/if.h, 256: "podweft:", an owner, a container, a link.
	maxContainer = 160

	minMTU4, minMTU6 = 68, 1280 // RFC 791, RFC 8200
)

// Validate reports everything that is wrong with b, joined, each as a [*podweft.FieldError].
func (b Bridge) Validate() error {
	var c checker
	b = b.withDefaults()
	c.name("Bridge.Name", b.Name)
	c.mac("Bridge.MAC", b.MAC)
	c.mtu("Bridge.MTU", b.MTU, b.Gateways)
	for i, g := range b.Gateways {
		field := fmt.Sprintf("Bridge.Gateways[%d]", i)
		c.address(field, g)
		if other := b.gateway(g.Addr()); other != g {
			c.add(field, g, "is of the same family as "+other.String(), "give at most one gateway of each family")
		}
	}
	return errors.Join(c.errs...)
}

// Validate reports everything that is wrong with p by itself, joined, each as a [*podweft.FieldError]. Attach also checks
// that it fits its bridge.
func (p Port) Validate() error {
	var c checker
	c.identity(p)
	if p.NetNS == "" {
		c.add("Port.NetNS", nil, "is missing", "give the path of the pod's network namespace")
	}
	c.mac("Port.MAC", p.MAC)
	c.mtu("Port.MTU", p.MTU, p.Addresses)
	seen := map[netip.Addr]bool{}
	for i, a := range p.Addresses {
		field := fmt.Sprintf("Port.Addresses[%d]", i)
		c.address(field, a)
		if seen[a.Addr()] {
			c.add(field, a, "is there twice", "")
		}
		seen[a.Addr()] = true
	}
	for i, r := range p.Routes {
		c.route(fmt.Sprintf("Port.Routes[%d]", i), r)
	}
	return errors.Join(c.errs...)
}

// fits checks the port against its bridge; each of them is valid.
func (p Port) fits(b Bridge) error {
	var c checker
	if b.MTU != 0 && p.MTU > b.MTU {
		c.add("Port.MTU", p.MTU, "is more than the bridge's", fmt.Sprintf("use at most %d: the bridge drops longer packets", b.MTU))
	}
	if b.MAC == p.MAC && !p.MAC.IsZero() {
		c.add("Port.MAC", p.MAC, "is the bridge's", "")
	}
	for i, a := range p.Addresses {
		field := fmt.Sprintf("Port.Addresses[%d]", i)
		g := b.gateway(a.Addr())
		switch {
		case !g.IsValid():
		case a.Addr() == g.Addr():
			c.add(field, a, "is the gateway's", "")
		case p.Routes == nil && !p.reaches(g.Addr()):
			c.add(field, a, "is in another subnet than the gateway "+g.String(), "")
		}
	}
	for i, r := range p.routes(b) {
		field := fmt.Sprintf("Port.Routes[%d]", i)
		switch {
		case p.Routes == nil: // said above
		case !r.Via.IsValid():
			c.add(field, r.Prefix, "needs a gateway and the bridge has none of its family", "set Via")
		case !p.reaches(r.Via):
			c.add(field+".Via", r.Via, "is in none of the port's subnets", "")
		}
	}
	return errors.Join(c.errs...)
}

type checker struct{ errs []error }

func (c *checker) add(field string, value any, problem, remedy string) {
	c.errs = append(c.errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
}

// identity is what a port cannot do without even to be detached.
func (c *checker) identity(p Port) {
	switch {
	case p.Container == "":
		c.add("Port.Container", nil, "is missing", "say whose port it is: a container's ID, a pod's name")
	case len(p.Container) > maxContainer || strings.ContainsFunc(p.Container, func(r rune) bool { return !unicode.IsPrint(r) }):
		c.add("Port.Container", fmt.Sprintf("%q", p.Container), "cannot be part of a mark", fmt.Sprintf("use at most %d bytes, all printable", maxContainer))
	}
	if p.Name != "" {
		c.name("Port.Name", p.Name)
	}
	if p.HostName != "" {
		c.name("Port.HostName", p.HostName)
	}
}

// name checks that the kernel takes name for a link: dev_valid_name in net/core/dev.c.
func (c *checker) name(field, name string) {
	bad := func(r rune) bool {
		return r == '/' || r == ':' || r == '%' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	}
	if len(name) > maxName || name == "." || name == ".." || strings.ContainsFunc(name, bad) {
		c.add(field, fmt.Sprintf("%q", name), "is not a name for a link", "use at most 15 letters, digits, dashes and dots")
	}
}

func (c *checker) mac(field string, mac podweft.MAC) {
	if !mac.IsZero() && !mac.IsUnicast() {
		c.add(field, mac, "is not one station's address", "leave it out, or use one made by podweft.NewMAC")
	}
}

func (c *checker) mtu(field string, mtu int, addresses []netip.Prefix) {
	least := minMTU4
	for _, a := range addresses {
		if a.Addr().Is6() {
			least = minMTU6
		}
	}
	if mtu != 0 && (mtu < least || mtu > 65535) {
		c.add(field, mtu, "is not an MTU", fmt.Sprintf("use %d to 65535", least))
	}
}

func (c *checker) address(field string, a netip.Prefix) {
	ip := a.Addr()
	switch {
	case !a.IsValid():
		c.add(field, nil, "is not an address with a prefix length", "write one like 10.244.1.2/24")
	case ip.Is4In6():
		c.add(field, a, "is an IPv4 address written as IPv6", "write "+ip.Unmap().String()+" and its own prefix length")
	case !ip.IsGlobalUnicast():
		c.add(field, a, "is not an address that packets can be sent to", "")
	case a == a.Masked() && a.Bits() < ip.BitLen()-1: // but RFC 3021 and RFC 6164
		c.add(field, a, "is the subnet's own address", "use "+ip.Next().String()+" or a later one")
	}
}

func (c *checker) route(field string, r Route) {
	switch {
	case !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() || r.Prefix.Addr().Is4In6():
		c.add(field+".Prefix", r.Prefix, "is not a subnet", "write one like 10.244.0.0/16, no host bits set")
	case r.Via.IsValid() && r.Via.Is4() != r.Prefix.Addr().Is4():
		c.add(field+".Via", r.Via, "is of another family than "+r.Prefix.String(), "")
	}
}
