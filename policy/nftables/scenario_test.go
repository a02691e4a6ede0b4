package nftables_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
)

// TestScenarios sends the packets of the whole table: what arrives is what must come about, which is what Evaluate says. Each step
// is a change to the tables that were there, and what that leaves is what one finds who reads them. A first packet fares alike
// whether or not those that follow are asked about.
func TestScenarios(t *testing.T) {
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict=%t", strict), func(t *testing.T) { testScenarios(t, strict) })
	}
}

func testScenarios(t *testing.T, strict bool) {
	w := newWorld(t, "node-1", "node-2")
	for _, n := range w.nodes {
		n.spec.Strict = strict
	}
	connections := 0
	for _, s := range scenario.All() {
		t.Run(s.Name, func(t *testing.T) {
			w.t = t
			m := scenario.Cluster()
			for i, step := range s.Steps() {
				m = scenario.Change(m, step.Put, step.Gone)
				cells, err := step.Cells(m)
				require.NoError(t, err)
				if slices.ContainsFunc(m.Pods, func(p policy.Pod) bool { return p.Node == "" }) {
					continue // nobody judges a pod that is on no node
				}
				cells = slices.DeleteFunc(cells, func(c scenario.Cell) bool { return !travels(c.Packet.Src) || !travels(c.Packet.Dst) })
				w.enforce(m)
				if !strict {
					w.inSync()
				}
				w.settle(m, cells)
				w.try(cells)
				whole, _ := policy.Compile(m)
				for _, c := range cells {
					got, why := whole.Evaluate(c.Packet)
					assert.Equal(t, c.Want, got, "step %d: %s\n%s", i, c.Text, why)
				}
				connections += len(cells)
			}
		})
	}
	w.t = t
	t.Logf("%d connections", connections)
	assert.Greater(t, connections, 3000)
}

// travels reports whether packets of an address can come from elsewhere: the table has some that no machine lets in.
func travels(a netip.Addr) bool { return !a.IsLoopback() && !a.IsMulticast() && !a.IsUnspecified() }

// enforce makes both nodes' tables what the model says.
func (w *world) enforce(m policy.Model) {
	w.t.Helper()
	for name, n := range w.nodes {
		n.spec.Rules, _ = policy.NewCompiler(name).Update(m) // two pods on one address are reported, and a scenario nonetheless
		set(w.t, n.loop, n.spec)
	}
}

// inSync requires that both tables are what one finds who reads them.
func (w *world) inSync() {
	w.t.Helper()
	for _, n := range w.nodes {
		inSync(w.t, n.driver, n.spec)
	}
}
