package nftables_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/testnet"
)

// BenchmarkLoad is the whole of a Ruleset into a namespace that has none: that of all 10,000 pods as if they were one node's (the
// bar is 1 s), and that of one node among a hundred. "kernel" is what is left of it when the rules are made, "again" the reading and comparing of a restart.
func BenchmarkLoad(b *testing.B) {
	for _, nodes := range []int{1, 100} {
		rules := compiled(b, world.Crowd(nodes), "node-0")
		d := newDriver(b, nftables.Config{NetNS: testnet.NewNode(b, "node").NetNS()})
		spec := nftables.Spec{Rules: rules}
		b.Run(fmt.Sprintf("pods=%d", rules.Endpoints.Len()/2), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				apply(b, d, nftables.Spec{})
				b.StartTimer()
				apply(b, d, spec)
			}
		})
		b.Run(fmt.Sprintf("pods=%d/kernel", rules.Endpoints.Len()/2), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				apply(b, d, nftables.Spec{})
				write, err := d.Prepare(b.Context(), spec)
				require.NoError(b, err)
				b.StartTimer()
				require.NoError(b, write())
			}
		})
		b.Run(fmt.Sprintf("pods=%d/again", rules.Endpoints.Len()/2), func(b *testing.B) {
			apply(b, d, spec)
			for b.Loop() {
				apply(b, d, spec)
			}
		})
	}
}

// BenchmarkChange is one change in a loop, from the compiled Ruleset until the kernel has it, on nodes that have 100, 250 and all
// 10,000 of the pods. The bar is 0.5 ms for a label and for a pod that comes or goes as the replica of another; the first pod of its
// policies on a node, and the last, come and go with chains. "there" and "back" are the medians of the change and of its undoing.
func BenchmarkChange(b *testing.B) {
	pod := world.CrowdPod(0, 2, 0, 1) // role=db, in a set of all namespaces
	relabelled := pod
	relabelled.Labels = map[string]string{"app": "2", "role": "client"}
	replica := world.CrowdPod(0, 2, 20, 1)
	other := world.CrowdPolicy(0, 2)
	other.Ingress = nil
	changes := []struct {
		name   string
		models [2]policy.Model
		gone   [2][]policy.ID
	}{
		{"label", [2]policy.Model{{Pods: []policy.Pod{relabelled}}, {Pods: []policy.Pod{pod}}}, [2][]policy.ID{}},
		{"replica", [2]policy.Model{{Pods: []policy.Pod{replica}}, {}}, [2][]policy.ID{nil, {replica.ID()}}},
		{"first", [2]policy.Model{{}, {Pods: []policy.Pod{pod}}}, [2][]policy.ID{{pod.ID()}, nil}},
		{"policy", [2]policy.Model{{Policies: []policy.Policy{other}}, {Policies: []policy.Policy{world.CrowdPolicy(0, 2)}}}, [2][]policy.ID{}},
	}
	for _, nodes := range []int{100, 40, 1} {
		for _, change := range changes {
			if change.name == "first" && nodes != 100 {
				continue // others of its kind are there
			}
			b.Run(fmt.Sprintf("pods=%d/%s", 10_000/nodes, change.name), func(b *testing.B) {
				d := newDriver(b, nftables.Config{NetNS: testnet.NewNode(b, "node").NetNS()})
				loop := running(b, d)
				home := world.CrowdPod(0, 2, 0, nodes).Node
				compiler := policy.NewCompiler(home)
				rules, err := compiler.Update(world.Crowd(nodes))
				require.NoError(b, err)
				set(b, loop, nftables.Spec{Rules: rules})
				for _, m := range change.models {
					for i := range m.Pods {
						m.Pods[i].Node = home
					}
				}
				var all [2][]time.Duration
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					rules, err := compiler.Update(change.models[i%2], change.gone[i%2]...)
					require.NoError(b, err)
					b.StartTimer()
					begin := time.Now()
					if err := loop.Wait(context.Background(), loop.Set(nftables.Spec{Rules: rules})); err != nil {
						b.Fatal(err)
					}
					all[i%2] = append(all[i%2], time.Since(begin))
				}
				for i, unit := range []string{"there-us", "back-us"} {
					if slices.Sort(all[i]); len(all[i]) > 0 {
						b.ReportMetric(float64(all[i][len(all[i])/2].Microseconds()), unit)
					}
				}
			})
		}
	}
}

// BenchmarkRepair is from another program's `nft flush ruleset` until all is there again in a table that it can flush, on nodes of a
// village and of a cluster of 10,000 pods. The bar is 50 ms, which a large table keeps only by being the driver's own.
func BenchmarkRepair(b *testing.B) {
	nodes := []struct {
		name  string
		rules *policy.Ruleset
	}{
		{"pods=2", compiled(b, world.Village(), "node-1")},
		{"pods=100", compiled(b, world.Crowd(100), "node-0")},
		{"pods=250", compiled(b, world.Crowd(40), "node-0")},
	}
	for _, node := range nodes {
		b.Run(node.name, func(b *testing.B) {
			n := testnet.NewNode(b, "node")
			loop, them := running(b, newDriver(b, nftables.Config{NetNS: n.NetNS(), Shared: true})), someone(b, n)
			set(b, loop, nftables.Spec{Rules: node.rules})
			for b.Loop() {
				before := loop.Status().Drift // grows with the pass that has repaired it, whatever passes follow
				commit(b, them, func(batch *nft.Batch) { batch.DeleteTable(ours) })
				for now := loop.Status(); now.Drift == before; now = loop.Status() {
					require.NoError(b, now.Last.Err)
					time.Sleep(100 * time.Microsecond)
				}
			}
		})
	}
}

// BenchmarkPacket is what policies add to what a packet costs: see world.Packets. The bars are 1.05 for a connection under way, whatever
// is in the table, 1.15 for a new one with up to 10 policies on the pod that is called, and 80 ns for each further one.
func BenchmarkPacket(b *testing.B) {
	loads := []world.Load{{}, {Policies: 1}, {Nodes: 100, Policies: 1}, {Nodes: 1}, {Nodes: 1, Policies: 1}, {Nodes: 1, Policies: 10}, {Nodes: 1, Policies: 100}}
	table := nft.Table{Family: nft.INet, Name: "podweft-bench-policy"}
	world.Packets(b, keepStill, loads, func(t testing.TB, n *world.Node) func(bool) {
		them := someone(t, n.Node)
		return func(asleep bool) {
			var flags nft.TableFlags
			if asleep {
				flags = nft.Dormant
			}
			commit(t, them, func(batch *nft.Batch) { batch.AddTable(table, flags) })
		}
	})
}

// still keeps a table without a loop, which would wake it.
type still struct{ *nftables.Driver }

func keepStill(t testing.TB, n *testnet.Node) world.Keeper {
	return still{newDriver(t, nftables.Config{NetNS: n.NetNS(), Owner: "bench", Shared: true})}
}

func (s still) Enforce(t testing.TB, rules *policy.Ruleset) {
	t.Helper()
	apply(t, s.Driver, nftables.Spec{Rules: rules})
}

func (s still) Denied(testing.TB) uint64 { return 0 }
