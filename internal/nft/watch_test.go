package nft_test

import (
	"context"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/testnet"
)

// watched runs c.Watch until the test ends, and returns how often it has called, which is 1 when it listens.
func watched(t *testing.T, c *nft.Conn, table nft.Table) *atomic.Int32 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var calls atomic.Int32
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx, table, func() { calls.Add(1) }) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	eventually(t, &calls, 1)
	return &calls
}

func eventually(t *testing.T, calls *atomic.Int32, atLeast int32) {
	t.Helper()
	require.Eventually(t, func() bool { return calls.Load() >= atLeast }, 20*time.Second, 100*time.Microsecond)
}

func TestWatch(t *testing.T) {
	makeTable := func(t *testing.T, c *nft.Conn) {
		commit(t, c, func(b *nft.Batch) {
			b.AddTable(ours, 0)
			b.AddSet(peers)
			b.AddChain(post)
			b.AddElements(peers, prefixes("10.0.0.0/8")...)
			b.AddRule(fromPeers(false))
		})
	}
	tests := []struct {
		name   string
		change func(b *nft.Batch)
	}{
		{"table deleted", func(b *nft.Batch) { b.DeleteTable(ours) }},
		{"rule added", func(b *nft.Batch) { b.AddRule(fromPeers(true)) }},
		{"rules flushed", func(b *nft.Batch) { b.FlushChain(post) }},
		{"element added", func(b *nft.Batch) { b.AddElements(peers, prefixes("192.0.2.0/24")...) }},
		{"element deleted", func(b *nft.Batch) { b.DeleteElements(peers, prefixes("10.0.0.0/8")...) }},
		{"set added", func(b *nft.Batch) { b.AddSet(hosts) }},
		{"chain added", func(b *nft.Batch) { b.AddChain(nft.Chain{Table: ours, Name: "other"}) }},
		{"table asleep", func(b *nft.Batch) { b.AddTable(ours, nft.Dormant) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, n := dial(t)
			makeTable(t, c)
			calls := watched(t, c, ours)
			commit(t, open(t, n), test.change)
			eventually(t, calls, 2)
		})
	}
}

func TestWatchIgnoresWhatIsNotOfInterest(t *testing.T) {
	c, n := dial(t)
	calls := watched(t, c, ours)
	other := open(t, n)
	for _, table := range []nft.Table{{Family: nft.INet, Name: "theirs"}, {Family: nft.IPv4, Name: ours.Name}} {
		commit(t, other, func(b *nft.Batch) { b.AddTable(table, 0) })
	}
	commit(t, c, func(b *nft.Batch) { b.AddTable(ours, 0); b.AddSet(hosts) }) // our own
	assert.Equal(t, int32(1), calls.Load())
	commit(t, other, func(b *nft.Batch) { b.DeleteTable(ours) })
	eventually(t, calls, 2)
	assert.Equal(t, int32(2), calls.Load(), "one transaction in one read is one hint")
}

func TestCloseEndsWatch(t *testing.T) {
	n := testnet.NewNode(t, "node")
	c, err := nft.Open(n.NetNS())
	require.NoError(t, err)
	listening := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() { done <- c.Watch(t.Context(), ours, func() { listening <- struct{}{} }) }()
	<-listening
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-done, os.ErrClosed)
	require.ErrorIs(t, c.Watch(t.Context(), ours, func() {}), os.ErrClosed)
	var b nft.Batch
	b.AddTable(ours, 0)
	require.Error(t, c.Commit(t.Context(), &b))
}

// TestWatchOutlivesAnOverrun lets notifications pile up behind a changed that waits.
func TestWatchOutlivesAnOverrun(t *testing.T) {
	c, n := dial(t)
	other := open(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	var calls atomic.Int32
	gate := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- c.Watch(ctx, ours, func() {
			if calls.Add(1) == 2 {
				<-gate
			}
		})
	}()
	eventually(t, &calls, 1)
	commit(t, other, func(b *nft.Batch) { b.AddTable(ours, 0); b.AddSet(hosts) })
	eventually(t, &calls, 2)
	var b nft.Batch
	b.AddElements(hosts, addresses(100_000)...)
	require.NoError(t, other.Load(t.Context(), &b))
	theirs := nft.Table{Family: nft.INet, Name: "theirs"}
	commit(t, other, func(b *nft.Batch) { b.AddTable(theirs, 0) })
	close(gate)
	eventually(t, &calls, 3)
	before := calls.Load()
	commit(t, other, func(b *nft.Batch) { b.DeleteTable(ours) })
	eventually(t, &calls, before+1)
	cancel()
	require.NoError(t, <-done)
}
