package iptables_test

import (
	"context"
	"flag"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/iptables"
)

var updates = flag.Int("updates", 100, "updates under traffic, of each variant")

func keeperOf(w *world.World, node string) *keeper { return w.Nodes[node].Keeper.(*keeper) }

// TestClosed: a pod that the compiler has not heard of is closed to all but its node, and opens with its rules.
func TestClosed(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		w := world.New(t, keep(cfg), "node-1", "node-2")
		m := world.Village()
		unknown := m
		unknown.Pods = m.Pods[2:]
		n := keeperOf(w, "node-1")
		n.spec.Closed = []netip.Prefix{netip.MustParsePrefix("10.244.1.10/31"), netip.MustParsePrefix("fd00::a/127")}

		w.Enforce(unknown)
		list := world.Cells(t, m, "node-1 > web+client", "client > web, web > client, other > web, web > other, node-2 > client")
		w.Settle(m, list)
		w.Try(list)
		stats, err := n.driver.Stats(t.Context(), n.spec)
		require.NoError(t, err)
		assert.GreaterOrEqual(t, stats.Closed.Packets, uint64(10))

		w.Enforce(m)
		w.Try(world.Cells(t, m, "node-1 > web+client, client > web, web > client+other, node-2 > client", "other > web"))
	})
}

// TestAudit lets through what it counts and logs.
func TestAudit(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		cfg.LogGroup = 7
		w := world.New(t, keep(cfg), "node-1", "node-2")
		m := world.Village()
		n, log := keeperOf(w, "node-1"), world.Listen(t, w.Nodes["node-1"].Node, 7)
		n.spec.Audit = true
		w.Enforce(m)
		assert.Contains(t, saved(t, w.Nodes["node-1"].Node, cfg), `-j NFLOG --nflog-prefix "podweft ingress: isolated by policy default/web" --nflog-group 7`)
		list := world.Cells(t, m, "client > web, other > web", "")
		w.Settle(m, list)
		before := w.Denied()
		w.Send(list)
		assert.GreaterOrEqual(t, w.Denied(), before+2, "other's two")
		assert.Equal(t, "podweft ingress: isolated by policy default/web", log.Prefix(t))

		n.spec.Audit = false
		w.Enforce(m)
		w.Try(world.Cells(t, m, "client > web", "other > web"))
	})
}

func TestStats(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		w := world.New(t, keep(cfg), "node-1", "node-2")
		m := world.Village()
		w.Enforce(m)
		list := world.Cells(t, m, "client > web tcp/80+tcp/8005, web > client", "client > web tcp/81, other > web")
		w.Settle(m, list)
		w.Try(list)
		n := keeperOf(w, "node-1")
		stats, err := n.driver.Stats(t.Context(), n.spec)
		require.NoError(t, err)
		web := m.Policies[0].ID()
		require.Len(t, stats.Rules, 1)
		assert.Equal(t, policy.RuleCount{Policy: web, Direction: policy.Ingress, Action: policy.Accept, Count: stats.Rules[0].Count}, stats.Rules[0])
		assert.GreaterOrEqual(t, stats.Rules[0].Packets, uint64(4))
		require.Len(t, stats.Isolated, 1)
		assert.Equal(t, []policy.ID{web}, stats.Isolated[0].Policies)
		assert.GreaterOrEqual(t, stats.Isolated[0].Packets, uint64(4))
		assert.Equal(t, stats.Isolated[0].Packets, stats.Denied().Packets)
	})
}

// TestUpdatesDisturbNobody: while policies and pods change, what is always denied never arrives and what is always allowed always
// does. -updates=1000 is the long run.
func TestUpdatesDisturbNobody(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		world.Updates(t, keep(cfg), *updates, func(ctx context.Context, k world.Keeper, rules *policy.Ruleset) error {
			_, err := k.(*keeper).driver.Apply(ctx, iptables.Spec{Rules: rules})
			return err
		})
	})
}

// TestRestartsDisturbNobody: no more do they arrive, or get lost, while the agent ends and another begins, for which policies and pods
// have changed meanwhile.
func TestRestartsDisturbNobody(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		world.Updates(t, keep(cfg), *updates/5, func(ctx context.Context, k world.Keeper, rules *policy.Ruleset) error {
			return k.(*keeper).restart(ctx, rules)
		})
	})
}
