package scenario_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
)

// TestAll holds the table against the simplest evaluator there is, so that neither is wrong by itself.
func TestAll(t *testing.T) {
	names := map[string]bool{}
	cells := 0
	for _, s := range scenario.All() {
		t.Run(s.Name, func(t *testing.T) {
			assert.False(t, names[s.Name], "the name is another scenario's too")
			names[s.Name] = true
			m := scenario.Cluster()
			var put []policy.ID
			for i, step := range s.Steps() {
				for _, p := range step.Put.Policies {
					assert.NotContains(t, put, p.ID(), "step %d has two policies of that name", i)
					put = append(put, p.ID())
				}
				put = nil
				m = scenario.Change(m, step.Put, step.Gone)
				list, err := step.Cells(m)
				require.NoError(t, err)
				require.NotEmpty(t, list)
				for _, c := range list {
					assert.Equal(t, c.Want, scenario.Judge(m, c.Packet), "step %d: %s (%s)", i, c.Text, c.Packet)
				}
				cells += len(list)
			}
		})
	}
	t.Logf("%d scenarios, %d connections", len(names), cells)
	assert.GreaterOrEqual(t, len(names), 300)
}

func TestCells(t *testing.T) {
	m := scenario.Cluster()
	step := scenario.Step{Allow: "client+test/client > web udp/53, world > web v4", Deny: "client > 192.0.2.9 icmp"}
	list, err := step.Cells(m)
	require.NoError(t, err)
	var texts []string
	for _, c := range list {
		texts = append(texts, c.Want.String()+" "+c.Text+": "+c.Packet.String())
	}
	assert.Equal(t, []string{
		"allowed client > web udp/53 v4: 10.244.1.11 -> 10.244.1.10 UDP 53",
		"allowed client > web udp/53 v6: fd00:10:244:1::11 -> fd00:10:244:1::10 UDP 53",
		"allowed test/client > web udp/53 v4: 10.244.1.20 -> 10.244.1.10 UDP 53",
		"allowed test/client > web udp/53 v6: fd00:10:244:1::20 -> fd00:10:244:1::10 UDP 53",
		"allowed world > web tcp/80 v4: 203.0.113.7 -> 10.244.1.10 TCP 80",
		"denied client > 192.0.2.9 icmp v4: 10.244.1.11 -> 192.0.2.9 protocol 1",
	}, texts)
}

func TestCellsThatMakeNoSense(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"no arrow", "client web", "is not written FROM > TO"},
		{"no destination", "client >", "is not written FROM > TO"},
		{"nobody", "nobody > web", `nothing with an address is called "nobody"`},
		{"another namespace's pod", "plain > web", `nothing with an address is called "plain"`},
		{"no such protocol", "client > web dccp/80", `"dccp" is not a protocol`},
		{"no such port", "client > web tcp/70000", `"tcp/70000" is not a port`},
		{"two families", "203.0.113.7 > 2001:db8::1", "have no family in common"},
		{"a family that is not there", "203.0.113.7 > web v6", "have no family in common"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := scenario.Step{Allow: tt.text}.Cells(scenario.Cluster())
			assert.ErrorContains(t, err, tt.want)
			_, err = scenario.Step{Deny: tt.text}.Cells(scenario.Cluster())
			assert.ErrorContains(t, err, tt.want)
		})
	}
}

func TestChange(t *testing.T) {
	m := scenario.Cluster()
	gone := m.Pods[0].ID()
	web := policy.Pod{Namespace: "default", Name: "web"}
	after := scenario.Change(m, policy.Model{Pods: []policy.Pod{web}}, []policy.ID{gone, web.ID()})
	assert.Len(t, after.Pods, len(m.Pods)-1)
	assert.Contains(t, after.Pods, web)
	assert.Equal(t, m.Nodes, after.Nodes)
}
