// Package netpol turns objects of Kubernetes into a model of package policy: NetworkPolicies, pods, namespaces and nodes, as a
// client has them or as they stand in YAML files.
//
//	NetworkPolicy, Pod, ... ── Policy, Pod, Namespace, Node ──> policy.Model ── policy.Compile ──> policy.Ruleset
//	YAML, one or more files ──────────── Decode ─────────────────────┘
//
// Defaults are the API server's, which may never have seen a file: TCP for a port without protocol, "default" for an object
// without namespace, the label kubernetes.io/metadata.name for a namespace. policyTypes are left as they are; what their absence
// means, package policy knows.
//
// [Decode] also reads ClusterNetworkPolicies (policy.networking.k8s.io/v1alpha2), but not their experimental parts: a rule with
// nodes or domainNames is reported and fails closed.
//
// The package watches nothing and talks to no API server. Objects that decide nothing about packets, such as Deployments and
// Services, are passed over: the pods that a Deployment would make are not in a file.
package netpol
