package podweft

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errWatchEnded stands in for the error of a Watch that returned nil although its context had not ended.
var errWatchEnded = errors.New("watch ended by itself")

// watch keeps the driver's Watch running until ctx ends. It calls tried when the first one listens or has failed.
func (l *Loop[S]) watch(ctx context.Context, tried func()) {
	var retry backoff
	for {
		began := time.Now()
		err := l.watchOnce(ctx, tried)
		tried()
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		if now.Sub(began) > l.cfg.RetryMax {
			retry = backoff{} // it was fine for long
		}
		retry.fail(now, now, jitter(), &l.cfg)
		l.cfg.Logger.Warn("watch broke", "err", err, "retry", retry.next.Sub(now))
		if !sleep(ctx, nil, retry.next) {
			return
		}
	}
}

func (l *Loop[S]) watchOnce(ctx context.Context, tried func()) error {
	var listening sync.Once
	err := l.driver.Watch(ctx, func() {
		hint := true
		listening.Do(func() {
			hint = false
			l.listens()
			tried()
		})
		if hint {
			l.look()
		}
	})
	if err == nil && ctx.Err() == nil {
		err = errWatchEnded
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Listening = false
	if ctx.Err() == nil {
		l.status.WatchErr = err
	}
	return err
}

// listens notes that a Watch has begun to listen, and asks for the pass that reads what nobody watched before. Both under
// one lock: no pass can see the one without serving the other.
func (l *Loop[S]) listens() {
	l.mu.Lock()
	again := l.status.WatchErr != nil
	l.status.Listening, l.status.WatchErr = true, nil
	l.watches++
	l.look()
	l.mu.Unlock()
	if again {
		l.cfg.Logger.Info("watching again")
	}
}
