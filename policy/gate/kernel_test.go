package gate_test

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/gate"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// agent is what answers plugins here: the gate alone.
type agent struct {
	*gate.Gate[nftables.Spec]
}

func (a agent) Detach(_ context.Context, keys []local.Key) error {
	a.Gate.Detach(keys...)
	return nil
}
func (agent) Claim(context.Context, local.Claim) ([]local.Address, error) { return nil, nil }
func (agent) Status(context.Context) (local.Status, error)                { return local.Status{}, nil }

// enforced is a gate before a node's kernel.
func enforced(t testing.TB) (*gate.Gate[nftables.Spec], *podweft.Loop[nftables.Spec], *nftables.Driver) {
	t.Helper()
	driver, err := nftables.New(nftables.Config{NetNS: testnet.NewNode(t, "node").NetNS()})
	require.NoError(t, err)
	t.Cleanup(func() { driver.Close() })
	loop := podweft.NewLoop(driver, podweft.LoopConfig{})
	run(t, loop.Run)
	g, err := gate.New(gate.Config[nftables.Spec]{Node: "node-1", Loop: loop, Spec: func(rules *policy.Ruleset) nftables.Spec {
		return nftables.Spec{Rules: rules, Closed: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}
	}})
	require.NoError(t, err)
	return g, loop, driver
}

func run(t testing.TB, do func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
}

func isolated() policy.Model {
	m := pods(pod("web"))
	m.Policies = []policy.Policy{{Namespace: "default", Name: "web", Pods: policy.Selector{MatchLabels: map[string]string{"app": "web"}}}}
	return m
}

// TestPluginWaits goes the whole way: a plugin asks over the socket, and is answered when the kernel has the rules.
func TestPluginWaits(t *testing.T) {
	g, _, driver := enforced(t)
	path := filepath.Join(t.TempDir(), "agent.sock")
	server, err := local.Listen(local.ServerConfig{Path: path, Handler: agent{g}})
	require.NoError(t, err)
	run(t, server.Run)
	plugin := local.NewClient(path)
	rec := record("web", "10.244.1.2/24")

	early, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, plugin.Attach(early, rec), local.ErrTryAgain, "nobody has heard of the pod")
	require.NoError(t, g.Update(isolated()))
	require.NoError(t, plugin.Attach(t.Context(), rec))

	want := isolated()
	want.Pods[0].Addresses = []netip.Addr{rec.Addresses[0].Addr()}
	rules, err := policy.NewCompiler("node-1").Update(want)
	require.NoError(t, err)
	plan, err := driver.Plan(t.Context(), nftables.Spec{Rules: rules, Closed: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}})
	require.NoError(t, err)
	assert.Empty(t, plan.String(), "the rules are in the kernel")
	require.NoError(t, plugin.Detach(t.Context(), rec.Key()))
}

// BenchmarkEvents is pods that come, change and go in a cluster of 10,000, as fast as they can be told: what counts is that it is
// more than 1,000 a second, and how far the kernel is behind when the last has been told.
func BenchmarkEvents(b *testing.B) {
	g, loop, _ := enforced(b)
	var m policy.Model
	for ns := range 100 {
		name := fmt.Sprintf("ns-%d", ns)
		m.Namespaces = append(m.Namespaces, policy.Namespace{Name: name})
		for i := range 100 {
			p := pod(fmt.Sprintf("pod-%d", i), netip.AddrFrom4([4]byte{10, 1, byte(ns), byte(i)}).String())
			p.Namespace, p.Node, p.Labels = name, fmt.Sprintf("node-%d", i), map[string]string{"app": fmt.Sprint(i % 10)}
			m.Pods = append(m.Pods, p)
		}
		for i := range 10 {
			m.Policies = append(m.Policies, policy.Policy{
				Namespace: name, Name: fmt.Sprint(i), Pods: policy.Selector{MatchLabels: map[string]string{"app": fmt.Sprint(i)}},
				Ingress: []policy.Rule{{Peers: []policy.Peer{{Pods: &policy.Selector{MatchLabels: map[string]string{"app": fmt.Sprint((i + 1) % 10)}}}}}},
			})
		}
	}
	require.NoError(b, g.Update(m))
	applied := func() {
		generation := loop.Status().Generation
		require.NoError(b, loop.Wait(context.Background(), generation))
	}
	applied()
	begin, passes := time.Now(), loop.Status().Passes
	for i := 0; b.Loop(); i++ {
		p := m.Pods[i*7919%len(m.Pods)]
		p.Labels = map[string]string{"app": fmt.Sprint(i % 10)}
		require.NoError(b, g.Update(policy.Model{Pods: []policy.Pod{p}}))
	}
	told := time.Now()
	applied()
	b.ReportMetric(float64(b.N)/told.Sub(begin).Seconds(), "events/s")
	b.ReportMetric(float64(time.Since(told).Microseconds()), "behind-us")
	b.ReportMetric(float64(loop.Status().Passes-passes)/float64(b.N), "passes/event")
}
