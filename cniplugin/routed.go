package cniplugin

import (
	"errors"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/ptp"
)

// routed gives each pod a link of its own to the node, which routes for it.
type routed struct {
	*task
	pods *ptp.Attacher
}

// routed reports whether pods are attached that way: to a plugin of that name, or where the configuration says so.
func (c *config) routed() bool { return c.Type == "ptp" || c.Mode == "ptp" }

func (t *task) routed() (wiring, error) {
	pods, err := ptp.New(ptp.Config{Owner: t.config.Name, NetNS: t.cfg.NetNS, Logger: t.log})
	if err != nil {
		return nil, err
	}
	return &routed{t, pods}, nil
}

func (w *routed) Close() error { return w.pods.Close() }

func (w *routed) attach(n *network, addresses []given, mac mac) (*types100.Result, string, error) {
	addresses = singly(addresses)
	port := w.port(n, addresses)
	port.MAC = mac
	at, err := w.pods.Attach(w.ctx, port)
	if err != nil {
		return nil, "", err
	}
	host, pod := bridge.Link(at.Host), bridge.Link(at.Pod)
	return attached(w.netns, []bridge.Link{host}, pod, addresses, n.podRoutes(addresses)), at.Host.Name, nil
}

// singly are the addresses as routed pods have them: of no subnet, and with the same gateways everywhere.
func singly(addresses []given) (all []given) {
	for _, a := range addresses {
		gateway := ptp.Gateway4
		if a.prefix.Addr().Is6() {
			gateway = ptp.Gateway6
		}
		all = append(all, given{netip.PrefixFrom(a.prefix.Addr(), a.prefix.Addr().BitLen()), gateway})
	}
	return all
}

// same reports whether a result's address is the one that was given: a result tells routed pods' with their full length.
func (c *config) same(told, given netip.Prefix) bool {
	return told == given || c.routed() && told.Addr() == given.Addr()
}

// port is what the driver is asked for. Whatever way the configuration names, the node is the only one.
func (w *routed) port(n *network, addresses []given) ptp.Port {
	p := ptp.Port{
		Container: w.container, NetNS: w.netns, Name: w.ifname, MTU: n.mtu, Routes: []netip.Prefix{},
		Ingress: ptp.Limit(n.limits.ingress()), Egress: ptp.Limit(n.limits.egress()),
	}
	for _, a := range addresses {
		p.Addresses = append(p.Addresses, a.prefix.Addr())
	}
	for _, r := range n.podRoutes(addresses) {
		if slices.ContainsFunc(p.Addresses, func(a netip.Addr) bool { return a.Is4() == r.Prefix.Addr().Is4() }) {
			p.Routes = append(p.Routes, r.Prefix)
		}
	}
	return p
}

func (w *routed) detach() error { return w.pods.Detach(w.ctx, w.named()) }

func (w *routed) retire() error { return w.pods.Retire(w.ctx, w.named()) }

func (w *routed) sweep() error { return w.pods.Sweep(w.ctx) }

// named is what identifies the port.
func (w *routed) named() ptp.Port { return ptp.Port{Container: w.container, Name: w.ifname} }

func (w *routed) check(n *network, addresses []given, hostName string) error {
	port := w.port(n, addresses)
	port.HostName = hostName
	return w.pods.Check(w.ctx, port)
}

func (w *routed) collect(live map[attachment]bool, suspects []attachment) error {
	all, err := w.pods.Ports(w.ctx)
	if err != nil {
		return err
	}
	var marked []attachment
	for _, p := range all {
		marked = append(marked, attachment{p.Container, p.Name})
	}
	var gone []ptp.Port
	for _, a := range dead(live, marked, suspects) {
		gone = append(gone, ptp.Port{Container: a.ContainerID, Name: a.IfName})
	}
	return errors.Join(w.pods.DetachAll(w.ctx, gone), w.pods.Sweep(w.ctx))
}
