package iptables_test

import (
	"context"
	"flag"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/iptables"
)

var updates = flag.Int("updates", 100, "updates under traffic, of each variant")

// cells are connections in the model, written as scenarios write them.
func cells(t testing.TB, m policy.Model, allow, deny string) []scenario.Cell {
	t.Helper()
	list, err := scenario.Step{Allow: allow, Deny: deny}.Cells(m)
	require.NoError(t, err)
	return list
}

func keeperOf(w *world.World, node string) *keeper { return w.Nodes[node].Keeper.(*keeper) }

// TestClosed: a pod that the compiler has not heard of is closed to all but its node, and opens with its rules.
func TestClosed(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		w := world.New(t, keep(t, cfg), "node-1", "node-2")
		m := village()
		unknown := m
		unknown.Pods = m.Pods[2:]
		n := keeperOf(w, "node-1")
		n.spec.Closed = []netip.Prefix{netip.MustParsePrefix("10.244.1.10/31"), netip.MustParsePrefix("fd00::a/127")}

		w.Enforce(unknown)
		list := cells(t, m, "node-1 > web+client", "client > web, web > client, other > web, web > other, node-2 > client")
		w.Settle(m, list)
		w.Try(list)
		stats, err := n.driver.Stats(t.Context(), n.spec)
		require.NoError(t, err)
		assert.GreaterOrEqual(t, stats.Closed.Packets, uint64(10))

		w.Enforce(m)
		w.Try(cells(t, m, "node-1 > web+client, client > web, web > client+other, node-2 > client", "other > web"))
	})
}

// TestAudit lets through what it counts.
func TestAudit(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		cfg.LogGroup = 7
		w := world.New(t, keep(t, cfg), "node-1", "node-2")
		m := village()
		n := keeperOf(w, "node-1")
		n.spec.Audit = true
		w.Enforce(m)
		assert.Contains(t, saved(t, w.Nodes["node-1"].Node, cfg), `-j NFLOG --nflog-prefix "podweft ingress: isolated by policy default/web" --nflog-group 7`)
		list := cells(t, m, "client > web, other > web", "")
		w.Settle(m, list)
		before := w.Denied()
		w.Send(list)
		assert.GreaterOrEqual(t, w.Denied(), before+2, "other's two")

		n.spec.Audit = false
		w.Enforce(m)
		w.Try(cells(t, m, "client > web", "other > web"))
	})
}

func TestStats(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		w := world.New(t, keep(t, cfg), "node-1", "node-2")
		m := village()
		w.Enforce(m)
		list := cells(t, m, "client > web tcp/80+tcp/8005, web > client", "client > web tcp/81, other > web")
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
		w := world.New(t, keep(t, cfg), "node-1", "node-2")
		m := village()
		w.Enforce(m)
		list := cells(t, m, "client > web", "other > web")
		w.Settle(m, list)
		w.Try(list)
		ctx, cancel := context.WithCancel(t.Context())
		var updating sync.WaitGroup
		defer updating.Wait() // also when a round fails
		defer cancel()
		updating.Go(func() {
			defer cancel()
			disturb(ctx, t, keeperOf(w, "node-1").driver)
		})
		rounds := 0
		for ; ctx.Err() == nil && !t.Failed(); rounds++ { // one round after the other: a socket that overflows loses packets too
			round(t, w, list)
		}
		t.Logf("%d packets of each kind", rounds*len(list)/2)
	})
}

// disturb changes policies and pods of the village in all ways that leave two connections alone: one allowed, one denied.
func disturb(ctx context.Context, t *testing.T, d *iptables.Driver) {
	m := village()
	compiler := policy.NewCompiler("node-1")
	if _, err := compiler.Update(m); !assert.NoError(t, err) {
		return
	}
	for i := range *updates {
		var put policy.Model
		second, client, other := m.Policies[0], m.Pods[1], m.Pods[2]
		second.Name = "second"
		switch i % 7 {
		case 0: // the rule is in another policy too
			put.Policies = append(put.Policies, second)
		case 1: // the other policy has other ports
			second.Ingress = []policy.Rule{{Ports: []policy.Port{{Number: 443}}}}
			put.Policies = append(put.Policies, second)
		case 2: // web's class is another's
			second.Pods = app("nobody")
			put.Policies = append(put.Policies, second)
		case 3: // somebody else comes into the set of clients
			client.Name, client.Addresses = "more", []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 2, byte(i)})}
			put.Pods = append(put.Pods, client)
		case 4: // the policy itself is written anew
			first := m.Policies[0]
			first.Ingress = append(first.Ingress[:1:1], policy.Rule{Ports: []policy.Port{{Number: uint16(1000 + i)}}})
			put.Policies = append(put.Policies, first)
		case 5: // another comes and is isolated as web is, while one leaves the clients
			web := m.Pods[0]
			web.Name, web.Addresses = "web-2", []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 3, byte(i)})}
			client.Name, client.Addresses, client.Labels = "more", []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 2, byte(i)})}, nil
			put.Pods = append(put.Pods, web, client)
		case 6: // the denied one has other labels, which nobody asks for
			other.Labels = map[string]string{"app": "other", "round": "odd"}
			put.Pods = append(put.Pods, other)
		}
		rules, err := compiler.Update(put)
		if !assert.NoError(t, err) {
			return
		}
		if _, err = d.Apply(ctx, iptables.Spec{Rules: rules}); ctx.Err() != nil || !assert.NoError(t, err) {
			return
		}
	}
}

// round sends a packet of each connection and waits for those that must arrive.
func round(t *testing.T, w *world.World, list []scenario.Cell) {
	t.Helper()
	waiting := map[uint32]bool{}
	for _, c := range list {
		id := w.Number()
		waiting[id] = c.Want == policy.Allowed
		w.Owner(c.Packet.Src).Transmit(t, world.Datagram(c.Packet, id))
	}
	begin := time.Now()
	for len(waiting) > len(list)/2 {
		w.Owner(list[0].Packet.Dst).Drain(func(b []byte) {
			if id, _, ok := world.Received(b); ok {
				assert.True(t, waiting[id], "a packet that is always denied")
				delete(waiting, id)
			}
		})
		require.Less(t, time.Since(begin), patience, "a packet that is always allowed")
		time.Sleep(100 * time.Microsecond)
	}
}
