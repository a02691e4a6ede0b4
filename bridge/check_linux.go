package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// ErrMissing: something that Attach made is not there any more.
var ErrMissing = errors.New("is missing")

// Check reports everything of b and p that is not as Attach made it, joined; most are [ErrMissing]. It changes nothing. What
// others have added since, and the MAC and MTU of the pod's end, are theirs.
func (a *Attacher) Check(ctx context.Context, b Bridge, p Port) error {
	b = b.withDefaults()
	p = p.withDefaults(a.owner, b)
	if err := errors.Join(b.Validate(), p.Validate(), p.fits(b)); err != nil {
		return err
	}
	pod, err := a.enter(p)
	if err != nil {
		return err
	}
	defer pod.close()
	br, err := a.checkBridge(b)
	if err != nil {
		return err
	}
	v := a.veth(b, br, p)
	if v.have, err = a.node.conn.Port(ctx, v.host.Name); err != nil {
		return gone(err, "link "+v.host.Name)
	}
	peer, err := pod.conn.Link(p.Name)
	if err != nil {
		return gone(err, fmt.Sprintf("link %s of the pod", p.Name))
	}
	if err := v.accept(v.have.Link, peer); err != nil {
		return err
	}
	return errors.Join(v.checkHost(), v.checkPod(ctx, pod, peer))
}

// gone says what the error of a look-up means here.
func gone(err error, what string) error {
	if errors.Is(err, nl.ErrNoLink) {
		return missing(what)
	}
	return err
}

func missing(what string) error {
	return &podweft.OpError{Op: "check", Object: podweft.Named(what), Err: ErrMissing}
}

func (a *Attacher) checkBridge(b Bridge) (nl.Link, error) {
	br, err := a.node.conn.Link(b.Name)
	if err != nil {
		return br, gone(err, "link "+b.Name)
	}
	if !bears(br.Alias, a.mark) {
		return br, &podweft.OpError{Op: "check", Object: podweft.Named("link " + b.Name), Err: conflict(br)}
	}
	have, err := a.node.conn.Addresses(br.Index)
	if err != nil {
		return br, err
	}
	var errs []error
	if !br.Up {
		errs = append(errs, missing("link "+b.Name+" up"))
	}
	for _, g := range b.Gateways {
		if !slices.ContainsFunc(have, func(h nl.Address) bool { return h.Prefix == g }) {
			errs = append(errs, missing(addressText(b.Name, nl.Address{Prefix: g})))
		}
	}
	return br, errors.Join(errs...)
}

func (v *veth) checkHost() error {
	var errs []error
	if v.have.Master != v.br.Index {
		errs = append(errs, missing(fmt.Sprintf("link %s master %s", v.host.Name, v.br.Name)))
	}
	if !v.have.Up {
		errs = append(errs, missing("link "+v.host.Name+" up"))
	}
	if v.port.Hairpin && !v.have.Hairpin {
		errs = append(errs, missing("link "+v.host.Name+" hairpin"))
	}
	if v.port.Isolated && !v.have.Isolated {
		errs = append(errs, missing("link "+v.host.Name+" isolated"))
	}
	return errors.Join(errs...)
}

func (v *veth) checkPod(ctx context.Context, pod *pod, peer nl.Link) error {
	v.peer.Index = peer.Index
	want := v.setup()
	have, err := pod.conn.Addresses(peer.Index)
	if err != nil {
		return err
	}
	routes := map[netip.Prefix][]nl.Route{}
	err = pod.conn.Routes(ctx, func() { clear(routes) }, func(r nl.Route) {
		if r.Table == nl.TableMain {
			routes[r.Prefix] = append(routes[r.Prefix], r)
		}
	})
	if err != nil {
		return err
	}
	var errs []error
	if !peer.Up {
		errs = append(errs, missing("link "+peer.Name+" up"))
	}
	for _, a := range want.addresses {
		if !slices.ContainsFunc(have, func(h nl.Address) bool { return h.Prefix == a.Prefix }) {
			errs = append(errs, missing(addressText(peer.Name, a)))
		}
	}
	for _, w := range want.routes {
		there := func(h nl.Route) bool { return h.Gateway == w.Gateway && h.Link == w.Link }
		if !slices.ContainsFunc(routes[w.Prefix], there) {
			errs = append(errs, missing(w.Format(peer.Name)))
		}
	}
	return errors.Join(errs...)
}
