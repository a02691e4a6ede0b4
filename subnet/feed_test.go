package subnet_test

import (
	"bytes"
	"context"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/memory"
)

// tap collects what a feed delivers until stop.
type tap struct {
	feed *subnet.Feed

	mu   sync.Mutex
	got  []*subnet.Snapshot
	stop func()
}

func feed(t testing.TB, cfg subnet.FeedConfig) *tap {
	ctx, cancel := context.WithCancel(t.Context())
	f := &tap{feed: subnet.NewFeed(cfg)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for s := range f.feed.Snapshots(ctx) {
			f.mu.Lock()
			f.got = append(f.got, s)
			f.mu.Unlock()
		}
	}()
	f.stop = func() {
		cancel()
		<-ended
	}
	return f
}

func (f *tap) last() *subnet.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.got) == 0 {
		return nil
	}
	return f.got[len(f.got)-1]
}

func (f *tap) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.got)
}

func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(network(t, small))
		f := feed(t, subnet.FeedConfig{Store: store})
		synctest.Wait()
		require.Equal(t, 1, f.count(), "the present snapshot at once")

		l, err := store.Acquire(t.Context(), subnet.Claim{Node: "a", TTL: time.Minute})
		require.NoError(t, err)
		synctest.Wait()
		assert.Equal(t, l.Prefixes, f.last().Lease("a").Prefixes)
		assert.Equal(t, f.last().Revision, f.feed.Status().Revision)
		_, err = store.Renew(t.Context(), l)
		require.NoError(t, err)
		synctest.Wait()
		assert.Equal(t, 2, f.count(), "a renewal is no change")

		time.Sleep(2 * time.Minute)
		assert.Nil(t, f.last().Lease("a"), "expired")
		assert.Equal(t, 3, f.count())
		f.stop()
	})
}

func TestFeedOutlivesOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		store := memory.New(network(t, small))
		f := feed(t, subnet.FeedConfig{Store: store, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		synctest.Wait()

		store.Outage(errDown)
		time.Sleep(30 * time.Second)
		assert.Equal(t, 1, f.count(), "what was delivered stays valid")
		require.ErrorIs(t, f.feed.Status().Err, errDown)
		assert.InDelta(t, 30/0.75, f.feed.Status().Restarts, 20, "about one a second")

		store.Outage(nil)
		time.Sleep(time.Second)
		require.NoError(t, f.feed.Status().Err)
		assert.Equal(t, 1, f.count(), "the same revision again is no news")

		_, err := store.Acquire(t.Context(), subnet.Claim{Node: "a"})
		require.NoError(t, err)
		synctest.Wait()
		assert.NotNil(t, f.last().Lease("a"))

		// What changes while the watch is away is in the first snapshot after it.
		store.Outage(errDown)
		synctest.Wait()
		store.Outage(nil)
		_, err = store.Acquire(t.Context(), subnet.Claim{Node: "b"})
		require.NoError(t, err)
		time.Sleep(time.Second)
		assert.NotNil(t, f.last().Lease("b"))
		f.stop()
		assert.Equal(t, 2, bytes.Count(log.Bytes(), []byte("level=WARN")), "one line for each outage:\n%s", log.String())
	})
}

func TestFeedWaitsForNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New(nil)
		f := feed(t, subnet.FeedConfig{Store: store})
		time.Sleep(time.Hour)
		assert.Zero(t, f.count())
		require.ErrorIs(t, f.feed.Status().Err, subnet.ErrNoNetwork)
		store.SetNetwork(network(t, small))
		time.Sleep(time.Second)
		assert.Equal(t, 1, f.count())
		f.stop()
	})
}

// brief is a store whose watch breaks as soon as it has shown everything.
type brief struct {
	*memory.Store
	watches atomic.Int32
}

func (s *brief) Watch(ctx context.Context) iter.Seq2[*subnet.Snapshot, error] {
	return func(yield func(*subnet.Snapshot, error) bool) {
		s.watches.Add(1)
		for snapshot, err := range s.Store.Watch(ctx) {
			if yield(snapshot, err) {
				yield(nil, errDown)
			}
			return
		}
	}
}

func TestFeedSparesTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &brief{Store: memory.New(network(t, small))}
		f := feed(t, subnet.FeedConfig{Store: store})
		time.Sleep(time.Minute)
		assert.LessOrEqual(t, store.watches.Load(), int32(130), "twice a second at most, and not twenty times")
		assert.Equal(t, 1, f.count())
		f.stop()
	})
}

func TestFeedBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for s := range subnet.NewFeed(subnet.FeedConfig{Store: memory.New(network(t, small))}).Snapshots(t.Context()) {
			assert.NotNil(t, s.Network)
			break
		}
	})
}
