package policy

import (
	"cmp"
	"net/netip"
)

// Model is what policies speak of: a cluster's nodes, namespaces, pods and policies. It is plain data, made by hand or by
// kube/netpol from the objects of Kubernetes. What has been handed over must not be changed afterwards.
type Model struct {
	Nodes           []Node
	Namespaces      []Namespace
	Pods            []Pod
	Policies        []Policy
	ClusterPolicies []ClusterPolicy
}

// Node is a machine. Traffic between a pod and the node that it runs on is always allowed: the kubelet's probes need it.
type Node struct {
	Name string
	// Addresses are all of the node's own, of every link: a packet from the node to one of its pods carries that of the bridge
	// or of the tunnel more often than that of the underlay.
	Addresses []netip.Addr
}

// Namespace has labels that namespace selectors match. A namespace that is not in the Model matches no selector, not even an
// empty one; policies in it work all the same.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// Pod is an endpoint of traffic.
type Pod struct {
	Namespace, Name string
	Labels          map[string]string
	// Addresses of both families. A pod without one is not known to the network yet, and nothing matches it.
	Addresses []netip.Addr
	// Ports are those of its containers that have a name.
	Ports []NamedPort
	// Node is where it runs; empty means unknown.
	Node string
	// HostNetwork: it has no addresses but its node's. Policies neither select nor match such a pod (its traffic is the
	// node's).
	HostNetwork bool
	Phase       Phase
}

// NamedPort is a container's port that policies may call by name.
type NamedPort struct {
	Name     string
	Protocol Protocol // the zero Protocol is TCP
	Number   uint16
}

// Phase is how far a pod is in its life.
type Phase uint8

const (
	// Running is the zero Phase: the pod has started or is about to.
	Running Phase = iota
	// Terminating says that it was told to end, and works until it does. It is judged as a running pod is, but where both
	// claim one address the running pod has it.
	Terminating
	// Finished says that its processes have ended. Its address may be another pod's already, and nothing matches it.
	Finished
)

// Kind is a sort of object of a [Model].
type Kind uint8

// The kinds, as [ID] has them.
const (
	KindNode Kind = iota + 1
	KindNamespace
	KindPod
	KindPolicy
	KindClusterPolicy
)

// String returns the kind as messages name it: "cluster policy".
func (k Kind) String() string {
	switch k {
	case KindNode:
		return "node"
	case KindNamespace:
		return "namespace"
	case KindPod:
		return "pod"
	case KindPolicy:
		return "policy"
	case KindClusterPolicy:
		return "cluster policy"
	}
	return "object"
}

// ID names an object of a [Model]. Only pods and policies have a Namespace.
type ID struct {
	Kind            Kind
	Namespace, Name string
}

// String returns the ID as messages have it: "policy default/web".
func (id ID) String() string { return id.Kind.String() + " " + id.path() }

func (id ID) path() string {
	if id.Namespace == "" {
		return id.Name
	}
	return id.Namespace + "/" + id.Name
}

func (id ID) compare(o ID) int {
	return cmp.Or(cmp.Compare(id.Kind, o.Kind), cmp.Compare(id.Namespace, o.Namespace), cmp.Compare(id.Name, o.Name))
}

// ID names the node.
func (n Node) ID() ID { return ID{Kind: KindNode, Name: n.Name} }

// ID names the namespace.
func (n Namespace) ID() ID { return ID{Kind: KindNamespace, Name: n.Name} }

// ID names the pod.
func (p Pod) ID() ID { return ID{Kind: KindPod, Namespace: p.Namespace, Name: p.Name} }

// ID names the policy.
func (p Policy) ID() ID { return ID{Kind: KindPolicy, Namespace: p.Namespace, Name: p.Name} }

// ID names the policy.
func (p ClusterPolicy) ID() ID { return ID{Kind: KindClusterPolicy, Name: p.Name} }
