package scenario

import "slices"

// All returns the table. Names are unique.
func All() []Scenario {
	return slices.Concat(isolation(), types(), selectors(), namespaces(), peersTogether(), blockTable(), ports(), unions(),
		nodes(), life(), changes(), clusterPolicies(), recipes())
}
