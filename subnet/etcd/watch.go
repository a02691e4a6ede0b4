package etcd

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podweft/podweft/internal/etcdconn"
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
	health := s.conn.Health(ctx) // from before the listing, or a connection that is lost before the watch has begun goes unnoticed
	defer health.Stop()
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
	watcher := clientv3.NewWatcher(s.conn.Client)
	defer func() { _ = watcher.Close() }()
	events := watcher.Watch(clientv3.WithRequireLeader(ctx), st.config(), clientv3.WithRange(st.listed()), clientv3.WithRev(st.revision+1))
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-health.Tick():
			health.Look()
			continue
		case <-health.Reconnected():
			if err := s.continues(ctx, st); errors.Is(err, etcdconn.ErrRestored) {
				return fmt.Errorf("watch leases: %w", err)
			} else if err != nil {
				health.AskAgain()
			}
			continue
		case r, ok := <-events:
			if err := etcdconn.WatchError(r, ok); err != nil {
				return fmt.Errorf("watch leases: %w", err)
			}
			next := st.clone()
			changed := next.apply(r.Events)
			st = next
		drain: // what has come meanwhile shares a snapshot
			for {
				select {
				case r, ok := <-events:
					if err := etcdconn.WatchError(r, ok); err != nil {
						return fmt.Errorf("watch leases: %w", err)
					}
					changed = st.apply(r.Events) || changed
				default:
					break drain
				}
			}
			st.settle()
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

// continues returns etcdconn.ErrRestored if etcd's history is not the one that st is from, and another error where etcd cannot be
// asked.
func (s *Store) continues(ctx context.Context, st *state) error {
	now, err := s.conn.Get(ctx, st.config(), clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	if now.Header.ClusterId == st.cluster && now.Header.Revision >= st.revision && st.knows(now.Kvs) {
		return nil
	}
	s.latest.Store(nil) // no claim can rest on it
	return etcdconn.ErrRestored
}

// knows reports whether the configuration is what st has, or newer.
func (st *state) knows(config []*mvccpb.KeyValue) bool {
	return len(config) == 0 || config[0].ModRevision == st.netMod || config[0].ModRevision > st.revision
}
