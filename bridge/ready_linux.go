package bridge

import (
	"context"

	"github.com/podweft/podweft/internal/cable"
)

// ready waits until packets flow.
func (v *veth) ready(ctx context.Context, node, pod cable.Space) (at Attached, err error) {
	host, err := node.Operational(ctx, v.Host.Name)
	if err != nil {
		return at, err
	}
	br := v.br
	if !br.Operational { // its first port gives it a carrier
		if br, err = node.Operational(ctx, br.Name); err != nil {
			return at, err
		}
	}
	for _, g := range v.bridge.Gateways {
		if err := node.Reachable(ctx, br.Index, g.Addr()); err != nil {
			return at, err
		}
	}
	for _, own := range v.port.Addresses {
		if err := pod.Reachable(ctx, v.Peer.Index, own.Addr()); err != nil {
			return at, err
		}
	}
	return Attached{Bridge: asLink(br), Host: asLink(host), Pod: asLink(v.Peer)}, nil
}
