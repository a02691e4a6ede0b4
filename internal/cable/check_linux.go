package cable

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// ErrMissing: something that was made is not there any more.
var ErrMissing = errors.New("is missing")

// Missing says that an object is missing.
func Missing(what string) error {
	return &podweft.OpError{Op: "check", Object: podweft.Named(what), Err: ErrMissing}
}

// Gone says what the error of a look-up means in a check.
func Gone(err error, what string) error {
	if errors.Is(err, nl.ErrNoLink) {
		return Missing(what)
	}
	return err
}

// Look reads the pair as it is. It is missing, or in conflict with what is there, or as wanted.
func (p *Pair) Look(ctx context.Context, node *Node, pod *Pod) (err error) {
	if p.Have, err = node.Conn.Port(ctx, p.Host.Name); err != nil {
		return Gone(err, "link "+p.Host.Name)
	}
	peer, err := pod.Conn.Link(p.Peer.Name)
	if err != nil {
		return Gone(err, fmt.Sprintf("link %s of the pod", p.Peer.Name))
	}
	if err := p.Accept(p.Have.Link, peer); err != nil {
		return err
	}
	p.Peer.Index = peer.Index
	return nil
}

// Check reports what the pod lacks, joined. What others have added since, and the MAC and MTU of its end, are theirs.
func (s Setup) Check(ctx context.Context, pod *Pod) error {
	peer, err := pod.Conn.LinkAt(s.peer.Index)
	if err != nil {
		return err
	}
	have, err := pod.Conn.Addresses(peer.Index)
	if err != nil {
		return err
	}
	routes := map[netip.Prefix][]nl.Route{}
	err = pod.Conn.Hops(ctx, func() { clear(routes) }, func(r nl.Route) {
		// In any table, since the plugins sbr and vrf move them, behind one that attached the pod. And as one nexthop of several: the
		// bridge plugin appends the IPv6 routes of another interface. What a plugin has made is there, which is all that CHECK asks.
		routes[r.Prefix] = append(routes[r.Prefix], r)
	})
	if err != nil {
		return err
	}
	errs := []error{pod.CheckLimit(ctx, peer, s.limit)}
	if !peer.Up {
		errs = append(errs, Missing("link "+peer.Name+" up"))
	}
	for _, a := range s.Addresses {
		if !slices.ContainsFunc(have, func(h nl.Address) bool { return h.Prefix == a.Prefix }) {
			errs = append(errs, Missing(AddressText(peer.Name, a)))
		}
	}
	for _, w := range s.Routes {
		there := func(h nl.Route) bool { return h.Gateway == w.Gateway && h.Link == w.Link }
		if !slices.ContainsFunc(routes[w.Prefix], there) {
			errs = append(errs, Missing(w.Format(peer.Name)))
		}
	}
	return errors.Join(errs...)
}
