package sabotage

import (
	"context"
	"errors"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

// Limit is how soon after a sabotage traffic has to be back. The race detector makes our work many times as slow, above all reading
// 100,000 routes of others, and the control's hardly: the kernel does that.
func Limit() time.Duration {
	if RaceDetector() {
		return 10 * time.Second
	}
	return time.Second
}

// RaceDetector reports whether the test was built with -race.
func RaceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// round is how often a stopwatch ticks on a machine that has time.
const round = 2 * time.Millisecond

// Stopwatch says how long a repair took, in time that the machine had for it. Beside what is broken it keeps a control in the same
// node that nobody breaks: every 2 ms a look at a link and a ping over lo. Only the rounds count that the control got through, 2 ms
// each, so the watch stands still while the machine attends to others, or the kernel's one lock for links is taken; it never runs
// ahead of the clock.
type Stopwatch struct {
	began  time.Time
	rounds atomic.Int64
	stop   func()
}

// Start starts a stopwatch in the node. Stop and RequireBack stop it.
func Start(t testing.TB, n *testnet.Node) *Stopwatch {
	t.Helper()
	conn, err := nl.Dial(n.NetNS())
	must(t, err)
	pinger, err := n.Pinger()
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	s := &Stopwatch{began: time.Now()}
	go func() { ended <- s.run(ctx, conn, pinger) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, conn.Close(), pinger.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

// run does in each round what a repair waits for: the kernel's lock for links, the processor, and that again for a packet.
func (s *Stopwatch) run(ctx context.Context, conn *nl.Conn, pinger *testnet.Pinger) error {
	ticks := time.NewTicker(round) // drops those that come while a round takes longer
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		_, err := conn.Link("lo")
		if err == nil {
			_, err = pinger.Ping(context.WithoutCancel(ctx), netip.AddrFrom4([4]byte{127, 0, 0, 1}))
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) { // an answer may take longer than anybody waits
			return err
		}
		s.rounds.Add(1)
	}
}

// Elapsed is the time that counts so far.
func (s *Stopwatch) Elapsed() time.Duration {
	return min(time.Since(s.began), time.Duration(s.rounds.Load())*round)
}

// Stop stops the watch, and returns the time that counts.
func (s *Stopwatch) Stop() time.Duration {
	counted := s.Elapsed()
	s.stop()
	return counted
}

// RequireBack is called when traffic is back: it stops the watch, and requires that no more than Limit has passed.
func (s *Stopwatch) RequireBack(t testing.TB) {
	t.Helper()
	took, counted := time.Since(s.began), s.Stop()
	t.Logf("traffic was back after %v, of which %v count", took.Round(time.Millisecond), counted)
	if counted > Limit() {
		t.Errorf("traffic was back after %v only", counted)
	}
}
