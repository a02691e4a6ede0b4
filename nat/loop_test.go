package nat_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

// patience is for a machine that has much else to do.
const patience = 30 * time.Second

// running keeps spec on the node until the test ends, and waits until it is there.
func running(t *testing.T, n *testnet.Node, spec nat.Spec) *podweft.Loop[nat.Spec] {
	t.Helper()
	loop := podweft.NewLoop(newDriver(t, nat.Config{NetNS: n.NetNS()}), podweft.LoopConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	require.NoError(t, loop.Wait(ctx, loop.Set(spec)))
	require.Eventually(t, func() bool { return loop.Status().Listening }, patience, time.Millisecond)
	return loop
}

func TestLoopRepairs(t *testing.T) {
	tests := []struct {
		name string
		deed func(b *nft.Batch)
	}{
		{"table deleted", func(b *nft.Batch) { b.DeleteTable(ours) }},
		{"rules flushed", func(b *nft.Batch) { b.FlushChain(postrouting) }},
		{"element deleted", func(b *nft.Batch) { b.DeleteElements(pods4, nft.Prefix(prefixes("10.244.1.0/24")[0])) }},
		{"rules replaced", func(b *nft.Batch) { b.FlushChain(postrouting); b.AddRule(leaveToKubeProxy()) }},
		{"table asleep", func(b *nft.Batch) { b.AddTable(ours, nft.Dormant) }},
	}
	c := newCluster(t)
	node, pod, outside := c.fabric.Nodes[0], c.pods[0], c.fabric.Outside
	loop := running(t, node, c.spec(0))
	watcher := newDriver(t, nat.Config{NetNS: node.NetNS()})
	them := someone(t, node)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for range 3 {
				drift := loop.Status().Drift
				change(t, them, test.deed)
				t.Logf("back after %s", repaired(t, watcher, c.spec(0)))
				for _, to := range outside.Addrs() {
					_, err := pod.Ping(t.Context(), to)
					require.NoError(t, err)
				}
				require.Eventually(t, func() bool { return loop.Status().Drift > drift }, patience, time.Millisecond)
			}
		})
	}
}

// repaired waits until nothing is left to be done for spec, and returns how long that took.
func repaired(t *testing.T, watcher *nat.Driver, spec nat.Spec) time.Duration {
	t.Helper()
	broken := time.Now()
	require.Eventually(t, func() bool {
		plan, err := watcher.Plan(t.Context(), spec)
		return err == nil && len(plan) == 0
	}, patience, time.Millisecond)
	return time.Since(broken)
}

func TestForeignFlushRuleset(t *testing.T) {
	n := testnet.NewNode(t, "node")
	if _, ok := ruleset(t, n); !ok {
		t.Skip("the nft program is not installed; TestLoopRepairs deletes the table by netlink")
	}
	running(t, n, nodeSpec())
	out, err := n.Command(t.Context(), "nft", "flush", "ruleset").CombinedOutput()
	require.NoError(t, err, string(out))
	watcher := newDriver(t, nat.Config{NetNS: n.NetNS()})
	repaired(t, watcher, nodeSpec())
}

// TestConflictEnds lets a process own the table until it deletes it: the hint then runs a pass at once, however long the
// loop was going to wait. (A table that goes because its owner dies is announced to nobody: the loop comes for it later.)
func TestConflictEnds(t *testing.T) {
	n := testnet.NewNode(t, "node")
	owner := someone(t, n)
	change(t, owner, func(b *nft.Batch) { b.AddTable(ours, nft.Owned) })

	loop := podweft.NewLoop(newDriver(t, nat.Config{NetNS: n.NetNS()}), podweft.LoopConfig{RetryMin: time.Hour, RetryMax: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	require.ErrorIs(t, loop.Wait(ctx, loop.Set(nodeSpec())), podweft.ErrConflict)
	change(t, owner, func(b *nft.Batch) { b.DeleteTable(ours) })
	require.Eventually(t, func() bool { return len(loop.Status().Failing) == 0 }, patience, time.Millisecond)
	assert.Empty(t, apply(t, newDriver(t, nat.Config{NetNS: n.NetNS()}), nodeSpec()))
	cancel()
	require.NoError(t, <-done)
}

// TestOthersChurnCostsNoPass is a busy kube-proxy beside us.
func TestOthersChurnCostsNoPass(t *testing.T) {
	n := testnet.NewNode(t, "node")
	loop := running(t, n, nodeSpec())
	them := someone(t, n)
	theirs := nft.Set{Table: nft.Table{Family: nft.IPv4, Name: "kube-proxy"}, Name: "ips", Key: nft.IPv4Addr}
	change(t, them, func(b *nft.Batch) { b.AddTable(theirs.Table, 0); b.AddSet(theirs) })
	before := loop.Status().Passes
	for i := range 2_000 {
		change(t, them, func(b *nft.Batch) {
			b.AddElements(theirs, nft.Element{Key: string([]byte{10, 0, byte(i >> 8), byte(i)})})
		})
	}
	change(t, them, func(b *nft.Batch) { b.DeleteTable(ours) }) // to know that all before it was seen
	require.Eventually(t, func() bool { return loop.Status().Passes > before }, patience, time.Millisecond)
	assert.LessOrEqual(t, loop.Status().Passes, before+1, "one pass, for our own table")
}

// TestOneSpecAfterAnother changes the spec under the loop: its own writes are no hint to look again.
func TestOneSpecAfterAnother(t *testing.T) {
	const rounds = 10
	n := testnet.NewNode(t, "node")
	loop := running(t, n, nodeSpec())
	before := loop.Status().Passes
	wider := nodeSpec()
	wider.Masquerade = append(wider.Masquerade, prefixes("10.244.9.0/24")...)
	for range rounds {
		require.NoError(t, loop.Wait(t.Context(), loop.Set(wider)))
		require.NoError(t, loop.Wait(t.Context(), loop.Set(nodeSpec())))
	}
	change(t, someone(t, n), func(b *nft.Batch) { b.DeleteTable(ours) }) // to know that all before it was seen
	require.Eventually(t, func() bool { return loop.Status().Drift > 0 }, patience, time.Millisecond)
	assert.Equal(t, before+2*rounds+1, loop.Status().Passes, "one for each spec, one for the table")
}
