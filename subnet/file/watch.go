package file

import (
	"context"
	"iter"
	"time"

	"github.com/podweft/podweft/internal/dirwatch"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/internal/ledger"
)

// pollInterval is how often a watch looks without having been told to. Notifications can be had no more when the user's
// inotify instances are used up, and do not come for files that are mounted over.
const pollInterval = 2 * time.Second

// Watch implements [subnet.Store]. Changes are noticed by inotify, and by looking every two seconds in any case.
func (s *Store) Watch(ctx context.Context) iter.Seq2[*subnet.Snapshot, error] {
	return func(yield func(*subnet.Snapshot, error) bool) {
		changed, stop, _ := dirwatch.Watch(s.dir, func(name string) bool { return name == draftFile }) // without it, by looking
		defer stop()
		var seen *subnet.Snapshot
		for ctx.Err() == nil {
			snapshot, expiry, err := s.look(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if snapshot != seen {
				seen = snapshot
				if !yield(snapshot, nil) {
					return
				}
			}
			select {
			case <-ctx.Done():
			case <-changed:
			case <-time.After(min(expiry, pollInterval)):
			}
		}
	}
}

// look returns the present snapshot and how long it is until the next lease expires. If something happened that no Store has
// written down yet, it does: every watcher then sees the same revisions.
func (s *Store) look(ctx context.Context) (*subnet.Snapshot, time.Duration, error) {
	st, err := s.read()
	if err == nil && st.behind(s.readNetwork(), now()) {
		err = s.change(ctx, func(*ledger.Ledger, ledger.Now) error { return nil })
	}
	if err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest.Network == nil {
		return nil, 0, s.noNetwork()
	}
	expiry := pollInterval
	if at, ok := s.latest.NextDeadline(); ok {
		expiry = max(0, at-now().Ticks)
	}
	return s.snapshot, expiry, nil
}
