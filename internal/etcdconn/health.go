package etcdconn

import (
	"context"
	"errors"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"
)

// Health says when the connection is lost and found. The client is silent about it, for it tries again by itself.
type Health struct {
	*Conn
	ticker      *time.Ticker
	reconnected chan struct{}  // size 1
	follows     sync.WaitGroup // the connection's states
	since       time.Time      // when it was lost
	told        bool
	again       bool
	end         context.CancelFunc
}

// lostAfter is how long a connection is away before it counts as lost.
const lostAfter = 2 * time.Second

// Health works until ctx ends; Stop waits for it.
func (c *Conn) Health(ctx context.Context) *Health {
	h := &Health{Conn: c, ticker: time.NewTicker(time.Second), reconnected: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(ctx)
	h.follows.Go(func() { h.follow(ctx) })
	h.end = cancel
	return h
}

// Tick is when to Look.
func (h *Health) Tick() <-chan time.Time { return h.ticker.C }

// Reconnected tells of each new connection, when etcd may be another than before.
func (h *Health) Reconnected() <-chan struct{} { return h.reconnected }

// AskAgain is for who was told of a new connection and got no answer: etcd listens before it can answer, and there may be no other
// connection to be told of. Reconnected tells once more after a while.
func (h *Health) AskAgain() { h.again = true }

// Stop ends it.
func (h *Health) Stop() {
	h.ticker.Stop()
	h.end()
	h.follows.Wait()
}

func (h *Health) follow(ctx context.Context) {
	conn := h.Client.ActiveConnection()
	for conn.WaitForStateChange(ctx, connectivity.Ready) {
		for now := conn.GetState(); now != connectivity.Ready; now = conn.GetState() {
			if !conn.WaitForStateChange(ctx, now) {
				return
			}
		}
		h.tell()
	}
}

func (h *Health) tell() {
	select {
	case h.reconnected <- struct{}{}:
	default: // told already
	}
}

// Look logs what has become of the connection, once, and sees to what AskAgain asks for.
func (h *Health) Look() {
	if h.again {
		h.again = false
		h.tell()
	}
	up := h.Client.ActiveConnection().GetState() == connectivity.Ready
	switch {
	case up && h.told:
		h.log.Info("etcd answers again", "away", time.Since(h.since).Round(time.Second))
		h.since, h.told = time.Time{}, false
	case up:
		h.since = time.Time{}
	case h.since.IsZero():
		h.since = time.Now()
	case !h.told && time.Since(h.since) >= lostAfter:
		h.log.Warn("etcd does not answer; what was read last stays in force", "endpoints", h.Client.Endpoints())
		h.told = true
	}
}

// WatchError is why a watch ended, if it did; r and ok are what its channel said.
func WatchError(r clientv3.WatchResponse, ok bool) error {
	if !ok {
		return errors.New("etcd ended the watch")
	}
	return r.Err()
}

// ErrRestored: what a watch would bring has nothing to do with what was read. A watch that goes on from a revision which a restored
// etcd has yet to reach says nothing until then, and misses what came before.
var ErrRestored = errors.New("etcd has another history than before: it was restored, or its data were lost")
