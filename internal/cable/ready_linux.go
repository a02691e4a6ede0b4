package cable

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// The kernel does two things from work queues after it has answered, and drops packets until it has. Mostly it has by the
// time one asks; on a busy machine it takes milliseconds.

// patience is how long they may take before something must be wrong.
const patience = 10 * time.Second

// doubt is how long they may take before it is asked whether what is waited for is there at all.
const doubt = 20 * time.Millisecond

// await asks done again and again.
func await(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 5*time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if err := rest(ctx, pause); err != nil {
			return &podweft.OpError{Op: "await", Object: podweft.Named(what), Err: err}
		}
	}
}

// rest waits. For less than a millisecond it lets the kernel do so: Go's timers end a millisecond late where nothing else runs,
// which is when epoll_wait(2) looks up again.
func rest(ctx context.Context, pause time.Duration) error {
	if pause < time.Millisecond {
		ts := unix.NsecToTimespec(pause.Nanoseconds())
		_ = unix.Nanosleep(&ts, nil) // a signal ends it earlier, which is as well
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
		return nil
	}
}

// Operational waits until frames pass the link, and returns it. A carrier comes with the other end of a pair, or with a
// bridge's first port, but the kernel acts on it later (net/core/link_watch.c): until then a bridge does not forward for
// the port, and the link's queue drops what is sent.
func (s Space) Operational(ctx context.Context, name string) (l nl.Link, err error) {
	what := "carrier of link " + name
	err = await(ctx, what, func() (bool, error) {
		l, err = s.Conn.Link(name)
		if err == nil && !l.Up { // whoever waits has brought it up, and that takes effect at once
			err = &podweft.OpError{Op: "await", Object: podweft.Named(what), Err: fmt.Errorf("%w: the link was taken down", ErrMissing)}
		}
		return l.Operational, err
	})
	return l, err
}

// Reachable waits until the namespace answers for an address that the link was given: see [nl.Conn.Local]. One that somebody has
// taken away again is ErrMissing, soon: it would not come, and whoever attaches many pods would be kept from all others.
func (s Space) Reachable(ctx context.Context, link int, a netip.Addr) error {
	if a.Is4() {
		return nil
	}
	what := "address " + a.String()
	begun := time.Now()
	return await(ctx, what, func() (bool, error) {
		local, err := s.Conn.Local(ctx, a)
		if local || err != nil || time.Since(begun) < doubt {
			return local, err
		}
		have, err := s.Conn.Addresses(link)
		if err == nil && !slices.ContainsFunc(have, func(h nl.Address) bool { return h.Prefix.Addr() == a }) {
			err = &podweft.OpError{Op: "await", Object: podweft.Named(what), Err: ErrMissing}
		}
		return false, err
	})
}
