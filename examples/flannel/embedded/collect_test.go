package embedded_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/roster"
)

// TestCollectorsTakeOver: two agents collect what dead nodes had, one at a time, elected through etcd. The one that does dies, and
// the other frees its block after proof and grace.
func TestCollectorsTakeOver(t *testing.T) {
	const ttl, grace = 5 * time.Second, 3 * time.Second
	url := startEmbedded(t)
	operator(t, url) // waits for it
	freed := make(chan block.Share, 10)
	collectors := map[string]*block.Collector{}
	start := func(name string) (share block.Share, stop func()) {
		blocks, nodes := blockStore(t, url, "/collect"), rosterStore(t, url, "/collect")
		c, err := block.New(block.Config{Store: blocks, Node: name, Pools: []block.Pool{{Prefix: netip.MustParsePrefix("fd00::/64")}}})
		require.NoError(t, err)
		share, err = c.Claim(t.Context(), netip.Addr{})
		require.NoError(t, err)
		member, err := roster.NewMember(roster.MemberConfig{Store: nodes, Node: roster.Node{Name: name}, TTL: ttl})
		require.NoError(t, err)
		collectors[name], err = block.NewCollector(block.CollectorConfig{
			Store: blocks, Dead: roster.Silent(nodes), Lead: roster.Leads(nodes, name), Grace: grace, Every: grace / 20,
			Freed: func(shares []block.Share) {
				for _, s := range shares {
					freed <- s
				}
			},
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { assert.NoError(t, member.Run(ctx)) })
		wg.Go(func() { assert.NoError(t, collectors[name].Run(ctx)) })
		return share, func() {
			cancel()
			wg.Wait()
		}
	}
	leads := func(name string) {
		t.Helper()
		for deadline := time.Now().Add(patience); !collectors[name].Status().Leads; time.Sleep(5 * time.Millisecond) {
			require.True(t, time.Now().Before(deadline), "%s does not lead: %+v", name, collectors[name].Status())
		}
	}
	lost, die := start("first")
	leads("first")
	kept, stop := start("second")
	defer stop()
	for deadline := time.Now().Add(patience); collectors["first"].Status().Passes < 10; time.Sleep(5 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline))
	}
	require.False(t, collectors["second"].Status().Leads)
	require.Empty(t, freed)
	die()
	died := time.Now()
	leads("second")
	select {
	case s := <-freed:
		assert.Equal(t, lost, block.Share{Prefix: s.Prefix, Node: s.Node})
		assert.GreaterOrEqual(t, time.Since(died), grace)
	case <-time.After(patience):
		t.Fatalf("the dead one's block was not freed: %+v", collectors["second"].Status())
	}
	left, err := blockStore(t, url, "/collect").Blocks(t.Context(), netip.MustParsePrefix("::/0"))
	require.NoError(t, err)
	require.Len(t, left, 1)
	assert.Equal(t, []block.Share{kept}, left[0].Shares)
}
