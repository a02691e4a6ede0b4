package policy_test

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
)

// The properties below see a hundred clusters each; -rapid.checks=10000 is the long run.

func random(t *rapid.T) scenario.Random {
	return scenario.Random{Choose: func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "") }}
}

// TestRandomClusters compares Evaluate, which walks what was compiled, with an evaluator that reads the model.
func TestRandomClusters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := random(t)
		m := r.Model()
		rules, _ := policy.Compile(m)
		for _, p := range r.Packets() {
			got, why := rules.Evaluate(p)
			if want := scenario.Judge(m, p); want != got {
				t.Fatalf("%s should be %s\n%s", p, want, why)
			}
			if why.Verdict() != got {
				t.Fatalf("the verdict is %s, but\n%s", got, why)
			}
		}
	})
}

// TestRandomNodes compares what all nodes do together with what the whole does, for pods that are on a node.
func TestRandomNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := random(t)
		m := r.Model()
		rules, _ := policy.Compile(m)
		for range 10 {
			p := r.Packet()
			got, _ := rules.Evaluate(p)
			if nodes := onNodes(m, p); nodes != got {
				t.Fatalf("%s: the whole says %s, the nodes %s", p, got, nodes)
			}
		}
	})
}

// TestUpdateIsCompile: whatever came before, a Compiler has what compiling its objects anew gives.
func TestUpdateIsCompile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := random(t)
		node := [...]string{"", "n0"}[r.Choose(2)]
		compiler := policy.NewCompiler(node)
		m := r.Model()
		before, _ := compiler.Update(m)
		for range 1 + r.Choose(6) {
			put, gone := r.Update()
			put = last(put)
			m = scenario.Change(m, put, gone)
			got, _ := compiler.Update(put, gone...)
			want, _ := policy.NewCompiler(node).Update(m)
			if !reflect.DeepEqual(want, got) { // what require.Equal would say about addresses is hard to read
				t.Fatalf("compiled anew:\n%s\nupdated:\n%s", want, got)
			}

			// What did not change is shared, and so a renderer can skip it.
			shared(t, before.Chains, got.Chains)
			shared(t, before.Classes, got.Classes)
			shared(t, before.PeerSets, got.PeerSets)
			shared(t, before.BlockSets, got.BlockSets)
			shared(t, before.PortSets, got.PortSets)
			before = got
		}
		// And when everything has gone, nothing is left.
		got, err := compiler.Update(policy.Model{}, ids(m)...)
		require.NoError(t, err)
		require.Equal(t, &policy.Ruleset{}, got)
		require.Zero(t, compiler.Kept(), "objects that nothing names any more")
	})
}

// last leaves the last of several objects of one name, as Update takes them.
func last(m policy.Model) policy.Model {
	var out policy.Model
	for i := range m.Pods {
		out = scenario.Change(out, policy.Model{Pods: m.Pods[i : i+1]}, nil)
	}
	for i := range m.Policies {
		out = scenario.Change(out, policy.Model{Policies: m.Policies[i : i+1]}, nil)
	}
	for i := range m.ClusterPolicies {
		out = scenario.Change(out, policy.Model{ClusterPolicies: m.ClusterPolicies[i : i+1]}, nil)
	}
	for i := range m.Namespaces {
		out = scenario.Change(out, policy.Model{Namespaces: m.Namespaces[i : i+1]}, nil)
	}
	for i := range m.Nodes {
		out = scenario.Change(out, policy.Model{Nodes: m.Nodes[i : i+1]}, nil)
	}
	return out
}

func ids(m policy.Model) (out []policy.ID) {
	for _, o := range m.Nodes {
		out = append(out, o.ID())
	}
	for _, o := range m.Namespaces {
		out = append(out, o.ID())
	}
	for _, o := range m.Pods {
		out = append(out, o.ID())
	}
	for _, o := range m.Policies {
		out = append(out, o.ID())
	}
	for _, o := range m.ClusterPolicies {
		out = append(out, o.ID())
	}
	return out
}

// shared fails where two equal objects are not one.
func shared[T any](t require.TestingT, before, after []*T) {
	for _, a := range after {
		for _, b := range before {
			if a != b && assert.ObjectsAreEqual(a, b) {
				require.Fail(t, "not shared", "%+v", a)
			}
		}
	}
}

// TestCompileIsPure: the order of lists does not matter, nor does the process.
func TestCompileIsPure(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := random(t).Model()
		other := policy.Model{
			Nodes:           rapid.Permutation(m.Nodes).Draw(t, "nodes"),
			Namespaces:      rapid.Permutation(m.Namespaces).Draw(t, "namespaces"),
			Pods:            rapid.Permutation(m.Pods).Draw(t, "pods"),
			Policies:        rapid.Permutation(m.Policies).Draw(t, "policies"),
			ClusterPolicies: rapid.Permutation(m.ClusterPolicies).Draw(t, "cluster policies"),
		}
		want, wantErr := policy.Compile(m)
		got, gotErr := policy.Compile(other)
		require.Equal(t, want, got)
		require.Equal(t, wantErr, gotErr)
	})
}
