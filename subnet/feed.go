package subnet

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"time"
)

// FeedConfig is how a [Feed] deals with its Store. Only Store is required.
type FeedConfig struct {
	Store      Store
	Logger     *slog.Logger  // nil: silent
	MinBackoff time.Duration // before the first new try after an error; zero: 50ms
	MaxBackoff time.Duration // between tries while the Store is down; zero: 1s
}

// Feed delivers a Store's snapshots for as long as its user wants them. A watch that broke is begun again, after a wait that
// grows while the Store stays away. What was delivered last stays valid meanwhile, so the data plane outlives any outage. It
// is safe for concurrent use.
type Feed struct {
	cfg    FeedConfig
	health *health

	mu     sync.Mutex
	status FeedStatus
}

// FeedStatus is how a [Feed] is doing.
type FeedStatus struct {
	Revision uint64    // of the last snapshot; zero before the first
	Received time.Time // when it came
	Restarts int       // how often a watch was begun again
	Err      error     // why there is no watch just now; nil while there is one
}

// NewFeed makes a Feed. It does nothing before Snapshots.
func NewFeed(cfg FeedConfig) *Feed {
	cfg.MinBackoff = orDefault(cfg.MinBackoff, 50*time.Millisecond)
	cfg.MaxBackoff = orDefault(cfg.MaxBackoff, time.Second)
	return &Feed{cfg: cfg, health: newHealth(cfg.Logger, "subnet watch")}
}

// Snapshots yields the present snapshot and then one after each change, until ctx ends. A snapshot that says the same as the one
// before it is left out, as the first after a restart of the watch often is.
func (f *Feed) Snapshots(ctx context.Context) iter.Seq[*Snapshot] {
	return func(yield func(*Snapshot) bool) {
		backoff := newBackoff(f.cfg.MinBackoff, f.cfg.MaxBackoff)
		var last *Snapshot
		for {
			begun := time.Now()
			for snapshot, err := range f.cfg.Store.Watch(ctx) {
				if ctx.Err() != nil {
					return
				}
				f.health.report(err)
				if err != nil {
					break
				}
				f.received(snapshot)
				if last != nil && last.same(snapshot) {
					continue
				}
				last = snapshot
				if !yield(snapshot) {
					return
				}
			}
			if time.Since(begun) > f.cfg.MaxBackoff {
				// It had been well. A watch that breaks as soon as it is begun would otherwise list all leases many times a second.
				backoff.reset()
			}
			if !backoff.wait(ctx) {
				return
			}
			f.restarted()
		}
	}
}

// Status returns how the feed is doing.
func (f *Feed) Status() FeedStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	status := f.status
	status.Err = f.health.last()
	return status
}

func (f *Feed) received(s *Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Revision, f.status.Received = s.Revision, time.Now()
}

func (f *Feed) restarted() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status.Restarts++
}
