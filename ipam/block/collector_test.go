package block_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/memory"
	"github.com/podweft/podweft/roster"
	rostermemory "github.com/podweft/podweft/roster/memory"
)

const (
	grace  = time.Hour
	silent = 30 * time.Second // after which a node counts as dead
)

// cluster is nodes whose agents share their Stores.
type cluster struct {
	*testing.T
	blocks *memory.Store
	roster *rostermemory.Store
	freed  chan block.Share
}

func newCluster(t *testing.T) *cluster {
	return &cluster{T: t, blocks: memory.New(), roster: rostermemory.New(), freed: make(chan block.Share, 100)}
}

// agent is what a node runs: it says that it lives, claims a block of the pool, looks now and then at what it has, and collects
// when it leads.
type agent struct {
	name      string
	claimer   *block.Claimer
	collector *block.Collector
	stop      func()
}

var clusterPool = block.Pool{Prefix: netip.MustParsePrefix("10.0.0.0/24")}

func (c *cluster) start(name string) *agent {
	c.Helper()
	member, err := roster.NewMember(roster.MemberConfig{Store: c.roster, Node: roster.Node{Name: name}, TTL: silent})
	require.NoError(c, err)
	a := &agent{name: name, claimer: claimer(c, c.blocks, name, clusterPool)}
	a.collector, err = block.NewCollector(block.CollectorConfig{
		Store: c.blocks, Dead: roster.Silent(c.roster), Lead: roster.Leads(c.roster, name), Grace: grace,
		Known: roster.Known(c.roster), Forget: c.roster.ForgetDead,
		Freed: func(freed []block.Share) {
			for _, s := range freed {
				c.freed <- s
			}
		},
	})
	require.NoError(c, err)
	ctx, cancel := context.WithCancel(c.Context())
	var wg sync.WaitGroup
	a.stop = func() {
		cancel()
		wg.Wait()
	}
	wg.Go(func() { assert.NoError(c, member.Run(ctx)) })
	synctest.Wait() // it is in the roster
	wg.Go(func() { assert.NoError(c, a.collector.Run(ctx)) })
	wg.Go(func() {
		for ctx.Err() == nil {
			_, err := a.claimer.Shares(ctx)
			assert.True(c, err == nil || ctx.Err() != nil, "%v", err)
			select {
			case <-ctx.Done():
			case <-time.After(grace / 10):
			}
		}
	})
	synctest.Wait()
	return a
}

// leader is who collects, and fails the test unless exactly one does.
func (c *cluster) leader(agents ...*agent) string {
	c.Helper()
	synctest.Wait()
	name := ""
	for _, a := range agents {
		if a.collector.Status().Leads {
			require.Empty(c, name, "two collect")
			name = a.name
		}
	}
	require.NotEmpty(c, name, "nobody collects")
	return name
}

// owners are who has a share.
func (c *cluster) owners() (names []string) {
	synctest.Wait()
	for _, b := range stored(c, c.blocks) {
		for _, s := range b.Shares {
			names = append(names, s.Node)
		}
	}
	return names
}

// known are the nodes of the roster.
func (c *cluster) known() []string {
	c.Helper()
	synctest.Wait()
	names, err := roster.Known(c.roster)(c.Context())
	require.NoError(c, err)
	return names
}

// One agent at a time collects. When it dies another one does, and what the dead one had comes back after proof and grace.
func TestCollectorsTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a, b := c.start("a"), c.start("b")
		defer b.stop()
		lost := claim(t, a.claimer)
		kept := claim(t, b.claimer)
		time.Sleep(10 * grace)
		require.Equal(t, "a", c.leader(a, b))
		require.Empty(t, c.freed, "who lives keeps its own")
		require.Zero(t, b.collector.Status().Passes)

		died := time.Now()
		a.stop()
		time.Sleep(silent + 2*time.Minute)
		require.Equal(t, "b", c.leader(b))
		time.Sleep(grace - 5*time.Minute)
		require.Empty(t, c.freed, "too early")
		freed := <-c.freed
		assert.GreaterOrEqual(t, time.Since(died), grace+silent)
		assert.Less(t, time.Since(died), grace+silent+5*time.Minute)
		assert.Equal(t, lost, freed.Prefix)
		assert.Equal(t, "a", freed.Node)
		assert.Equal(t, []netip.Prefix{kept}, shares(t, b.claimer))
		assert.Equal(t, 1, b.collector.Status().Freed)

		// It comes back to nothing, and is the last in the queue.
		a = c.start("a")
		defer a.stop()
		assert.Empty(t, shares(t, a.claimer))
		time.Sleep(grace)
		assert.Equal(t, "b", c.leader(a, b))
	})
}

// A node that comes back within the grace keeps its own, whenever that is, and has a whole grace the next time.
func TestNodeComesBack(t *testing.T) {
	for _, away := range []time.Duration{time.Second, silent + 5*time.Second, grace / 2, grace - time.Minute} {
		t.Run(away.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				a := c.start("a")
				defer a.stop()
				b := c.start("b")
				mine := claim(t, b.claimer)
				for range 3 {
					b.stop()
					time.Sleep(away)
					b = c.start("b")
					time.Sleep(5 * time.Minute)
				}
				time.Sleep(10 * grace)
				require.Empty(t, c.freed)
				require.Equal(t, []netip.Prefix{mine}, shares(t, b.claimer))
				b.stop()
				freed := <-c.freed
				assert.Equal(t, mine, freed.Prefix)
				assert.Equal(t, []string(nil), c.owners())
			})
		})
	}
}

// Machines come and go for as long as the cluster lives: what each had is another's to have, and nobody counts its dead.
func TestNodesAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		var live []*agent
		for _, name := range []string{"a", "b", "c"} {
			a := c.start(name)
			defer a.stop()
			live = append(live, a)
		}
		kept := claim(t, live[1].claimer)
		for i := range 20 { // of a pool of four blocks
			old := c.start(fmt.Sprint("old", i))
			claim(t, old.claimer)
			claim(t, old.claimer)
			time.Sleep(grace)
			require.Contains(t, c.known(), old.name)
			old.stop()
			time.Sleep(2*grace + 5*time.Minute)
			require.Equal(t, []string{"b"}, c.owners(), old.name)
			require.Equal(t, []string{"a", "b", "c"}, c.known(), old.name)
			require.NoError(t, live[0].collector.Status().Err)
		}
		status := live[0].collector.Status()
		assert.Equal(t, 40, status.Freed)
		assert.Equal(t, 20, status.Forgotten)
		assert.Equal(t, []netip.Prefix{kept}, shares(t, live[1].claimer))
	})
}

// A node that had no block is forgotten by the same proof and the same grace. When it comes back it is known again; whenever it comes
// back before, it has a whole grace the next time.
func TestNodeWithoutBlocksIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		a := c.start("a")
		defer a.stop()
		b := c.start("b")
		for range 3 {
			b.stop()
			time.Sleep(silent + grace - 5*time.Minute)
			b = c.start("b")
			time.Sleep(5 * time.Minute)
		}
		require.Zero(t, a.collector.Status().Forgotten)
		b.stop()
		time.Sleep(silent + grace - 5*time.Minute)
		require.Equal(t, []string{"a", "b"}, c.known(), "too early")
		time.Sleep(10 * time.Minute)
		require.Equal(t, []string{"a"}, c.known())
		b = c.start("b")
		defer b.stop()
		require.Equal(t, []string{"a", "b"}, c.known())
		claim(t, b.claimer)
		time.Sleep(10 * grace)
		assert.Equal(t, []string{"b"}, c.owners())
		assert.Equal(t, []string{"a", "b"}, c.known())
		assert.Equal(t, 1, a.collector.Status().Forgotten)
	})
}

// Who has a share is not forgotten, nor who has come back; what Forget could not do is done on the next pass; and whose turn it was not
// for a while, or who could not ask, cannot tell how long somebody has been dead.
func TestWhoIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		claim(t, claimer(t, s, "owner", clusterPool))
		var gone atomic.Pointer[[]string]
		gone.Store(&[]string{"back", "idle", "owner", "stranger"})
		var away, follows, leaderless, unproven atomic.Bool
		var mu sync.Mutex
		asked := map[string]int{}
		c, err := block.NewCollector(block.CollectorConfig{
			Store: s, Grace: grace,
			Lead: func(context.Context) (bool, error) {
				if leaderless.Load() {
					return false, errors.New("nobody can tell who leads")
				}
				return !follows.Load(), nil
			},
			Dead: func(context.Context, []string) ([]string, error) {
				if unproven.Load() {
					return nil, errors.New("nobody can tell who is dead")
				}
				return *gone.Load(), nil
			},
			Known: func(context.Context) ([]string, error) {
				if away.Load() {
					return nil, errors.New("the roster is away")
				}
				return []string{"back", "idle", "live", "owner"}, nil
			},
			Forget: func(_ context.Context, node string) (bool, error) {
				if node == "owner" {
					assert.Empty(t, stored(t, s), "it has a share")
				}
				mu.Lock()
				defer mu.Unlock()
				asked[node]++
				if asked[node] == 1 {
					return true, errors.New("cannot be written")
				}
				return node != "back", nil
			},
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { assert.NoError(t, c.Run(ctx)) })
		away.Store(true)
		time.Sleep(2 * grace)
		synctest.Wait()
		require.ErrorContains(t, c.Status().Err, "the roster is away")
		require.Len(t, stored(t, s), 1, "without it nothing is known")
		away.Store(false)
		for _, hinders := range []*atomic.Bool{&follows, &away, &leaderless, &unproven} {
			time.Sleep(grace - 2*time.Minute)
			hinders.Store(true)
			time.Sleep(5 * time.Minute)
			hinders.Store(false)
		}
		time.Sleep(grace - 2*time.Minute)
		synctest.Wait()
		require.Empty(t, stored(t, s), "the Store has noted the doubt about who has a share")
		mu.Lock()
		require.Empty(t, asked, "nobody has noted one about the others")
		mu.Unlock()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		assert.Equal(t, map[string]int{"back": 2, "idle": 2, "owner": 2}, asked, "once more after the failure, and nobody else")
		require.NoError(t, c.Status().Err)
		assert.Equal(t, 2, c.Status().Forgotten)
	})
}

// Free takes all that one node has and nothing else, without proof or grace.
func TestFree(t *testing.T) {
	s := memory.New()
	pool6 := block.Pool{Prefix: netip.MustParsePrefix("fd00::/64")}
	a, b := claimer(t, s, "a", clusterPool), claimer(t, s, "b", clusterPool)
	claim(t, a)
	kept := claim(t, b)
	claim(t, a)
	claim(t, claimer(t, s, "a", pool6))
	_, err := block.Free(t.Context(), s, "")
	require.ErrorIs(t, err, podweft.ErrInvalid)
	freed, err := block.Free(t.Context(), s, "a")
	require.NoError(t, err)
	assert.Len(t, freed, 3)
	assert.Empty(t, shares(t, a))
	assert.Equal(t, []netip.Prefix{kept}, shares(t, b))
	freed, err = block.Free(t.Context(), s, "a")
	require.NoError(t, err)
	assert.Empty(t, freed)
}

// Proof is the word of Dead alone: without it, or while it cannot be asked, nothing is freed however long nobody was heard of.
func TestCollectorNeedsProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		claim(t, claimer(t, s, "b", clusterPool))
		var away atomic.Bool
		var gone atomic.Bool
		c, err := block.NewCollector(block.CollectorConfig{Store: s, Grace: grace, Dead: func(_ context.Context, nodes []string) ([]string, error) {
			switch {
			case away.Load():
				return nodes, errors.New("nobody can tell")
			case gone.Load():
				return nodes, nil
			}
			return nil, nil
		}})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		for _, after := range []time.Duration{10 * grace, grace / 2} {
			time.Sleep(after)
			synctest.Wait()
			require.Zero(t, c.Status().Freed)
			require.Len(t, stored(t, s), 1)
			gone.Store(true)
		}
		away.Store(true) // for longer than the grace has left
		time.Sleep(grace)
		synctest.Wait()
		require.ErrorContains(t, c.Status().Err, "nobody can tell")
		require.Len(t, stored(t, s), 1)
		away.Store(false)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.Equal(t, block.CollectorStatus{Leads: true, Passes: c.Status().Passes, Freed: 1}, c.Status())
		require.Empty(t, stored(t, s))
		cancel()
		require.NoError(t, <-ended)
	})
}

// A doubt that looks old, because a clock was wrong when it was noted or was set since, is as good as new: by the wall clock alone
// nothing is freed.
func TestCollectorsClockIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		claim(t, claimer(t, s, "b", clusterPool))
		b := stored(t, s)[0]
		b.Shares[0].Doubted = time.Now().Add(-365 * 24 * time.Hour)
		_, err := s.Write(t.Context(), b)
		require.NoError(t, err)
		c, err := block.NewCollector(block.CollectorConfig{Store: s, Grace: grace, Dead: dead("b")})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		time.Sleep(grace - time.Second)
		synctest.Wait()
		require.Positive(t, c.Status().Passes)
		require.Len(t, stored(t, s), 1, "freed by the wall clock")
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.Empty(t, stored(t, s))
		cancel()
		require.NoError(t, <-ended)
	})
}

// Who cannot tell whether it leads does nothing.
func TestCollectorThatCannotTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		claim(t, claimer(t, s, "b", clusterPool))
		c, err := block.NewCollector(block.CollectorConfig{
			Store: s, Dead: dead("b"), Grace: time.Nanosecond,
			Lead: func(context.Context) (bool, error) { return true, errors.New("the roster is away") },
		})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
		defer cancel()
		require.NoError(t, c.Run(ctx))
		status := c.Status()
		assert.False(t, status.Leads)
		assert.Zero(t, status.Passes)
		require.ErrorContains(t, status.Err, "the roster is away")
		assert.Len(t, stored(t, s), 1)
	})
}

// A pass that failed is tried again at once, so that what Status says of it is over soon after the trouble is, and then ever more rarely.
func TestCollectorTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		var away atomic.Bool
		away.Store(true)
		c, err := block.NewCollector(block.CollectorConfig{
			Store: memory.New(), Grace: grace,
			Dead: func(context.Context, []string) ([]string, error) {
				asked.Add(1)
				if away.Load() {
					return nil, errors.New("the roster is away")
				}
				return nil, nil
			},
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		for _, trouble := range []time.Duration{1500 * time.Millisecond, 20 * time.Second} {
			away.Store(true)
			if c.Status().Passes > 0 {
				time.Sleep(time.Minute)
			}
			time.Sleep(trouble)
			synctest.Wait()
			require.Error(t, c.Status().Err)
			away.Store(false)
			time.Sleep(max(2*time.Second, trouble))
			synctest.Wait()
			require.NoError(t, c.Status().Err, "after a trouble of %s", trouble)
		}
		away.Store(true)
		time.Sleep(grace)
		before := asked.Load()
		time.Sleep(grace)
		synctest.Wait()
		assert.LessOrEqual(t, asked.Load()-before, int32(70), "once a minute")
		cancel()
		require.NoError(t, <-ended)
	})
}

func TestCollectorConfigIsChecked(t *testing.T) {
	_, err := block.NewCollector(block.CollectorConfig{Grace: -1, Every: -1, Forget: rostermemory.New().ForgetDead})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	for _, field := range []string{"Store", "Dead", "Grace", "Every", "Forget"} {
		assert.ErrorContains(t, err, field)
	}
}
