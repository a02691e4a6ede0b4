package vxlan_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

// TestRestart kills the agent of a node with SIGKILL, twice, and starts it again, while 1,000 pings of each family pass through
// the node at 5 ms: none may be lost. The second time the next agent starts at once, the first time only after a while.
func TestRestart(t *testing.T) {
	t.Parallel()
	const pings, every = 1000, 5 * time.Millisecond
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			o := newOverlay(t, mode.fabric, mode.change)
			o.apply(t)
			_, err := o.drivers[0].Teardown(t.Context()) // the agent makes it all anew
			require.NoError(t, err)
			first := startAgent(t, o.fabric.Nodes[0])
			first.keep(t, o.specs[0])
			o.requireReachable(t)
			var streams []*stream
			for _, zero := range o.zeros(0) {
				require.NoError(t, sabotage.Reach(t.Context(), o.fabric.Nodes[1], zero.Addr(), testnet.Echo{})) // also those that are nobody's target above
				streams = append(streams, startStream(t, o.fabric.Nodes[1], zero.Addr(), every, time.Minute))
			}
			start := time.Now()
			wait := func(share int) { // for so many tenths of the pings, which a machine that is busy sends later
				for _, s := range streams {
					for s.sent.Load() < int64(pings*share/10) {
						time.Sleep(every)
					}
				}
			}

			wait(2)
			first.kill(t)
			wait(4)
			second := startAgent(t, o.fabric.Nodes[0])
			second.keep(t, o.specs[0])
			wait(6)
			second.kill(t)
			third := startAgent(t, o.fabric.Nodes[0])
			third.keep(t, o.specs[0])
			wait(10)

			for _, s := range streams {
				close(s.stop)
			}
			for i, s := range streams {
				sent, lost, _ := s.result(t)
				t.Logf("%d of %d pings to %s lost", lost, sent, o.zeros(0)[i].Addr())
				for _, l := range s.lost {
					t.Logf("lost: the one sent after %v: %v", l.sent.Sub(start).Round(time.Millisecond), l.err)
				}
				assert.Zero(t, lost)
				assert.GreaterOrEqual(t, sent, pings)
			}
			o.requireRepaired(t, 0)
		})
	}
}
