package ptp

import (
	"context"
	"errors"
	"slices"

	"github.com/podweft/podweft/internal/cable"
	"github.com/podweft/podweft/internal/nl"
)

// ErrMissing: something that Attach made is not there any more.
var ErrMissing = cable.ErrMissing

// Check reports everything of p that is not as Attach made it, joined; most are [ErrMissing]. It changes nothing. What others have
// added since, and the MAC and MTU of the pod's end, are theirs.
func (a *Attacher) Check(ctx context.Context, p Port) error {
	p = p.withDefaults(a.node.Owner)
	if err := p.Validate(); err != nil {
		return err
	}
	pod, err := a.node.Enter(p.NetNS)
	if err != nil {
		return err
	}
	defer pod.Close()
	v := newVeth(a.node, p)
	if err := v.Look(ctx, a.node, pod); err != nil {
		return err
	}
	return errors.Join(a.checkHost(ctx, v), v.CheckHost(ctx, a.node), v.setup().Check(ctx, pod))
}

func (a *Attacher) checkHost(ctx context.Context, v *veth) error {
	var errs []error
	if !v.Have.Up {
		errs = append(errs, cable.Missing("link "+v.Host.Name+" up"))
	}
	if v.Have.IPv4 != ipv4 {
		errs = append(errs, cable.Missing("link "+v.Host.Name+" proxy_arp 1 rp_filter 1"))
	}
	have, err := a.node.Conn.Addresses(v.Have.Index)
	if err != nil {
		return err
	}
	for _, want := range v.addresses() {
		if !slices.ContainsFunc(have, func(h nl.Address) bool { return h.Prefix == want.Prefix }) {
			errs = append(errs, cable.Missing(cable.AddressText(v.Host.Name, want)))
		}
	}
	routes, err := readRoutes(ctx, a.node.Conn)
	if err != nil {
		return err
	}
	for _, want := range v.routes() {
		if !sameRoute(routes[want.RouteKey], want) {
			errs = append(errs, cable.Missing(want.Format(v.Host.Name)))
		}
	}
	return errors.Join(errs...)
}
