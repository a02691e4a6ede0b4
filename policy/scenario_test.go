package policy_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
)

// TestScenarios holds what NetworkPolicy means against Evaluate: of a Ruleset compiled at one go, of one that came about by
// updates, and of those that the nodes have.
func TestScenarios(t *testing.T) {
	for _, s := range scenario.All() {
		t.Run(s.Name, func(t *testing.T) {
			m := scenario.Cluster()
			compiler := policy.NewCompiler("")
			_, err := compiler.Update(m)
			require.NoError(t, err)
			for i, step := range s.Steps() {
				m = scenario.Change(m, step.Put, step.Gone)
				whole, _ := policy.Compile(m) // two pods on one address are reported, and a scenario nonetheless
				updated, _ := compiler.Update(step.Put, step.Gone...)
				require.Equal(t, whole, updated)
				cells, err := step.Cells(m)
				require.NoError(t, err)
				for _, c := range cells {
					got, why := whole.Evaluate(c.Packet)
					assert.Equal(t, c.Want, got, "step %d: %s\n%s", i, c.Text, why)
					if !slices.ContainsFunc(m.Pods, func(p policy.Pod) bool { return p.Node == "" }) {
						assert.Equal(t, c.Want, onNodes(m, c.Packet), "step %d: %s", i, c.Text)
					}
				}
			}
		})
	}
}

// onNodes is what becomes of a packet on its way: each node judges its own pods. One that is on no node is judged by none.
func onNodes(m policy.Model, p policy.Packet) policy.Verdict {
	verdict := policy.Allowed
	for _, node := range []string{"node-1", "node-2", "n0", "n1"} {
		rules, _ := policy.NewCompiler(node).Update(m)
		got, _ := rules.Evaluate(p)
		verdict = min(verdict, got)
	}
	return verdict
}
