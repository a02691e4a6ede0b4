// Package memory is a roster.Store inside one process: for tests, and for laboratories whose nodes live in one process.
//
// Nothing is kept when the process ends. A Store whose nodes are processes of one machine is roster/file.
package memory

import (
	"context"
	"sync"
	"time"

	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/roster/internal/table"
)

// Store is a [roster.Store]. Give the same one to every node. It has no goroutine and needs no Close.
type Store struct {
	start time.Time // the zero of the table's clock; monotonic

	mu      sync.Mutex
	table   table.Table
	changed chan struct{} // closed, and replaced, at each change
}

var _ roster.Store = (*Store)(nil)

// New makes a Store without nodes.
func New() *Store { return &Store{start: time.Now(), changed: make(chan struct{})} }

// Nodes implements [roster.Store].
func (s *Store) Nodes(ctx context.Context) (nodes roster.Nodes, err error) {
	err = s.change(ctx, func(t table.Table, _ time.Duration) table.Table {
		nodes = t.Nodes()
		return t
	})
	return nodes, err
}

// Join implements [roster.Store].
func (s *Store) Join(ctx context.Context, n roster.Node, ttl time.Duration) error {
	if err := table.Valid(n, ttl); err != nil {
		return err
	}
	return s.change(ctx, func(t table.Table, now time.Duration) table.Table { return t.Join(n, ttl, now) })
}

// Forget implements [roster.Store].
func (s *Store) Forget(ctx context.Context, name string) error {
	return s.change(ctx, func(t table.Table, _ time.Duration) table.Table { return t.Forget(name) })
}

// ForgetDead implements [roster.Store].
func (s *Store) ForgetDead(ctx context.Context, name string) (forgotten bool, err error) {
	err = s.change(ctx, func(t table.Table, _ time.Duration) table.Table {
		t, forgotten = t.ForgetDead(name)
		return t
	})
	return forgotten && err == nil, err
}

func (s *Store) change(ctx context.Context, op func(t table.Table, now time.Duration) table.Table) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Since(s.start)
	before := s.table.Revision
	s.table = op(s.table.Expire(now), now)
	if s.table.Revision != before {
		close(s.changed)
		s.changed = make(chan struct{})
	}
	return nil
}

// Watch implements [roster.Store].
func (s *Store) Watch(ctx context.Context, changed func()) error {
	for first, seen := true, uint64(0); ctx.Err() == nil; first = false {
		next, revision, death := s.look()
		if first || revision != seen {
			seen = revision
			changed()
		}
		select {
		case <-ctx.Done():
		case <-next:
		case <-death:
		}
	}
	return nil
}

// look returns what tells a watcher to look again, and what it sees now.
func (s *Store) look() (next <-chan struct{}, revision uint64, death <-chan time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Since(s.start)
	s.table = s.table.Expire(now)
	if at, ok := s.table.Next(); ok {
		death = time.After(at - now)
	}
	return s.changed, s.table.Revision, death
}
