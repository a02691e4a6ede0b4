package sabotage

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podweft/podweft/testnet"
)

// Flow is where pings go.
type Flow struct {
	From *testnet.Node
	To   netip.Addr
	Echo testnet.Echo
}

// Stream is pings at even intervals, each of which is sent once and counted.
type Stream struct {
	flow   Flow
	pinger *testnet.Pinger
	began  time.Time
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

// StartStream pings until Stop. A ping counts as lost that has no answer after wait. Whoever expects that none is lost waits long: a
// processor that is emulated, or has too much else to do, may need a second for what takes a hundred microseconds, and then pings,
// which the pinger does not let out all at once, also wait for each other.
func StartStream(t testing.TB, flow Flow, every, wait time.Duration) *Stream {
	t.Helper()
	pinger, err := flow.From.Pinger()
	must(t, err)
	s := &Stream{flow: flow, pinger: pinger, began: time.Now(), wait: wait, stop: make(chan struct{})}
	s.group.Go(func() { s.run(t.Context(), every) })
	return s
}

func (s *Stream) run(ctx context.Context, every time.Duration) {
	for next := s.began; ; next = next.Add(every) { // a machine that is busy delays pings, and leaves none out
		select {
		case <-s.stop:
			return
		case <-time.After(time.Until(next)):
			s.sent.Add(1)
			s.group.Go(func() { s.one(ctx, time.Now()) })
		}
	}
}

func (s *Stream) one(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	if _, err := s.pinger.Echo(ctx, s.flow.To, s.flow.Echo); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lost = append(s.lost, loss{now, err})
	}
}

// Sent is how many pings have been sent so far.
func (s *Stream) Sent() int { return int(s.sent.Load()) }

// Stop sends no more, and says how many pings were sent and lost. gap is the time from the first that was lost to the last.
func (s *Stream) Stop(t testing.TB) (sent, lost int, gap time.Duration) {
	t.Helper()
	close(s.stop)
	s.group.Wait()
	must(t, s.pinger.Close())
	if len(s.lost) > 0 {
		slices.SortFunc(s.lost, func(a, b loss) int { return a.sent.Compare(b.sent) })
		gap = s.lost[len(s.lost)-1].sent.Sub(s.lost[0].sent)
	}
	t.Logf("%d of %d pings to %s lost within %v", len(s.lost), s.Sent(), s.flow.To, gap.Round(time.Millisecond))
	return s.Sent(), len(s.lost), gap
}
