// Package memory is a subnet.Store inside one process: for tests, for laboratories where many nodes live in one process, and
// for programs that have but one node and no need to remember.
//
// Nothing is kept when the process ends. A Store whose nodes are processes of one machine is subnet/file.
package memory

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/internal/ledger"
)

// Store is a [subnet.Store] and a [subnet.Reserver]. Give the same one to every node. Leases of claims without a TTL last
// until they are released. It has no goroutine and needs no Close.
type Store struct {
	start time.Time // the zero of the ledger's clock; monotonic

	mu      sync.Mutex
	ledger  ledger.Ledger
	changed chan struct{}    // closed, and replaced, at each change
	latest  *subnet.Snapshot // of ledger.Revision, or nil
	outage  error            // what every call says for now
	broken  error            // the last outage, which broke the watches of an earlier epoch
	epoch   int              // how many outages there were
}

var (
	_ subnet.Store    = (*Store)(nil)
	_ subnet.Reserver = (*Store)(nil)
)

// New makes a Store with this network. A nil network is none: the Store then answers [subnet.ErrNoNetwork] until SetNetwork.
// The network must not be changed afterwards.
func New(network *subnet.Network) *Store {
	return &Store{
		start:   time.Now(),
		ledger:  ledger.Ledger{Revision: 1, Network: network},
		changed: make(chan struct{}),
	}
}

// SetNetwork changes the network. Leases that do not fit it any more stay until they are released or claimed anew.
func (s *Store) SetNetwork(network *subnet.Network) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.SetNetwork(network)
	s.announce()
}

// Outage makes the Store fail as one behind a network can: every call returns err and every running Watch ends with it,
// until Outage(nil). The leases stay, and expire, meanwhile.
func (s *Store) Outage(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outage = err; err != nil {
		s.broken = err
		s.epoch++
	}
	s.announce()
}

// Acquire implements [subnet.Store].
func (s *Store) Acquire(ctx context.Context, c subnet.Claim) (l *subnet.Lease, err error) {
	err = s.change(ctx, func(now ledger.Now) error {
		l, err = s.ledger.Acquire(c, now)
		return err
	})
	return l, err
}

// Update implements [subnet.Store].
func (s *Store) Update(ctx context.Context, lease *subnet.Lease) (l *subnet.Lease, err error) {
	err = s.change(ctx, func(now ledger.Now) error {
		l, err = s.ledger.Update(lease, now)
		return err
	})
	return l, err
}

// Renew implements [subnet.Store].
func (s *Store) Renew(ctx context.Context, lease *subnet.Lease) (l *subnet.Lease, err error) {
	err = s.change(ctx, func(now ledger.Now) error {
		l, err = s.ledger.Renew(lease, now)
		return err
	})
	return l, err
}

// Release implements [subnet.Store].
func (s *Store) Release(ctx context.Context, lease *subnet.Lease) error {
	return s.change(ctx, func(ledger.Now) error {
		s.ledger.Release(lease)
		return nil
	})
}

// Reserve implements [subnet.Reserver].
func (s *Store) Reserve(ctx context.Context, p subnet.Prefixes, node string) error {
	return s.change(ctx, func(ledger.Now) error { return s.ledger.Reserve(p, node) })
}

// Unreserve implements [subnet.Reserver].
func (s *Store) Unreserve(ctx context.Context, p subnet.Prefixes) error {
	return s.change(ctx, func(ledger.Now) error {
		s.ledger.Unreserve(p)
		return nil
	})
}

// Watch implements [subnet.Store].
func (s *Store) Watch(ctx context.Context) iter.Seq2[*subnet.Snapshot, error] {
	return func(yield func(*subnet.Snapshot, error) bool) {
		s.mu.Lock()
		epoch := s.epoch
		s.mu.Unlock()
		var seen *subnet.Snapshot
		for ctx.Err() == nil {
			v := s.look(epoch)
			if v.err != nil {
				yield(nil, v.err)
				return
			}
			if v.snapshot != seen {
				seen = v.snapshot
				if !yield(seen, nil) {
					return
				}
			}
			v.wait(ctx)
		}
	}
}

// view is what a watcher sees at one moment, and what tells it to look again.
type view struct {
	snapshot *subnet.Snapshot
	err      error
	changed  <-chan struct{}
	expiry   <-chan time.Time // nil when nothing will expire
}

func (s *Store) look(epoch int) view {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	v := view{changed: s.changed}
	switch {
	case s.outage != nil:
		v.err = s.outage
	case s.epoch != epoch:
		v.err = s.broken
	case s.ledger.Network == nil:
		v.err = subnet.ErrNoNetwork
	default:
		v.snapshot = s.snapshot()
	}
	if at, ok := s.ledger.NextDeadline(); ok {
		v.expiry = time.After(at - s.now().Ticks)
	}
	return v
}

func (v view) wait(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-v.changed:
	case <-v.expiry:
	}
}

// change runs op on the ledger and tells the watchers.
func (s *Store) change(ctx context.Context, op func(ledger.Now) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outage != nil {
		return s.outage
	}
	s.expire()
	before := s.ledger.Revision
	err := op(s.now())
	if s.ledger.Revision != before {
		s.announce()
	}
	return err
}

func (s *Store) expire() {
	before := s.ledger.Revision
	s.ledger.Expire(s.now())
	if s.ledger.Revision != before {
		s.announce()
	}
}

// announce makes every watcher look again.
func (s *Store) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Store) snapshot() *subnet.Snapshot {
	if s.latest == nil || s.latest.Revision != s.ledger.Revision {
		s.latest = s.ledger.Snapshot()
	}
	return s.latest
}

func (s *Store) now() ledger.Now {
	now := time.Now()
	return ledger.Now{Ticks: now.Sub(s.start), Time: now}
}
