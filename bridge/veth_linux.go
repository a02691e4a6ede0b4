package bridge

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/cable"
	"github.com/podweft/podweft/internal/nl"
)

// veth is a port's pair of links and what they connect.
type veth struct {
	cable.Pair
	bridge Bridge
	port   Port
	br     nl.Link // the bridge's
}

func (a *Attacher) veth(b Bridge, br nl.Link, p Port) *veth {
	v := &veth{bridge: b, port: p, br: br, Pair: cable.Pair{
		Host: a.node.HostEnd(p.id(), p.MTU), Peer: nl.Link{Name: p.Name, Kind: "veth", MAC: p.MAC, MTU: p.MTU}, NetNS: p.NetNS,
	}}
	v.Host.Master = br.Index
	v.Ingress, v.Egress = cable.Limit(p.Ingress), cable.Limit(p.Egress)
	return v
}

// setup is what the pod needs to reach others.
func (v *veth) setup() cable.Setup {
	s, link := v.Setup(), v.Peer.Index
	for _, a := range v.port.Addresses {
		s.Addresses = append(s.Addresses, nl.Address{Link: link, Prefix: a})
	}
	for _, g := range v.port.gateways(v.bridge) {
		s.Neighbors = append(s.Neighbors, nl.Neighbor{NeighborKey: nl.NeighborKey{Link: link, Addr: g}, MAC: v.br.MAC})
	}
	for _, r := range v.port.routes(v.bridge) {
		s.Routes = append(s.Routes, nl.Route{
			RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: r.Prefix},
			Protocol: unix.RTPROT_STATIC, Gateway: r.Via, Link: link,
		})
	}
	return s
}

// hostSteps is what the host end lacks.
func (v *veth) hostSteps() (steps []cable.Step) {
	update := func(what string, request func(*nl.Batch)) {
		steps = append(steps, cable.Step{Op: "update", Object: "link " + v.Host.Name + " " + what, Request: request})
	}
	if v.Have.Alias == "" || !v.Have.Up {
		update("up alias "+v.Host.Alias, func(r *nl.Batch) { r.Mark(v.Host) })
	}
	if v.Have.Master == 0 {
		update("master "+v.bridge.Name, func(r *nl.Batch) { r.SetMaster(v.Have.Index, v.Host.Master) })
	}
	if v.Host.MTU != 0 && v.Have.MTU != v.Host.MTU {
		update(fmt.Sprintf("mtu %d", v.Host.MTU), func(r *nl.Batch) { r.SetMTU(v.Have.Index, v.Host.MTU) })
	}
	if v.Have.Hairpin != v.port.Hairpin {
		update(fmt.Sprintf("hairpin %t", v.port.Hairpin), func(r *nl.Batch) { r.SetHairpin(v.Host.Name, v.port.Hairpin) })
	}
	if v.Have.Isolated != v.port.Isolated {
		update(fmt.Sprintf("isolated %t", v.port.Isolated), func(r *nl.Batch) { r.SetIsolated(v.Host.Name, v.port.Isolated) })
	}
	if changed := v.Have.Alias == "" || v.Have.Master == 0 || v.Have.MTU != v.Host.MTU; changed && v.port.MTU < v.bridge.MTU {
		// A bridge takes the smallest MTU of its ports (br_mtu_auto_adjust in net/bridge/br_if.c), until it is given one.
		update(fmt.Sprintf("mtu of %s %d", v.bridge.Name, v.bridge.MTU), func(r *nl.Batch) { r.SetMTU(v.br.Index, v.bridge.MTU) })
	}
	return steps
}
