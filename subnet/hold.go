package subnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/podweft/podweft"
)

// HoldConfig is what a [Hold] is to hold, and where. Store and Claim.Node are required.
type HoldConfig struct {
	Store      Store
	Claim      Claim         // what the node asks for and publishes
	Logger     *slog.Logger  // nil: silent
	MinBackoff time.Duration // before the first new try when the Store fails; zero: 100ms
	MaxBackoff time.Duration // between tries while the Store is down; zero: 5s
}

// Hold keeps one node's lease: it acquires it, renews it long before it expires, publishes what changes about the node, and
// takes the same subnet again if somebody removed the lease. A Store that does not answer is asked again until it does; the
// lease counts as ours meanwhile.
//
// What a Hold never does is to go on with another subnet, for the node's pods have addresses of the one they were started
// in. When the subnet is lost it says [ErrLeaseLost], and the caller decides.
//
// A Hold's life is Acquire, Run and, if the node is to leave the cluster, Release. It is safe for concurrent use.
type Hold struct {
	cfg    HoldConfig
	health *health
	turn   chan struct{} // holds a token while somebody uses the Store: a lease has one user at a time
	wake   chan struct{} // "look again"

	mu    sync.Mutex
	state holdState
}

// holdState is all that a Hold remembers.
type holdState struct {
	lease   *Lease    // as the Store returned it last; nil before Acquire, and when it is lost or released
	renewAt time.Time // zero: never

	want      Claim // what is to be published; its Prefer is the subnet we had last
	version   int   // of want
	published int   // the version that lease has

	last    *Snapshot // that was observed; nil: none
	own     *Lease    // the node's in it
	doubted bool      // a snapshot showed our lease missing or changed
	checked time.Time // when the Store was last asked because of that
}

// recheck is how soon the Store is asked again after a snapshot disagreed with our lease. Two nodes of one name disagree for
// ever, and must not do so at full speed.
const recheck = time.Second

// HoldStatus is how a [Hold] is doing.
type HoldStatus struct {
	Lease   *Lease    // nil when there is none
	RenewAt time.Time // zero: never
	Err     error     // why the Store could not be asked last time; nil when it could
}

// NewHold makes a Hold. It does nothing before Acquire. The error is podweft.ErrInvalid, for a claim that makes no sense.
func NewHold(cfg HoldConfig) (*Hold, error) {
	err := cfg.Claim.Validate()
	if cfg.Store == nil {
		err = errors.Join(&podweft.FieldError{Field: "HoldConfig.Store", Problem: "is missing", Remedy: "give the leases' store"}, err)
	}
	if err != nil {
		return nil, err
	}
	cfg.MinBackoff = orDefault(cfg.MinBackoff, 100*time.Millisecond)
	cfg.MaxBackoff = orDefault(cfg.MaxBackoff, 5*time.Second)
	h := &Hold{cfg: cfg, health: newHealth(cfg.Logger, "lease store"), turn: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	h.state.want = cfg.Claim
	return h, nil
}

// Acquire returns the node's lease, which it claims if need be. It waits for a Store that is down and for a network that is
// not configured yet, as long as ctx lets it. Errors: ErrExhausted, ErrTaken (for an exact claim), podweft.ErrInvalid, ctx's.
func (h *Hold) Acquire(ctx context.Context) (*Lease, error) {
	err := h.insist(ctx, func() error {
		s := h.read()
		return h.claim(ctx, s.want, s.version)
	})
	if err != nil {
		return nil, fmt.Errorf("acquire a subnet for %s: %w", h.cfg.Claim.Node, err)
	}
	return h.Lease(), nil
}

// Run keeps the lease that Acquire returned, until ctx ends or the lease is released; it then returns nil and leaves the
// lease in the Store as it is. When the subnet cannot be kept it returns [ErrLeaseLost], as it does when there is none.
func (h *Hold) Run(ctx context.Context) error {
	if h.Lease() == nil {
		return fmt.Errorf("%w: %s has not acquired one", ErrLeaseLost, h.cfg.Claim.Node)
	}
	backoff := newBackoff(h.cfg.MinBackoff, h.cfg.MaxBackoff)
	for h.idle(ctx) {
		err := h.keep(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrLeaseLost) {
			return err
		}
		h.health.report(err)
		if err == nil {
			backoff.reset()
		} else if !backoff.wait(ctx) {
			return nil
		}
	}
	return nil
}

// Publish makes Run publish another underlay address and other data with the lease, as soon as the Store takes it. The last
// Publish counts. One before Acquire changes the claim. The error is podweft.ErrInvalid, for data that is not JSON.
func (h *Hold) Publish(underlay Addrs, data Data) error {
	if err := validData(data); err != nil {
		return err
	}
	h.change(func(s *holdState) {
		if s.want.Underlay != underlay || !s.want.Data.Equal(data) {
			s.want.Underlay, s.want.Data = underlay, data
			s.version++
		}
	})
	return nil
}

// Observe tells the Hold what a [Feed] has delivered. A snapshot in which the lease is missing or not as it was published
// makes Run ask the Store at once; it is a hint, and one from before the lease was made does no harm. A revision that is less than
// the last snapshot's means that the Store has lost its data or was restored: then too it is asked. Without Observe a lost lease is
// noticed when it is due for renewal.
func (h *Hold) Observe(snapshot *Snapshot) {
	h.change(func(s *holdState) {
		back := s.last != nil && snapshot.Revision < s.last.Revision
		s.look(snapshot, h.cfg.Claim.Node)
		if s.lease != nil && (back || s.disagrees()) {
			s.doubted = true
		}
	})
}

// look remembers the node's lease in the snapshot: one change among thousands is another node's, as a rule.
func (s *holdState) look(snapshot *Snapshot, node string) {
	own := func(l *Lease) bool { return l.Node == node }
	if s.last == nil {
		s.own = snapshot.Lease(node)
	} else if gone, come := snapshot.Changes(s.last); slices.ContainsFunc(gone, own) || slices.ContainsFunc(come, own) {
		s.own = snapshot.Lease(node)
	}
	s.last = snapshot
}

// disagrees reports whether the last snapshot shows our lease missing or changed, and is not from before it.
func (s *holdState) disagrees() bool {
	if s.last == nil || s.last.Revision < s.lease.Revision {
		return false
	}
	return s.own == nil || s.own.Prefixes != s.lease.Prefixes || !s.own.sameAttributes(s.lease)
}

// Release gives the lease back and ends Run. It waits for a Store that is down, as long as ctx lets it. Without a lease it
// does nothing.
func (h *Hold) Release(ctx context.Context) error {
	err := h.insist(ctx, func() error {
		lease := h.read().lease
		if lease == nil {
			return nil
		}
		err := h.cfg.Store.Release(ctx, lease)
		if err == nil {
			h.change(func(s *holdState) { s.drop() })
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("release the subnet of %s: %w", h.cfg.Claim.Node, err)
	}
	return nil
}

// Lease returns the lease, or nil when there is none.
func (h *Hold) Lease() *Lease { return h.read().lease }

// Status returns how the Hold is doing.
func (h *Hold) Status() HoldStatus {
	s := h.read()
	return HoldStatus{Lease: s.lease, RenewAt: s.renewAt, Err: h.health.last()}
}

// insist tries until the Store has answered or ctx ends.
func (h *Hold) insist(ctx context.Context, try func() error) error {
	backoff := newBackoff(h.cfg.MinBackoff, h.cfg.MaxBackoff)
	var last error // that was the Store's own, not the end of ctx
	for {
		err := h.inTurn(ctx, try)
		if isAnswer(err) {
			return err
		}
		if ctx.Err() == nil {
			h.health.report(err)
			last = err
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || !backoff.wait(ctx) {
			if last == nil {
				return ctx.Err()
			}
			return fmt.Errorf("%w: the store said last: %w", ctx.Err(), last)
		}
	}
}

// isAnswer reports whether err is the Store's word, which asking again will not change soon.
func isAnswer(err error) bool {
	return errors.Is(err, ErrExhausted) || errors.Is(err, ErrTaken) || errors.Is(err, podweft.ErrInvalid)
}

// inTurn runs fn while nobody else uses the Store.
func (h *Hold) inTurn(ctx context.Context, fn func() error) error {
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
		return fn()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// idle waits until there is something to do. It reports false when there will not be: ctx has ended, or the lease is no more.
func (h *Hold) idle(ctx context.Context) bool {
	for {
		s := h.read()
		if s.lease == nil || ctx.Err() != nil {
			return false
		}
		due, ok := s.due()
		if ok && !due.After(time.Now()) {
			return true
		}
		var alarm <-chan time.Time
		if ok {
			alarm = time.After(time.Until(due))
		}
		select {
		case <-ctx.Done():
		case <-h.wake:
		case <-alarm:
		}
	}
}

// due returns when there is something to do next, if ever.
func (s *holdState) due() (at time.Time, ok bool) {
	if s.version != s.published {
		return time.Time{}, true
	}
	if s.doubted {
		at, ok = s.checked.Add(recheck), true
	}
	if !s.renewAt.IsZero() && (!ok || s.renewAt.Before(at)) {
		at, ok = s.renewAt, true
	}
	return at, ok
}

// keep does what is due.
func (h *Hold) keep(ctx context.Context) error {
	return h.inTurn(ctx, func() error {
		s := h.read()
		if s.lease == nil {
			return nil
		}
		err := h.refresh(ctx, s)
		if errors.Is(err, ErrLeaseLost) {
			return h.reclaim(ctx, s)
		}
		return err
	})
}

// refresh publishes what has changed, else renews. A Store may refuse to write and still prolong leases, as an etcd without space
// does: so what cannot be published never keeps a lease that is due from being renewed.
func (h *Hold) refresh(ctx context.Context, s holdState) error {
	if s.version == s.published {
		return h.renew(ctx, s)
	}
	var renewed error
	if !s.renewAt.IsZero() && !s.renewAt.After(time.Now()) {
		if renewed = h.renew(ctx, s); errors.Is(renewed, ErrLeaseLost) {
			return renewed // who claims it again publishes as well
		}
		s = h.read()
	}
	return errors.Join(renewed, h.update(ctx, s))
}

func (h *Hold) update(ctx context.Context, s holdState) error {
	wanted := *s.lease
	wanted.Underlay, wanted.Backend, wanted.Data = s.want.Underlay, s.want.Backend, s.want.Data
	lease, err := h.cfg.Store.Update(ctx, &wanted)
	if err == nil {
		h.change(func(now *holdState) { now.lease, now.published = lease, s.version })
	}
	return err
}

func (h *Hold) renew(ctx context.Context, s holdState) error {
	lease, err := h.cfg.Store.Renew(ctx, s.lease)
	if err != nil {
		return err
	}
	h.change(func(now *holdState) {
		now.lease = lease
		if s.doubted { // the answer may be from before a snapshot that came meanwhile
			now.doubted, now.checked = now.last != s.last && now.disagrees(), time.Now()
		}
		now.scheduleRenewal()
		if !lease.sameAttributes(s.lease) {
			// Somebody else wrote to our lease. What the Store made of what we published last would be the same.
			now.version++
		}
	})
	return nil
}

// reclaim takes the same subnet once more.
func (h *Hold) reclaim(ctx context.Context, s holdState) error {
	h.logger().Warn("lease is gone, claiming the same subnet again", "subnet", s.lease.Prefixes)
	again := s.want
	again.Prefer, again.Exact = s.lease.Prefixes, true
	err := h.claim(ctx, again, s.version)
	if errors.Is(err, ErrTaken) || errors.Is(err, ErrExhausted) {
		h.change(func(s *holdState) { s.drop() })
		return fmt.Errorf("%w: %s: %w", ErrLeaseLost, s.lease, err)
	}
	return err
}

// claim asks the Store for a lease that publishes this version. Only whoever has the turn may.
func (h *Hold) claim(ctx context.Context, c Claim, version int) error {
	lease, err := h.cfg.Store.Acquire(ctx, c)
	if err != nil {
		return err
	}
	h.change(func(s *holdState) {
		s.lease, s.published = lease, version
		s.want.Prefer = lease.Prefixes
		s.doubted, s.checked = s.disagrees(), time.Now() // a snapshot may have come before the answer did
		s.scheduleRenewal()
	})
	h.logger().Info("subnet leased", "subnet", lease.Prefixes, "node", lease.Node)
	return nil
}

// scheduleRenewal sets the time of the next renewal after one: early enough for two more to fail before the lease expires, and
// not the same for all nodes of a cluster that started together.
func (s *holdState) scheduleRenewal() {
	s.renewAt = time.Time{}
	if !s.lease.Expires.IsZero() {
		left := max(time.Until(s.lease.Expires), 10*time.Millisecond)
		s.renewAt = time.Now().Add(jitter(left/4, left/3))
	}
}

func (s *holdState) drop() { s.lease, s.renewAt, s.doubted = nil, time.Time{}, false }

func (h *Hold) read() holdState {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state
}

// change changes the state and makes Run look at it.
func (h *Hold) change(fn func(*holdState)) {
	h.mu.Lock()
	fn(&h.state)
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *Hold) logger() *slog.Logger { return h.health.logger }
