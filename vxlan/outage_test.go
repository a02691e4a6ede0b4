package vxlan_test

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/testnet"
)

// stream is pings at even intervals, each of which is sent once and counted.
type stream struct {
	pinger *testnet.Pinger
	wait   time.Duration // for each answer
	stop   chan struct{}
	sent   atomic.Int64
	group  sync.WaitGroup // of all that are under way, and of the one that sends them

	mu   sync.Mutex
	lost []loss
}

// loss is a ping that nobody answered.
type loss struct {
	sent time.Time
	err  error
}

// startStream pings until it is asked for its result. A ping counts as lost that has no answer after wait. Whoever expects that none
// is lost waits long: a processor that is emulated, or has too much else to do, may need a second for what takes a hundred
// microseconds, and then pings, which the pinger does not let out all at once, also wait for each other.
func startStream(t testing.TB, from *testnet.Node, to netip.Addr, every, wait time.Duration) *stream {
	t.Helper()
	pinger, err := from.Pinger()
	require.NoError(t, err)
	s := &stream{pinger: pinger, wait: wait, stop: make(chan struct{})}
	s.group.Go(func() { s.run(t.Context(), to, every) })
	return s
}

func (s *stream) run(ctx context.Context, to netip.Addr, every time.Duration) {
	for next := time.Now(); ; next = next.Add(every) { // a machine that is busy delays pings, and leaves none out
		select {
		case <-s.stop:
			return
		case <-time.After(time.Until(next)):
			s.sent.Add(1)
			s.group.Go(func() { s.one(ctx, to, time.Now()) })
		}
	}
}

func (s *stream) one(ctx context.Context, to netip.Addr, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	if _, err := s.pinger.Ping(ctx, to); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lost = append(s.lost, loss{now, err})
	}
}

// result is that of a stream that has been stopped. gap is the time from the first ping that was lost to the last.
func (s *stream) result(t testing.TB) (sent, lost int, gap time.Duration) {
	t.Helper()
	s.group.Wait()
	require.NoError(t, s.pinger.Close())
	sent = int(s.sent.Load())
	if len(s.lost) == 0 {
		return sent, 0, 0
	}
	slices.SortFunc(s.lost, func(a, b loss) int { return a.sent.Compare(b.sent) })
	return sent, len(s.lost), s.lost[len(s.lost)-1].sent.Sub(s.lost[0].sent)
}

// requireShort stops the streams, says how much of them was lost, and requires that it was bearable.
func requireShort(t testing.TB, streams []*stream, what string) {
	t.Helper()
	time.Sleep(100 * time.Millisecond)
	for _, s := range streams {
		close(s.stop)
	}
	for _, s := range streams {
		sent, lost, gap := s.result(t)
		t.Logf("%s: %d of %d pings lost within %v", what, lost, sent, gap.Round(time.Millisecond))
		require.Less(t, gap, patience)
	}
}
