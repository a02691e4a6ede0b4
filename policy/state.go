package policy

import (
	"cmp"
	"net/netip"
	"strings"
)

// The Compiler keeps the following of each object. What a Ruleset shows is counted from its beginning: an endpoint keeps its two
// classes live, a live class its chains, and a live chain the sets that it names. What is not live is kept up to date as well,
// so that it can be shown at once.

// node is a node, and what the tables have of it.
type node struct {
	name         string
	addrs, shown []netip.Addr
}

// namespace is a namespace, and what is in it.
type namespace struct {
	labels map[string]string
	known  bool // it is in the model, not only named by a pod or a policy
	pods   map[*pod]struct{}
	scopes scopeIndex // those that reach into it
	own    int        // scopes of this namespace alone
}

// pod is a pod, and what the tables have of it since it was last settled.
type pod struct {
	Pod
	claims []netip.Addr // its addresses, but for bad ones; sorted
	gone   bool

	touched uint64 // the last round that concerned it
	settled uint64 // the last one in which it was settled
	scopes  []*members
	addrs   []netip.Addr // those of its addresses that no other pod has before it
	ports   []NamedPort
	judged  *Judged // nil where it is no endpoint
	classes [2]*class
}

// takesPart reports whether anything matches the pod.
func (p *pod) takesPart() bool { return !p.gone && !p.HostNetwork && p.Phase != Finished }

// precedence orders those who claim one address.
func (p *pod) precedence(o *pod) int {
	return cmp.Or(cmp.Compare(p.Phase, o.Phase), p.ID().compare(o.ID()))
}

// members is a scope and who is in it.
type members struct {
	scope
	born      uint64 // the round in which it came up
	touched   uint64 // the last one that concerned it
	mark      uint64 // of moveScopes
	subjectOf []*source
	users     int // chains that name it, live or not; with none, addresses are not kept
	live      int // live chains that name it
	addrs     longTable[netip.Addr]
	set       *PeerSet // nil with no users
}

// named is a port that a chain calls by name, and the pods that have it.
type named struct {
	portKey
	touched  uint64
	users    int
	live     int
	elements longTable[AddrPort]
	set      *PortSet
}

// block is a BlockSet that a chain names.
type block struct {
	set   *BlockSet
	users int
	live  int
}

// source is a policy.
type source struct {
	id       ID
	tier     Tier
	priority int
	subject  *members
	chains   [2]chain
}

// chain is a policy in one direction. It stays in its place when it changes, for classes point to it.
type chain struct {
	*Chain        // nil where the policy does nothing in this direction
	needs  needs  // that of the Chain
	live   int    // live classes that name it
	shown  *Chain // what the table has
}

// class is a distinct list of chains.
type class struct {
	*Class
	key    string
	chains []*chain
	live   int // endpoints' pods that have it
}

// precedence orders policies as they are asked.
func (s *source) precedence(o *source) int {
	return cmp.Or(cmp.Compare(s.tier, o.tier), cmp.Compare(s.priority, o.priority), s.id.compare(o.id))
}

func (c *class) className() string {
	if c == nil {
		return ""
	}
	return c.Name
}

// newClass makes the Class of policies, which are in the order in which they are asked.
func newClass(d Direction, sources []*source) *Class {
	c := &Class{Direction: d}
	lists := map[Tier]*[]string{Admin: &c.Admin, Namespaced: &c.Policies, Baseline: &c.Baseline}
	for _, s := range sources {
		*lists[s.tier] = append(*lists[s.tier], s.chains[d-1].Name)
	}
	c.Name = hashed(className, strings.Join(c.Admin, " "), strings.Join(c.Policies, " "), strings.Join(c.Baseline, " "))
	return c
}
