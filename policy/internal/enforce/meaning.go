package enforce

import (
	"slices"

	"github.com/podweft/podweft/policy"
)

// Meaning is what a rule in the kernel counts.
type Meaning struct {
	Counts    bool
	Policy    policy.ID // zero where none has decided alone
	Direction policy.Direction
	Rule      int
	Action    policy.Action
	Isolated  []policy.ID // who isolates, where none allowed
	Unknown   bool        // packets of addresses that are closed
}

// AddTo adds what the rule has counted to what it stands for: rules of each family, and of several peers or classes, may stand
// for one.
func (m Meaning) AddTo(all *policy.Counts, c policy.Count) {
	switch {
	case m.Unknown:
		all.Closed = all.Closed.Plus(c)
	case m.Isolated != nil:
		for i := range all.Isolated {
			if have := &all.Isolated[i]; have.Direction == m.Direction && slices.Equal(have.Policies, m.Isolated) {
				have.Count = have.Plus(c)
				return
			}
		}
		all.Isolated = append(all.Isolated, policy.IsolationCount{Direction: m.Direction, Policies: m.Isolated, Count: c})
	default:
		for i := range all.Rules {
			if have := &all.Rules[i]; have.Policy == m.Policy && have.Direction == m.Direction && have.Rule == m.Rule && have.Action == m.Action {
				have.Count = have.Plus(c)
				return
			}
		}
		all.Rules = append(all.Rules, policy.RuleCount{Policy: m.Policy, Direction: m.Direction, Rule: m.Rule, Action: m.Action, Count: c})
	}
}
