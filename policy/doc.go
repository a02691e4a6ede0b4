// Package policy compiles NetworkPolicies: from what namespaces, pods and policies say to what becomes of a packet, and why.
//
// A [Model] is the cluster as plain data. [Compile] turns it into a [Ruleset], which is shaped like a packet filter's tables: a
// few shared sets with many addresses, and one short chain for each policy. The Ruleset can be asked:
//
//	Model ── Compile ──> Ruleset ── Evaluate(packet) ──> allowed or denied, and Why: the policy, its rule, its peer
//	            │
//	        Compiler: the same for a Model that changes, at the cost of what changed
//
// Policies mean exactly what the documentation of Kubernetes says, in both address families:
//
//   - A pod is isolated in a direction when a [Policy] selects it with that direction among its types (by default Ingress, and
//     Egress if there are egress rules). It then has only the connections that some policy allows; a connection needs the leave of
//     both its ends, and replies need none.
//   - The holes of a [Block] are holes in that block only. NotIn and DoesNotExist match what lacks the key. A port's name is
//     looked up in the destination pod.
//   - Pods always talk with themselves and with the node that they run on. Pods on their host's network are neither selected nor
//     matched: they are the node. A finished pod matches nothing, for its address may be another's already; a terminating
//     one goes on as before.
//   - A [ClusterPolicy] (policy.networking.k8s.io/v1alpha2) is asked before all that, in the Admin tier, or where no policy
//     isolates the pod, in the Baseline.
//
// What Kubernetes leaves open is decided so: of cluster policies with one priority the first by name is asked first; a pod's own
// node and the pod itself are beyond cluster policies too; protocols other than TCP, UDP and SCTP are allowed by rules
// without ports and otherwise not.
//
// Objects come from other programs: what makes no sense in them is reported and left out so that it opens nothing, and the rest
// works on. kube/netpol makes a Model of the objects of Kubernetes.
//
// The package is pure. It reads no cluster and changes no kernel: nothing is enforced by compiling it; policy/nftables and
// policy/iptables do that. It does not follow connections either: a [Packet] is a connection's first.
package policy
