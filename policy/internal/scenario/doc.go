// Package scenario is what NetworkPolicy means, as a table: clusters, policies, and for each connection whether it comes about.
// Whoever claims to carry policies out is held against it: the evaluator of package policy, and packet filters with real
// packets. [All] has the table; its verdicts were written by hand, from the documentation of Kubernetes and the comments of its
// API, and so are the cases in which known implementations go wrong.
//
// For what no table foresees there are [Random] clusters, and [Judge]: an evaluator that is as simple as can be, shares no code
// with package policy but its model, and looks at every object for every packet.
//
// The package sends no packets. It says which there should be; addresses are from the ranges for documentation and private use.
package scenario
