package nftables_test

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// patience is how long a busy machine may take for what is certain to come.
const patience = world.Patience

func newDriver(t testing.TB, cfg nftables.Config) *nftables.Driver {
	t.Helper()
	d, err := nftables.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func apply(t testing.TB, d *nftables.Driver, spec nftables.Spec) podweft.Plan {
	t.Helper()
	plan, err := d.Apply(t.Context(), spec)
	require.NoError(t, err)
	return plan
}

// inSync requires that there is nothing to do for spec, by all that is in the kernel.
func inSync(t testing.TB, d *nftables.Driver, spec nftables.Spec) {
	t.Helper()
	plan, err := d.Plan(t.Context(), spec)
	require.NoError(t, err)
	require.Empty(t, plan.String())
}

// running keeps a driver's table by a loop until the test ends.
func running(t testing.TB, d *nftables.Driver) *podweft.Loop[nftables.Spec] {
	t.Helper()
	loop := podweft.NewLoop(d, podweft.LoopConfig{Coalesce: -1}) // no rest between passes
	run(t, loop)
	set(t, loop, nftables.Spec{})
	require.Eventually(t, func() bool { return loop.Status().Listening }, patience, time.Millisecond)
	return loop
}

// run runs a loop until the test ends.
func run(t testing.TB, loop *podweft.Loop[nftables.Spec]) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
}

func set(t testing.TB, loop *podweft.Loop[nftables.Spec], spec nftables.Spec) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, loop.Wait(ctx, loop.Set(spec)))
}

// keeper keeps a node's table by a loop for a world.
type keeper struct {
	driver *nftables.Driver
	loop   *podweft.Loop[nftables.Spec]
	spec   nftables.Spec
	before func(turn int) // if not nil, it is called with the number of each Enforce
	turn   int
	unread bool // what is there is not compared each time
}

func newKeeper(t testing.TB, n *testnet.Node, cfg nftables.Config) *keeper {
	t.Helper()
	cfg.NetNS = n.NetNS()
	d := newDriver(t, cfg)
	return &keeper{driver: d, loop: running(t, d)}
}

func keep(cfg nftables.Config) func(testing.TB, *testnet.Node) world.Keeper {
	return func(t testing.TB, n *testnet.Node) world.Keeper { return newKeeper(t, n, cfg) }
}

func keeperOf(w *world.World, node string) *keeper { return w.Nodes[node].Keeper.(*keeper) }

func (k *keeper) Enforce(t testing.TB, rules *policy.Ruleset) {
	t.Helper()
	if k.before != nil {
		k.before(k.turn)
	}
	k.turn++
	k.spec.Rules = rules
	set(t, k.loop, k.spec)
	if !k.unread {
		inSync(t, k.driver, k.spec)
	}
}

func (k *keeper) Denied(t testing.TB) uint64 {
	t.Helper()
	stats, err := k.driver.Stats(t.Context(), k.spec)
	require.NoError(t, err)
	return stats.Denied().Packets
}

// compiled is what the model says for the pods of node, or of all nodes.
func compiled(t testing.TB, m policy.Model, node string) *policy.Ruleset {
	t.Helper()
	rules, err := policy.NewCompiler(node).Update(m)
	require.NoError(t, err)
	return rules
}

// someone is another program that changes tables.
func someone(t testing.TB, n *testnet.Node) *nft.Conn {
	t.Helper()
	c, err := nft.Open(n.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func commit(t testing.TB, c *nft.Conn, fill func(b *nft.Batch)) {
	t.Helper()
	var b nft.Batch
	fill(&b)
	require.NoError(t, c.Commit(t.Context(), &b))
}

// ruleset is what the nft program, where there is one, lists.
func ruleset(t testing.TB, n *testnet.Node) (string, bool) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		return "", false
	}
	out, err := n.Command(t.Context(), "nft", "-n", "list", "ruleset").CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out), true
}
