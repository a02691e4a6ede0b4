package cniplugin

import (
	"errors"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podweft/podweft/bridge"
)

// bridged joins pods by a bridge.
type bridged struct {
	*task
	pods *bridge.Attacher
}

func (t *task) bridged() (wiring, error) {
	pods, err := bridge.New(bridge.Config{Owner: t.config.Name, NetNS: t.cfg.NetNS, Adopt: true, Logger: t.log})
	if err != nil {
		return nil, err
	}
	return &bridged{t, pods}, nil
}

func (w *bridged) Close() error { return w.pods.Close() }

func (w *bridged) attach(n *network, addresses []given, mac mac) (*types100.Result, string, error) {
	b, port := w.port(n, addresses)
	port.MAC = mac
	at, err := w.pods.Attach(w.ctx, b, port)
	if err != nil {
		return nil, "", err
	}
	return attached(w.netns, []bridge.Link{at.Bridge, at.Host}, at.Pod, addresses, port.Routes), at.Host.Name, nil
}

// port is what the driver is asked for.
func (w *bridged) port(n *network, addresses []given) (bridge.Bridge, bridge.Port) {
	p := bridge.Port{
		Container: w.container, NetNS: w.netns, Name: w.ifname, MTU: n.mtu, Routes: n.podRoutes(addresses),
		Hairpin: w.config.HairpinMode, Isolated: w.config.PortIsolation,
		Ingress: n.limits.ingress(), Egress: n.limits.egress(),
	}
	for _, a := range addresses {
		p.Addresses = append(p.Addresses, a.prefix)
	}
	return n.bridge(w.config, addresses), p
}

func (w *bridged) detach() error { return w.pods.Detach(w.ctx, w.named()) }

func (w *bridged) retire() error { return w.pods.Retire(w.ctx, w.named()) }

func (w *bridged) sweep() error { return w.pods.Sweep(w.ctx) }

// named is what identifies the port.
func (w *bridged) named() bridge.Port {
	return bridge.Port{Container: w.container, Name: w.ifname, NetNS: w.netns}
}

func (w *bridged) check(n *network, addresses []given, hostName string) error {
	b, port := w.port(n, addresses)
	port.HostName = hostName
	return w.pods.Check(w.ctx, b, port)
}

func (w *bridged) collect(live map[attachment]bool, suspects []attachment) error {
	all, err := w.pods.Ports(w.ctx)
	if err != nil {
		return err
	}
	var marked []attachment
	for _, p := range all {
		marked = append(marked, attachment{p.Container, p.Name})
	}
	var gone []bridge.Port
	for _, a := range dead(live, marked, suspects) {
		gone = append(gone, bridge.Port{Container: a.ContainerID, Name: a.IfName})
	}
	return errors.Join(w.pods.DetachAll(w.ctx, gone), w.pods.Sweep(w.ctx))
}
