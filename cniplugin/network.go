package cniplugin

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/ipam"
)

// network is what follows from a configuration: how its pods are attached.
type network struct {
	mtu       int
	gateway   bool // the node is the pods' gateway
	byDefault bool // and the way to everything
	masq      bool
	exempt    []netip.Prefix // towards which pods keep their address, beside their own
	sets      [][]ipam.Range
	gateways  []netip.Prefix // of sets, once they are known; whatever pod is attached, the others need theirs
	reserved  []netip.Prefix
	routes    []bridge.Route
	limits    bandwidth
}

// network reads the part of the configuration that ADD, CHECK and STATUS need.
func (c *config) network() (*network, error) {
	if err := c.refuse(); err != nil {
		return nil, err
	}
	n := &network{mtu: c.MTU, gateway: is(c.IsGateway, c.ours()), byDefault: is(c.IsDefaultGateway, c.ours())}
	n.gateway = n.gateway || n.byDefault
	n.masq = is(c.IPMasq, false)
	// As the bandwidth plugin has it: its configuration's own limits go before those that the runtime asks for.
	if err := c.read(n.limits.fields()); err != nil {
		return nil, err
	}
	if n.limits == (bandwidth{}) {
		n.limits = c.RuntimeConfig.Bandwidth
	}
	var errs []error
	for i, r := range c.IPAM.Routes {
		route, err := r.route(fmt.Sprintf("ipam.routes[%d]", i))
		errs = append(errs, err)
		n.routes = append(n.routes, route)
	}
	for i, text := range c.IPAM.Excluded {
		p, err := prefixOrAddr(fmt.Sprintf("ipam.reserved[%d]", i), text)
		errs = append(errs, err)
		n.reserved = append(n.reserved, p)
	}
	ranges := c.IPAM.Ranges
	if c.IPAM.Subnet != "" {
		ranges = append([][]ipRange{{c.IPAM.ipRange}}, ranges...)
	}
	if len(c.RuntimeConfig.IPRanges) > 0 {
		ranges = append(slices.Clone(c.RuntimeConfig.IPRanges), ranges...)
	}
	for i, set := range ranges {
		var all []ipam.Range
		for j, r := range set {
			full, err := r.parse(fmt.Sprintf("ipam.ranges[%d][%d]", i, j))
			errs = append(errs, err)
			all = append(all, full)
		}
		n.sets = append(n.sets, all)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(n.sets) == 0 && c.builtinIPAM() {
		if err := n.fromLease(c); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// fromLease takes the addresses from the node's lease, when the configuration names none.
func (n *network) fromLease(c *config) error {
	lease, err := c.readLease()
	if err != nil {
		return err
	}
	for _, s := range lease.subnets {
		n.sets = append(n.sets, []ipam.Range{{Prefix: s.Masked(), Gateway: s.Addr()}})
	}
	n.exempt = lease.networks
	if n.mtu == 0 {
		n.mtu = lease.mtu
	}
	n.masq = is(c.IPMasq, !lease.ipMasq)
	for _, to := range lease.networks {
		n.routes = append(n.routes, bridge.Route{Prefix: to})
	}
	return nil
}

// ours reports whether the configuration is written for this plugin, rather than for the bridge plugin: the node is then the
// pods' gateway unless it says otherwise.
func (c *config) ours() bool { return c.Type != "bridge" }

// builtinIPAM reports whether this package gives the addresses.
func (c *config) builtinIPAM() bool {
	return c.IPAM.Type == "" || c.IPAM.Type == "host-local" || c.IPAM.Type == "podweft"
}

func (r ipRange) parse(field string) (full ipam.Range, err error) {
	full.Prefix, err = netip.ParsePrefix(r.Subnet)
	if err != nil {
		return full, &podweft.FieldError{
			Field: field + ".subnet", Value: fmt.Sprintf("%q", r.Subnet), Problem: "is not a subnet", Remedy: "write one like 10.244.1.0/24",
		}
	}
	full.Prefix = full.Prefix.Masked()
	for _, f := range []struct {
		name, text string
		addr       *netip.Addr
	}{{"rangeStart", r.RangeStart, &full.First}, {"rangeEnd", r.RangeEnd, &full.Last}, {"gateway", r.Gateway, &full.Gateway}} {
		if f.text == "" {
			continue
		}
		if *f.addr, err = netip.ParseAddr(f.text); err != nil {
			return full, &podweft.FieldError{Field: field + "." + f.name, Value: fmt.Sprintf("%q", f.text), Problem: "is not an address"}
		}
	}
	return full, nil
}

func (r ipRoute) route(field string) (route bridge.Route, err error) {
	if route.Prefix, err = netip.ParsePrefix(r.Dst); err != nil {
		return route, &podweft.FieldError{
			Field: field + ".dst", Value: fmt.Sprintf("%q", r.Dst), Problem: "is not a subnet", Remedy: "write one like 10.244.0.0/16",
		}
	}
	route.Prefix = route.Prefix.Masked()
	if r.GW == "" {
		return route, nil
	}
	if route.Via, err = netip.ParseAddr(r.GW); err != nil {
		return route, &podweft.FieldError{Field: field + ".gw", Value: fmt.Sprintf("%q", r.GW), Problem: "is not an address"}
	}
	return route, nil
}

// prefixOrAddr reads a prefix, or an address as one of its own.
func prefixOrAddr(field, text string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, &podweft.FieldError{Field: field, Value: fmt.Sprintf("%q", text), Problem: "is neither an address nor a prefix"}
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// wanted are the addresses that somebody asks for by name: the runtime's, the configuration's or the environment's.
func (c *config) wanted(args map[string]string) (all []netip.Addr, err error) {
	texts := c.RuntimeConfig.IPs
	field := "runtimeConfig.ips"
	if len(texts) == 0 {
		texts, field = c.Args.CNI.IPs, "args.cni.ips"
	}
	if ip := args["IP"]; len(texts) == 0 && ip != "" {
		texts, field = []string{ip}, "CNI_ARGS IP"
	}
	for _, text := range texts {
		p, err := prefixOrAddr(field, text)
		if err != nil {
			return nil, err
		}
		a := p.Addr()
		if q, err := netip.ParsePrefix(text); err == nil {
			a = q.Addr()
		}
		all = append(all, a)
	}
	return all, nil
}

// mac is the Ethernet address that somebody asks for, or the zero MAC.
func (c *config) mac(args map[string]string) (podweft.MAC, error) {
	for _, text := range []string{c.RuntimeConfig.MAC, c.Args.CNI.MAC, args["MAC"]} {
		if text != "" {
			return podweft.ParseMAC(text)
		}
	}
	return podweft.MAC{}, nil
}

// ingress and egress are the limits of what reaches the pod and what it sends.
func (b bandwidth) ingress() bridge.Limit {
	return bridge.Limit{Rate: b.IngressRate, Burst: b.IngressBurst}
}

func (b bandwidth) egress() bridge.Limit {
	return bridge.Limit{Rate: b.EgressRate, Burst: b.EgressBurst}
}

// given is one address that a pod got, and the way out from it.
type given struct {
	prefix  netip.Prefix
	gateway netip.Addr
}

// bridge is the node's bridge for pods with these addresses.
func (n *network) bridge(c *config, addresses []given) bridge.Bridge {
	b := bridge.Bridge{Name: c.Bridge, MTU: n.mtu}
	if !n.gateway {
		return b
	}
	var all []netip.Prefix
	for _, a := range addresses {
		if a.gateway.IsValid() {
			all = append(all, netip.PrefixFrom(a.gateway, a.prefix.Bits()))
		}
	}
	for _, g := range append(all, n.gateways...) {
		if !slices.ContainsFunc(b.Gateways, g.Overlaps) {
			b.Gateways = append(b.Gateways, g)
		}
	}
	return b
}

// podRoutes are the pod's routes, each with its gateway.
func (n *network) podRoutes(addresses []given) []bridge.Route {
	routes := []bridge.Route{}
	add := func(r bridge.Route) {
		if !slices.ContainsFunc(routes, func(o bridge.Route) bool { return o.Prefix == r.Prefix }) {
			routes = append(routes, r)
		}
	}
	if n.byDefault {
		for _, a := range addresses {
			if a.gateway.IsValid() {
				add(bridge.Route{Prefix: netip.PrefixFrom(unspecified(a.gateway), 0), Via: a.gateway})
			}
		}
	}
	for _, r := range n.routes {
		for _, a := range addresses {
			if r.Via.IsValid() || a.gateway.Is4() != r.Prefix.Addr().Is4() || !a.gateway.IsValid() {
				continue
			}
			r.Via = a.gateway
		}
		if r.Via.IsValid() { // without an address of that family there is no way
			add(r)
		}
	}
	return routes
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
