package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Ruleset is what policies come to for a packet filter: few objects with many elements, so that one packet costs a few lookups
// and one change a few elements, however large the cluster. It reads from the end:
//
//	address of a pod ── Endpoints ──> Class ──> Chains, tier by tier ──> Matches ──> PeerSets, BlockSets, PortSets
//
// A Ruleset is immutable and safe for concurrent use. Every list is sorted, by name or address, and without doubles, so that
// equal models give equal Rulesets. Two that come one after the other from a [Compiler] share what did not change: objects by
// their pointers, and of long lists most of their memory (see [List.Diff]). To compare them costs little more than what differs.
//
// Names are hashes of what they stand for (for a Chain, the policy and the direction) in at most 24 letters and digits, "-"
// included. They stay the same from process to process.
type Ruleset struct {
	// Endpoints are the addresses of pods: where packets are dispatched.
	Endpoints List[Endpoint]
	// Locals are the addresses of nodes, which their own pods may always talk with.
	Locals []Local
	// Classes are the distinct sets of policies that some pod has.
	Classes []*Class
	// Chains are the policies that some Class has, one for each direction.
	Chains []*Chain
	// PeerSets, BlockSets and PortSets are what the Matches of Chains look addresses up in. Policies share them.
	PeerSets  []*PeerSet
	BlockSets []*BlockSet
	PortSets  []*PortSet
}

// Endpoint is one address of a pod.
type Endpoint struct {
	Addr netip.Addr
	Pod  *Judged // shared by all addresses of the pod
}

// Judged is a pod that has addresses, and who judges its traffic.
type Judged struct {
	Namespace, Name string
	Node            string
	// Ingress and Egress name a [Class]; empty where no policy speaks of the pod: everything passes.
	Ingress, Egress string
}

// ID names the pod.
func (j *Judged) ID() ID { return ID{Kind: KindPod, Namespace: j.Namespace, Name: j.Name} }

func (j *Judged) class(d Direction) string {
	if d == Egress {
		return j.Egress
	}
	return j.Ingress
}

// Local is one address of a node.
type Local struct {
	Addr netip.Addr
	Node string
}

// Class is a set of policies, all those that speak of a pod in one direction. Its tiers are asked in turn:
//
//   - Admin: the first match decides, and Pass goes on to the next tier.
//   - Policies: any match accepts. If there are any Policies and none matches, the packet is dropped.
//   - Baseline: as Admin. What nothing has decided passes.
type Class struct {
	Name      string
	Direction Direction
	Admin     []string // names of Chains, in the order in which they are asked
	Policies  []string
	Baseline  []string // only where there are no Policies: otherwise it is never reached
}

// Chain is one policy in one direction.
type Chain struct {
	Name      string
	Policy    ID
	Direction Direction
	Tier      Tier
	Matches   []Match
	// Rules are the policy's own, for people; those of a namespaced policy are all Accept.
	Rules []ClusterRule
}

// Match decides about packets whose remote address is in Peers or Blocks (without either: wherever it is) and whose protocol and
// destination port fit. The remote end of an ingress Chain is the source, that of an egress Chain the destination.
type Match struct {
	Action Action
	Peers  string // name of a [PeerSet]
	Blocks string // name of a [BlockSet]; never together with Peers

	Protocol  Protocol    // 0 is any; then the following are empty
	Ports     []PortRange // sorted and apart; without, and without PortNames, every port
	PortNames string      // name of a [PortSet] that has the destination's address and port; never together with Ports

	// Rule says which of the Chain's Rules this is, and PeersOfRule which of that rule's Peers. Without any, the rule's peers do
	// not matter: it has none.
	Rule        int
	PeersOfRule []int
}

// PortRange is a range of ports, both ends included.
type PortRange struct{ From, To uint16 }

// PeerSet is the addresses of the pods that a peer selects.
type PeerSet struct {
	Name  string
	Text  string // for people: "pods role=client in namespace default"
	Addrs List[netip.Addr]
}

// BlockSet is all blocks of a rule, less their holes, as ranges that neither overlap nor touch.
type BlockSet struct {
	Name   string
	Ranges []Range
}

// Range is a range of addresses of one family, both ends included.
type Range struct{ From, To netip.Addr }

// PortSet is where all pods have a port of one name.
type PortSet struct {
	Name     string
	Protocol Protocol
	Port     string
	Elements List[AddrPort]
}

// AddrPort is a port of a pod.
type AddrPort struct {
	Addr netip.Addr
	Port uint16
}

// Compare orders by address, then by port.
func (a AddrPort) Compare(b AddrPort) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
}

func (a AddrPort) addr() netip.Addr { return a.Addr }

// Compare orders by address.
func (e Endpoint) Compare(o Endpoint) int { return e.Addr.Compare(o.Addr) }

func (e Endpoint) addr() netip.Addr { return e.Addr }

func itself(a netip.Addr) netip.Addr { return a }

func (l Local) compare(o Local) int {
	return cmp.Or(l.Addr.Compare(o.Addr), strings.Compare(l.Node, o.Node))
}

// endpoint returns the pod that has the address a, or nil.
func (r *Ruleset) endpoint(a netip.Addr) *Judged {
	e, _ := r.Endpoints.find(Endpoint{Addr: a}, Endpoint.Compare)
	return e.Pod
}

// local reports whether a is an address of node.
func (r *Ruleset) local(a netip.Addr, node string) bool {
	_, ok := slices.BinarySearchFunc(r.Locals, Local{a, node}, Local.compare)
	return ok && node != ""
}

// chain returns the Chain of that name. A Ruleset of somebody's own making may lack it; it is then an empty one.
func (r *Ruleset) chain(name string) *Chain {
	if c := find(r.Chains, name); c != nil {
		return c
	}
	return &Chain{}
}

// contains reports whether a is in the set.
func (s *PeerSet) contains(a netip.Addr) bool {
	if s == nil { // as with chain
		return false
	}
	_, ok := s.Addrs.find(a, netip.Addr.Compare)
	return ok
}

// contains reports whether a is in the set.
func (s *BlockSet) contains(a netip.Addr) bool {
	if s == nil {
		return false
	}
	after, _ := slices.BinarySearchFunc(s.Ranges, a, func(r Range, a netip.Addr) int {
		if r.From.Compare(a) <= 0 {
			return -1
		}
		return 1
	})
	return after > 0 && a.Compare(s.Ranges[after-1].To) <= 0
}

// contains reports whether the set has the port at the address.
func (s *PortSet) contains(a AddrPort) bool {
	if s == nil {
		return false
	}
	_, ok := s.Elements.find(a, AddrPort.Compare)
	return ok
}

// object is a part of a Ruleset that others name.
type object interface{ name() string }

func (c *Class) name() string    { return c.Name }
func (c *Chain) name() string    { return c.Name }
func (s *PeerSet) name() string  { return s.Name }
func (s *BlockSet) name() string { return s.Name }
func (s *PortSet) name() string  { return s.Name }

// find returns the object of that name, or the zero T.
func find[T object](list []T, name string) (found T) {
	i, ok := slices.BinarySearchFunc(list, name, func(o T, name string) int { return strings.Compare(o.name(), name) })
	if ok {
		found = list[i]
	}
	return found
}

func byName[T object](a, b T) int    { return strings.Compare(a.name(), b.name()) }
func sameName[T object](a, b T) bool { return a.name() == b.name() }
