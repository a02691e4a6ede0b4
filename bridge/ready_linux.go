package bridge

import (
	"context"
	"net/netip"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// The kernel does two things from work queues after it has answered, and drops packets until it has. Mostly it has by the
// time one asks; on a busy machine it takes milliseconds.

// patience is how long they may take before something must be wrong.
const patience = 10 * time.Second

// await asks done again and again.
func await(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 5*time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return &podweft.OpError{Op: "await", Object: podweft.Named(what), Err: ctx.Err()}
		case <-time.After(pause):
		}
	}
}

// ready waits until packets flow.
func (v *veth) ready(ctx context.Context, node, pod space) (at Attached, err error) {
	host, err := node.operational(ctx, v.host.Name)
	if err != nil {
		return at, err
	}
	br := v.br
	if !br.Operational { // its first port gives it a carrier
		if br, err = node.operational(ctx, br.Name); err != nil {
			return at, err
		}
	}
	for _, g := range v.bridge.Gateways {
		if err := node.reachable(ctx, g.Addr()); err != nil {
			return at, err
		}
	}
	for _, own := range v.port.Addresses {
		if err := pod.reachable(ctx, own.Addr()); err != nil {
			return at, err
		}
	}
	return Attached{Bridge: asLink(br), Host: asLink(host), Pod: asLink(v.peer)}, nil
}

// operational waits until frames pass the link, and returns it. A carrier comes with the other end of a pair, or with a
// bridge's first port, but the kernel acts on it later (net/core/link_watch.c): until then a bridge does not forward for
// the port, and the link's queue drops what is sent.
func (s space) operational(ctx context.Context, name string) (l nl.Link, err error) {
	err = await(ctx, "carrier of link "+name, func() (bool, error) {
		l, err = s.conn.Link(name)
		return l.Operational, err
	})
	return l, err
}

// reachable waits until the namespace answers for the address: see [nl.Conn.Local].
func (s space) reachable(ctx context.Context, a netip.Addr) error {
	if a.Is4() {
		return nil
	}
	return await(ctx, "address "+a.String(), func() (bool, error) { return s.conn.Local(ctx, a) })
}
