package sabotage

import (
	"testing"
	"time"

	"github.com/podweft/podweft/testnet"
)

// RequireRestartUnnoticed kills a node's agent with SIGKILL, twice, and starts it again, while at least 1,000 pings of each flow pass
// through the node at 5 ms: none may be lost. The second time the next agent starts at once, the first time only after a while.
func RequireRestartUnnoticed[S any](t *testing.T, n *testnet.Node, spec S, flows []Flow) {
	t.Helper()
	const pings, every = 1000, 5 * time.Millisecond
	start := func() *Agent[S] {
		a := StartAgent[S](t, n)
		a.Keep(t, spec)
		return a
	}
	agent := start()
	var streams []*Stream
	for _, f := range flows {
		must(t, Reach(t.Context(), f.From, f.To, f.Echo))
		streams = append(streams, StartStream(t, f, every, time.Minute))
	}
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	wait := func(sent int) { // a machine that is busy sends later
		for _, s := range streams {
			for s.Sent() < sent {
				<-ticks.C
			}
		}
	}

	wait(pings / 5)
	agent.Kill(t)
	wait(2 * pings / 5)
	agent = start()
	wait(3 * pings / 5)
	agent.Kill(t)
	agent = start()
	wait(pings)

	for _, s := range streams {
		if _, lost, _ := s.Stop(t); lost > 0 {
			t.Errorf("lost: %d of the pings to %s", lost, s.flow.To)
		}
		for _, l := range s.lost {
			t.Logf("lost: the one sent after %v: %v", l.sent.Sub(s.began).Round(time.Millisecond), l.err)
		}
	}
	agent.Kill(t)
}
