package etcd

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"

	"github.com/podweft/podweft/subnet"
)

// Watch implements [subnet.Store]. A connection that is lost does not end it: the watch goes on where it was when etcd is back.
// What ends it is a compaction of what it missed, a member that has no leader, or an etcd whose history is not the one that was
// read: it was restored, or its data were lost.
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
	health := s.watchHealth(ctx)
	defer health.stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-health.tick():
			health.look()
			continue
		case <-health.reconnected:
			if err := s.continues(ctx, st); err != nil {
				return fmt.Errorf("watch leases: %w", err)
			}
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

// errRestored: what a watch would bring has nothing to do with what was read.
var errRestored = errors.New("etcd has another history than before: it was restored, or its data were lost")

// continues returns errRestored if etcd's history is not the one that st is from. A watch that goes on from a revision which a
// restored etcd has yet to reach says nothing until then, and misses what came before. Where it cannot be asked, the next
// connection will show.
func (s *Store) continues(ctx context.Context, st *state) error {
	now, err := s.get(ctx, st.config(), clientv3.WithKeysOnly())
	if err != nil || now.Header.ClusterId == st.cluster && now.Header.Revision >= st.revision && st.knows(now.Kvs) {
		return nil
	}
	s.latest.Store(nil) // no claim can rest on it
	return errRestored
}

// knows reports whether the configuration is what st has, or newer.
func (st *state) knows(config []*mvccpb.KeyValue) bool {
	return len(config) == 0 || config[0].ModRevision == st.netMod || config[0].ModRevision > st.revision
}

// health says when the connection is lost and found. The client is silent about it, for it tries again by itself.
type health struct {
	*Store
	ticker      *time.Ticker
	reconnected chan struct{}  // size 1
	follows     sync.WaitGroup // the connection's states
	since       time.Time      // when it was lost
	told        bool
	end         context.CancelFunc
}

// lostAfter is how long a connection is away before it counts as lost.
const lostAfter = 2 * time.Second

// watchHealth works until ctx ends; stop waits for it.
func (s *Store) watchHealth(ctx context.Context) *health {
	h := &health{Store: s, ticker: time.NewTicker(time.Second), reconnected: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(ctx)
	h.follows.Go(func() { h.follow(ctx) })
	h.end = cancel
	return h
}

func (h *health) tick() <-chan time.Time { return h.ticker.C }

func (h *health) stop() {
	h.ticker.Stop()
	h.end()
	h.follows.Wait()
}

// follow tells of each new connection.
func (h *health) follow(ctx context.Context) {
	conn := h.client.ActiveConnection()
	for conn.WaitForStateChange(ctx, connectivity.Ready) {
		for now := conn.GetState(); now != connectivity.Ready; now = conn.GetState() {
			if !conn.WaitForStateChange(ctx, now) {
				return
			}
		}
		select {
		case h.reconnected <- struct{}{}:
		default:
		}
	}
}

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
