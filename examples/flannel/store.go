package flannel

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/etcd"
)

// begun is a Store whose first watch has begun before anybody asked for it: the daemon has to know which backend the network
// is configured for before it can make the node, and need not read everything twice.
type begun struct {
	subnet.Store
	first *subnet.Snapshot
	end   context.CancelFunc // of the watch that has begun

	mu   sync.Mutex
	next func() (*subnet.Snapshot, error, bool)
	stop func()
}

// begin waits until the store has told its network, or for as long as wait. It returns the store's last word then.
func begin(ctx context.Context, store subnet.Store, wait time.Duration) (*begun, error) {
	deadline := time.Now().Add(wait)
	for {
		watching, end := context.WithCancel(ctx)
		next, stop := iter.Pull2(store.Watch(watching))
		snap, err, ok := next()
		if ok && err == nil {
			return &begun{Store: store, first: snap, end: end, next: next, stop: stop}, nil
		}
		stop()
		end()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, podweft.ErrInvalid):
			return nil, err
		case !time.Now().Before(deadline):
			return nil, fmt.Errorf("the lease store has not told the network within %s: %w", wait, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(250*time.Millisecond, time.Until(deadline))):
		}
	}
}

// Watch implements [subnet.Store]: the first time it goes on with the watch that has begun.
func (b *begun) Watch(ctx context.Context) iter.Seq2[*subnet.Snapshot, error] {
	b.mu.Lock()
	next, stop := b.next, b.stop
	b.next = nil
	b.mu.Unlock()
	if next == nil {
		return b.Store.Watch(ctx)
	}
	return func(yield func(*subnet.Snapshot, error) bool) {
		defer stop()
		defer context.AfterFunc(ctx, b.end)() // the watch began under another ctx, which may last longer
		defer b.end()
		if !yield(b.first, nil) {
			return
		}
		for {
			snap, err, ok := next()
			if !ok || !yield(snap, err) {
				return
			}
		}
	}
}

// close ends the watch that has begun, if nobody went on with it.
func (b *begun) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next != nil {
		b.end()
		b.stop()
		b.next = nil
	}
}

// store is what the daemon needs of one.
type store interface {
	subnet.Store
	Close() error
}

// open opens the store that the options name.
func (o *Options) open(ctx context.Context, log *slog.Logger) (store, error) {
	if o.kube.use {
		return o.openKube(ctx, log)
	}
	cfg := o.Etcd
	cfg.Logger = log
	return openStore(ctx, cfg, o.StoreWait)
}

// openStore waits for etcd where a user name has to be checked.
func openStore(ctx context.Context, cfg etcd.Config, wait time.Duration) (*etcd.Store, error) {
	deadline := time.Now().Add(wait)
	for {
		store, err := etcd.New(cfg)
		switch {
		case err == nil || errors.Is(err, podweft.ErrInvalid) || ctx.Err() != nil:
			return store, err
		case !time.Now().Before(deadline):
			return nil, fmt.Errorf("etcd has not checked the user %s within %s: %w", cfg.Username, wait, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(250*time.Millisecond, time.Until(deadline))):
		}
	}
}
