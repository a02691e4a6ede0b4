package ptp

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/cable"
	"github.com/podweft/podweft/internal/fib"
	"github.com/podweft/podweft/internal/nl"
)

// ipv4 is how the node's end deals with IPv4.
var ipv4 = nl.IPv4Conf{ProxyARP: true, StrictSource: true}

// protocolOf is that of an owner's routes.
func protocolOf(owner string) uint8 { return fib.MarkOf("ptp/" + owner).Protocol }

// veth is a port's pair of links, and what leads to it.
type veth struct {
	cable.Pair
	port     Port
	protocol uint8 // of routes
}

func newVeth(node *cable.Node, p Port) *veth {
	return &veth{
		port: p, protocol: protocolOf(node.Owner),
		Pair: cable.Pair{
			Host: node.HostEnd(p.id(), p.MTU), Peer: nl.Link{Name: p.Name, Kind: "veth", MAC: p.MAC, MTU: p.MTU}, NetNS: p.NetNS,
			Ingress: cable.Limit(p.Ingress), Egress: cable.Limit(p.Egress),
		},
	}
}

// setup is what the pod needs to reach others.
func (v *veth) setup() cable.Setup {
	s, link := v.Setup(), v.Peer.Index
	for _, a := range v.port.Addresses {
		s.Addresses = append(s.Addresses, nl.Address{Link: link, Prefix: netip.PrefixFrom(a, a.BitLen())})
	}
	for _, g := range v.port.gateways() {
		s.Neighbors = append(s.Neighbors, nl.Neighbor{NeighborKey: nl.NeighborKey{Link: link, Addr: g}, MAC: v.Have.MAC})
	}
	if v.port.has(Gateway4) { // the IPv6 one is on the link as it is
		s.Routes = append(s.Routes, podRoute(link, netip.PrefixFrom(Gateway4, Gateway4.BitLen()), netip.Addr{}))
	}
	for _, p := range v.port.routes() {
		s.Routes = append(s.Routes, podRoute(link, p, gatewayOf(p.Addr())))
	}
	return s
}

func podRoute(link int, to netip.Prefix, via netip.Addr) nl.Route {
	return nl.Route{
		RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: to}, Protocol: unix.RTPROT_STATIC, Gateway: via, Link: link,
	}
}

// linkSteps is what the node's end lacks.
func (v *veth) linkSteps() (steps []cable.Step) {
	update := func(what string, request func(*nl.Batch)) {
		steps = append(steps, cable.Step{Op: "update", Object: "link " + v.Host.Name + " " + what, Request: request})
	}
	if v.Have.Alias == "" || !v.Have.Up {
		update("up alias "+v.Host.Alias, func(b *nl.Batch) {
			b.SetIPv4Conf(v.Host.Name, ipv4)
			b.Mark(v.Host)
		})
	} else if v.Have.IPv4 != ipv4 {
		update("proxy_arp 1 rp_filter 1", func(b *nl.Batch) { b.SetIPv4Conf(v.Host.Name, ipv4) })
	}
	if v.Host.MTU != 0 && v.Have.MTU != v.Host.MTU {
		update(fmt.Sprintf("mtu %d", v.Host.MTU), func(b *nl.Batch) { b.SetMTU(v.Have.Index, v.Host.MTU) })
	}
	return steps
}

// addresses are those of the node's end.
func (v *veth) addresses() []nl.Address {
	if !v.port.has(Gateway6) {
		return nil
	}
	return []nl.Address{{Link: v.Have.Index, Prefix: netip.PrefixFrom(Gateway6, 64)}}
}

// neighbors are what the node knows of the pod, so that it need not ask.
func (v *veth) neighbors() (all []nl.Neighbor) {
	for _, a := range v.port.Addresses {
		all = append(all, nl.Neighbor{NeighborKey: nl.NeighborKey{Link: v.Have.Index, Addr: a}, MAC: v.Peer.MAC})
	}
	return all
}

// routes are the node's to the pod.
func (v *veth) routes() (all []nl.Route) {
	for _, a := range v.port.Addresses {
		all = append(all, nl.Route{
			RouteKey: keyOf(netip.PrefixFrom(a, a.BitLen())), Protocol: v.protocol, Type: unix.RTN_UNICAST, Link: v.Have.Index,
		})
	}
	return all
}

// keyOf is where the node has its route to p.
func keyOf(p netip.Prefix) nl.RouteKey {
	return nl.RouteKey{Table: nl.TableMain, Prefix: p, Metric: nl.UsualMetric(p)}
}
