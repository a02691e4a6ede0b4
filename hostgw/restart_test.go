package hostgw_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/testnet"
)

// TestRestart kills the agent of a node with SIGKILL, twice, and starts it again, while 1,000 pings of each family pass through
// the node at 5 ms: none may be lost. The second time the next agent starts at once, the first time only after a while.
func TestRestart(t *testing.T) {
	const pings, every = 1000, 5 * time.Millisecond
	c := newCluster(t, testnet.FabricConfig{})
	c.apply1(t)
	kill := startAgent(t, c.fabric.Nodes[0], c.specs[0])
	c.requireReachable(t)
	pinger, err := c.fabric.Nodes[1].Pinger()
	require.NoError(t, err)
	defer pinger.Close()

	var lost atomic.Int64
	var group sync.WaitGroup
	start := time.Now()
	for n := range pings {
		time.Sleep(time.Until(start.Add(time.Duration(n) * every)))
		for k, to := range c.pods(0) {
			group.Go(func() {
				// A processor that is emulated, or has too much else to do, lets pings wait for each other.
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if _, err := pinger.Echo(ctx, to, testnet.Echo{From: c.pods(1)[k]}); err != nil {
					lost.Add(1)
				}
			})
		}
		switch n {
		case 200:
			kill()
		case 400, 601:
			kill = startAgent(t, c.fabric.Nodes[0], c.specs[0])
		case 600:
			kill()
		}
	}
	group.Wait()
	t.Logf("%d of %d pings lost", lost.Load(), pings*len(c.pods(0)))
	assert.Zero(t, lost.Load())
	c.requireRepaired(t, 0)
}
