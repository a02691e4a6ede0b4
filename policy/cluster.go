package policy

// ClusterPolicy is a ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2). It isolates nobody: of its rules the first that
// matches a connection decides, and where none does the next policy is asked, then the next tier. Policies of a namespace stand
// between the two tiers, and the Baseline is asked only for pods that none of them isolates in that direction.
type ClusterPolicy struct {
	Name string
	Tier Tier
	// Priority within the tier, 0 to 1000; the lowest is asked first, and of equal ones the first by name (Kubernetes leaves
	// that open).
	Priority int
	Subject  Subject
	// Ingress and Egress are asked in their order.
	Ingress, Egress []ClusterRule
}

// Subject is who a [ClusterPolicy] is about. The zero Subject is every pod.
type Subject struct {
	Namespaces, Pods Selector
}

// ClusterRule says what becomes of connections that match one of its peers and one of its ports.
type ClusterRule struct {
	Name   string // for people; may be empty
	Action Action
	// Peers must not be empty. They name their namespaces, for the policy has none of its own; a Block is for egress only and
	// has no holes.
	Peers []Peer
	// Ports are those of the destination; none means every port, and every protocol.
	Ports []Port
}

// Tier is when a policy is asked.
type Tier uint8

// The tiers, in their order.
const (
	Admin Tier = iota + 1
	Namespaced
	Baseline
)

// String returns the tier as Kubernetes writes it. The one of namespaced policies has no name there.
func (t Tier) String() string {
	switch t {
	case Admin:
		return "Admin"
	case Namespaced:
		return "NetworkPolicy"
	case Baseline:
		return "Baseline"
	}
	return "unknown tier"
}

// Action is what a rule does with a connection that matches it.
type Action uint8

const (
	// Accept lets it through this end; the policies of the other end have their own say.
	Accept Action = iota + 1
	// Deny drops it.
	Deny
	// Pass leaves it to the next tier.
	Pass
)

// String returns the action as Kubernetes writes it: "Accept".
func (a Action) String() string {
	switch a {
	case Accept:
		return "Accept"
	case Deny:
		return "Deny"
	case Pass:
		return "Pass"
	}
	return "unknown action"
}
