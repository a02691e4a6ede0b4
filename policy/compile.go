package policy

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
)

// Compile turns a Model into a Ruleset for all of its pods. It is pure: equal Models, whatever the order of their lists, give
// equal Rulesets.
//
// What makes no sense is left out in such a way that it opens nothing, and the rest is compiled; the Ruleset can always be used.
// The error joins a [*podweft.FieldError] for each problem, which names the object and the field as Kubernetes does. Of a
// policy whose podSelector makes no sense nobody can tell whom it isolates: all of it is left out.
func Compile(m Model) (*Ruleset, error) {
	rules, err := NewCompiler("").Update(m)
	return rules, errors.Join(m.doubles(), err)
}

// Validate reports everything that is wrong with m, as [Compile] does.
func (m Model) Validate() error {
	_, err := Compile(m)
	return err
}

// doubles reports objects that are in m twice; the last counts.
func (m Model) doubles() error {
	var errs []error
	seen := map[ID]bool{}
	for id := range m.ids() {
		if seen[id] {
			errs = append(errs, &podweft.FieldError{Field: id.String(), Problem: "is there twice", Remedy: "the last one counts: remove the others"})
		}
		seen[id] = true
	}
	return errors.Join(errs...)
}

// ids yields the ID of every object.
func (m Model) ids() iter.Seq[ID] {
	return func(yield func(ID) bool) {
		_ = each(m.Nodes, yield) && each(m.Namespaces, yield) && each(m.Pods, yield) &&
			each(m.Policies, yield) && each(m.ClusterPolicies, yield)
	}
}

func each[T interface{ ID() ID }](list []T, yield func(ID) bool) bool {
	for _, o := range list {
		if !yield(o.ID()) {
			return false
		}
	}
	return true
}

// Compiler compiles a Model that changes. It is not safe for concurrent use; the Rulesets that it returns are.
type Compiler struct {
	node string

	nodes      map[string]*node
	namespaces map[string]*namespace
	pods       map[ID]*pod
	claims     map[netip.Addr][]*pod // sorted by precedence: the first has the address
	policies   map[ID]*source
	scopes     map[scopeKey]*members
	wide       map[scopeKey]*members // those of scopes that may reach into any namespace
	blocks     map[string]*block
	ports      map[portKey]*named
	classes    map[string]*class // by their key

	mark    uint64 // tells scopes apart that a pod has entered, is in, or has left; never used twice
	round   round
	shown   tables
	scratch scratch
}

// scratch is memory that is used for each pod.
type scratch struct {
	scopes  []*members
	sources []*source
	key     []byte
}

// tables are the parts of a Ruleset.
type tables struct {
	endpoints longTable[Endpoint]
	locals    table[Local]
	classes   table[*Class]
	chains    table[*Chain]
	peerSets  table[*PeerSet]
	blockSets table[*BlockSet]
	portSets  table[*PortSet]
}

// NewCompiler returns a Compiler of an empty Model. Its Rulesets judge the pods of one node, with the sets which that takes; an
// empty name stands for all nodes. Peers are pods of every node in any case.
func NewCompiler(nodeName string) *Compiler {
	return &Compiler{
		node:       nodeName,
		nodes:      map[string]*node{},
		namespaces: map[string]*namespace{},
		pods:       map[ID]*pod{},
		claims:     map[netip.Addr][]*pod{},
		policies:   map[ID]*source{},
		scopes:     map[scopeKey]*members{},
		wide:       map[scopeKey]*members{},
		blocks:     map[string]*block{},
		ports:      map[portKey]*named{},
		classes:    map[string]*class{},
	}
}

// Update takes objects that are new or have changed, and the IDs of those that are gone; an object that is in both is there. It
// costs what these changes touch, and returns the Ruleset that [Compile] makes of all objects together.
//
// The error is about what is in put, as that of [Compile] is; what it says is left out stays so until the object is put
// again. Problems of earlier Updates are not repeated.
func (c *Compiler) Update(put Model, gone ...ID) (*Ruleset, error) {
	c.round.begin()
	var errs []error
	for _, n := range put.Nodes {
		errs = append(errs, c.putNode(n)...)
	}
	for _, n := range put.Namespaces {
		errs = append(errs, c.putNamespace(n)...)
	}
	for i, parsed := range toEach(put.Policies, parsePolicy) {
		errs = append(errs, parsed.errs...)
		c.putPolicy(put.Policies[i].ID(), parsed.is)
	}
	for i, parsed := range toEach(put.ClusterPolicies, parseCluster) {
		errs = append(errs, parsed.errs...)
		c.putPolicy(put.ClusterPolicies[i].ID(), parsed.is)
	}
	c.expect(len(put.Pods))
	for i, sound := range toEach(put.Pods, checkPod) {
		errs = append(errs, sound.errs...)
		if sound.is != nil {
			c.putPod(&put.Pods[i], sound.is)
		}
	}
	c.remove(put, gone)
	errs = append(errs, c.contests()...)
	c.finish()
	return c.ruleset(), errors.Join(errs...)
}

// expect makes room for pods in a Compiler that has none.
func (c *Compiler) expect(pods int) {
	if len(c.pods) == 0 {
		c.pods = make(map[ID]*pod, pods)
		c.claims = make(map[netip.Addr][]*pod, 2*pods) // of two families, most often
	}
}

func (c *Compiler) remove(put Model, gone []ID) {
	if len(gone) == 0 {
		return
	}
	kept := map[ID]bool{}
	for id := range put.ids() {
		kept[id] = true
	}
	for _, id := range gone {
		if kept[id] {
			continue
		}
		switch id.Kind {
		case KindNode:
			c.dropNode(id.Name)
		case KindNamespace:
			c.dropNamespace(id.Name)
		case KindPod:
			c.dropPod(id)
		case KindPolicy, KindClusterPolicy:
			c.putPolicy(id, nil)
		}
	}
}

func (c *Compiler) ruleset() *Ruleset {
	t := &c.shown
	return &Ruleset{
		Endpoints: t.endpoints.list,
		Locals:    t.locals.list,
		Classes:   t.classes.list,
		Chains:    t.chains.list,
		PeerSets:  t.peerSets.list,
		BlockSets: t.blockSets.list,
		PortSets:  t.portSets.list,
	}
}

// here reports whether pods of that node are judged.
func (c *Compiler) here(name string) bool { return c.node == "" || c.node == name }

// addresses returns the usable ones of list, sorted.
func (c *checker) addresses(field string, list []netip.Addr) []netip.Addr {
	where := func() string { return field }
	usable := make([]netip.Addr, 0, len(list))
	for _, a := range list {
		switch {
		case !a.IsValid():
			c.bad(where, nil, "is not an address", "")
		case a.Is4In6():
			c.bad(where, a, "is IPv4 written as IPv6", fmt.Sprintf("write %s: that is how its packets travel", a.Unmap()))
		case a.Zone() != "" || a.IsUnspecified() || a.IsMulticast():
			c.bad(where, a, "is not an address that others can send to", "leave it out")
		default:
			usable = append(usable, a)
		}
	}
	slices.SortFunc(usable, netip.Addr.Compare)
	return slices.Compact(usable)
}

// namedPorts returns the usable ones of list.
func (c *checker) namedPorts(list []NamedPort) []NamedPort {
	where := func() string { return "spec.containers[].ports" }
	var usable []NamedPort
	for _, p := range list {
		p.Protocol = p.Protocol.orTCP()
		switch {
		case !isPortName(p.Name):
			c.bad(where, fmt.Sprintf("%q", p.Name), "is not a port's name", "")
		case !p.Protocol.hasPorts():
			c.bad(where, uint8(p.Protocol), "is not a protocol with ports", "use TCP, UDP or SCTP")
		case p.Number == 0:
			c.bad(where, p.Name, "has no number", "use 1 to 65535")
		default:
			usable = append(usable, p)
		}
	}
	return usable
}
