package etcd

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"

	"github.com/podweft/podweft/subnet"
)

// Watch implements [subnet.Store]. A connection that is lost does not end it: the watch goes on where it was when etcd is back.
// What ends it is a compaction of what it missed, or a member that has no leader.
func (s *Store) Watch(ctx context.Context) iter.Seq2[*subnet.Snapshot, error] {
	return func(yield func(*subnet.Snapshot, error) bool) {
		if ctx.Err() != nil {
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		err := s.follow(ctx, func(st *state) bool { return yield(st.snapshot(), nil) })
		if err != nil && !errors.Is(err, errEnough) && ctx.Err() == nil {
			yield(nil, err)
		}
	}
}

// errEnough: the user has had enough.
var errEnough = errors.New("watch was left")

// follow shows the present state and each change. Its error is never nil.
func (s *Store) follow(ctx context.Context, show func(*state) bool) error {
	st, err := s.list(ctx)
	if err != nil {
		return err
	}
	if err := st.configured(); err != nil {
		return err
	}
	if !show(st) {
		return errEnough
	}
	// A watcher of our own: the client's, which all watches share, keeps its stream if the last one leaves before it has begun.
	watcher := clientv3.NewWatcher(s.client)
	defer func() { _ = watcher.Close() }()
	events := watcher.Watch(clientv3.WithRequireLeader(ctx), st.config(), clientv3.WithRange(st.listed()), clientv3.WithRev(st.revision+1))
	health := s.watchHealth()
	defer health.stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-health.tick():
			health.look()
			continue
		case r, ok := <-events:
			if err := watchError(r, ok); err != nil {
				return fmt.Errorf("watch leases: %w", err)
			}
			next := st.clone()
			changed := next.apply(r.Events)
			st = next
		drain: // what has come meanwhile shares a snapshot
			for {
				select {
				case r, ok := <-events:
					if err := watchError(r, ok); err != nil {
						return fmt.Errorf("watch leases: %w", err)
					}
					changed = st.apply(r.Events) || changed
				default:
					break drain
				}
			}
			s.remember(st)
			if !changed {
				continue
			}
		}
		if err := st.configured(); err != nil {
			return err
		}
		if !show(st) {
			return errEnough
		}
	}
}

// watchError is why a watch ended, if it did.
func watchError(r clientv3.WatchResponse, ok bool) error {
	if !ok {
		return errors.New("etcd ended the watch")
	}
	return r.Err()
}

// health says when the connection is lost and found. The client is silent about it, for it tries again by itself.
type health struct {
	*Store
	ticker *time.Ticker
	since  time.Time // when it was lost
	told   bool
}

// lostAfter is how long a connection is away before it counts as lost.
const lostAfter = 2 * time.Second

func (s *Store) watchHealth() *health {
	return &health{Store: s, ticker: time.NewTicker(time.Second)}
}

func (h *health) tick() <-chan time.Time { return h.ticker.C }
func (h *health) stop()                  { h.ticker.Stop() }

func (h *health) look() {
	up := h.client.ActiveConnection().GetState() == connectivity.Ready
	switch {
	case up && h.told:
		h.cfg.Logger.Info("etcd answers again", "away", time.Since(h.since).Round(time.Second))
		h.since, h.told = time.Time{}, false
	case up:
		h.since = time.Time{}
	case h.since.IsZero():
		h.since = time.Now()
	case !h.told && time.Since(h.since) >= lostAfter:
		h.cfg.Logger.Warn("etcd does not answer; what was read last stays in force", "endpoints", h.client.Endpoints())
		h.told = true
	}
}
