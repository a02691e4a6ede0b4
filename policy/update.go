package policy

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/podweft/podweft"
)

// round is one Update. First all objects take their new form, and what that concerns is noted down; then finish settles each
// thing once.
type round struct {
	number    uint64
	nodes     []*node
	pods      []*pod
	newcomers int // pods that were not there before
	claimed   []netip.Addr
	scopes    []*members
	named     []*named
	blocks    []*block
	chains    []*chain
	classes   []*class
}

func (r *round) begin() { *r = round{number: r.number + 1} }

func (r *round) touch(p *pod) {
	if p.touched != r.number {
		p.touched = r.number
		r.pods = append(r.pods, p)
	}
}

func (r *round) touchScope(m *members) {
	if m.touched != r.number {
		m.touched = r.number
		r.scopes = append(r.scopes, m)
	}
}

func (r *round) touchPort(u *named) {
	if u.touched != r.number {
		u.touched = r.number
		r.named = append(r.named, u)
	}
}

func (c *Compiler) putNode(n Node) []error {
	check := &checker{of: n.ID()}
	if !check.named(false) {
		return check.errs
	}
	known := c.nodes[n.Name]
	if known == nil {
		known = &node{name: n.Name}
		c.nodes[n.Name] = known
	}
	known.addrs = check.addresses("status.addresses", n.Addresses)
	c.round.nodes = append(c.round.nodes, known)
	return check.errs
}

func (c *Compiler) dropNode(name string) {
	if n := c.nodes[name]; n != nil {
		n.addrs = nil
		c.round.nodes = append(c.round.nodes, n)
		delete(c.nodes, name)
	}
}

func (c *Compiler) putNamespace(n Namespace) []error {
	check := &checker{of: n.ID()}
	if !check.named(false) {
		return check.errs
	}
	if ns := c.namespaces[n.Name]; ns == nil || !ns.known || !maps.Equal(ns.labels, n.Labels) {
		c.relabel(c.namespace(n.Name), true, n.Labels)
	}
	return check.errs
}

func (c *Compiler) dropNamespace(name string) {
	if ns := c.namespaces[name]; ns != nil && ns.known {
		c.relabel(ns, false, nil)
		c.forget(name)
	}
}

// relabel gives the namespace its labels, and so the selectors that reach into it.
func (c *Compiler) relabel(ns *namespace, known bool, labels map[string]string) {
	for _, m := range c.wide {
		was := ns.matches(m)
		is := known && m.namespaceLabels.Matches(labels)
		switch {
		case is && !was:
			ns.scopes.add(m)
		case was && !is:
			ns.scopes.remove(m)
		}
	}
	ns.known, ns.labels = known, labels
	for p := range ns.pods {
		c.round.touch(p)
	}
}

// matches reports whether the wide scope m reaches into ns.
func (ns *namespace) matches(m *members) bool {
	return ns.known && m.namespaceLabels.Matches(ns.labels)
}

// namespace returns the namespace of that name, which something has named, whether it is in the model or not.
func (c *Compiler) namespace(name string) *namespace {
	ns := c.namespaces[name]
	if ns == nil {
		ns = &namespace{pods: map[*pod]struct{}{}}
		c.namespaces[name] = ns
	}
	return ns
}

// forget drops a namespace that is no longer in the model, when nothing names it any more.
func (c *Compiler) forget(name string) {
	if ns := c.namespaces[name]; !ns.known && len(ns.pods) == 0 && ns.own == 0 {
		delete(c.namespaces, name)
	}
}

// soundPod is what is good of a pod.
type soundPod struct {
	ports []NamedPort
	addrs []netip.Addr // sorted
}

// checkPod returns nil for a pod that nobody can name.
func checkPod(p *Pod) (*soundPod, []error) {
	check := &checker{of: p.ID()}
	if !check.named(true) {
		return nil, check.errs
	}
	sound := &soundPod{check.namedPorts(p.Ports), check.addresses("status.podIPs", p.Addresses)}
	return sound, check.errs
}

func (c *Compiler) putPod(p *Pod, sound *soundPod) {
	known := c.pods[p.ID()]
	if known == nil {
		known = &pod{}
		c.pods[p.ID()] = known
		c.namespace(p.Namespace).pods[known] = struct{}{}
	} else {
		c.unclaim(known)
	}
	known.Pod, known.claims = *p, sound.addrs
	known.Ports = sound.ports
	c.claim(known)
	c.round.touch(known)
}

func (c *Compiler) dropPod(id ID) {
	if p := c.pods[id]; p != nil {
		c.unclaim(p)
		p.gone = true
		c.round.touch(p)
		delete(c.pods, id)
		delete(c.namespace(id.Namespace).pods, p)
		c.forget(id.Namespace)
	}
}

// claim puts p among those who claim its addresses; the first of them has it.
func (c *Compiler) claim(p *pod) {
	if !p.takesPart() {
		return
	}
	for _, a := range p.claims {
		list := c.claims[a]
		if len(list) == 0 {
			c.claims[a] = []*pod{p}
			continue
		}
		i, _ := slices.BinarySearchFunc(list, p, (*pod).precedence)
		if i == 0 {
			c.round.touch(list[0])
		}
		c.claims[a] = slices.Insert(list, i, p)
		c.round.claimed = append(c.round.claimed, a)
	}
}

func (c *Compiler) unclaim(p *pod) {
	if !p.takesPart() {
		return
	}
	for _, a := range p.claims {
		list := slices.DeleteFunc(c.claims[a], func(o *pod) bool { return o == p })
		if len(list) == 0 {
			delete(c.claims, a)
			continue
		}
		c.round.touch(list[0])
		c.claims[a] = list
	}
}

// contests reports the addresses that more than one pod claims since this round.
func (c *Compiler) contests() (errs []error) {
	slices.SortFunc(c.round.claimed, netip.Addr.Compare)
	for _, a := range slices.Compact(c.round.claimed) {
		for i, p := range c.claims[a] {
			if i > 0 {
				errs = append(errs, &podweft.FieldError{
					Field: p.ID().String() + ": status.podIPs", Value: a,
					Problem: fmt.Sprintf("is also that of %s, which has it", c.claims[a][0].ID()),
					Remedy:  "remove the pod that has ended",
				})
			}
		}
	}
	return errs
}

// putPolicy gives the policy its new form; without one it is gone.
func (c *Compiler) putPolicy(id ID, p *parsed) {
	s := c.policies[id]
	if s == nil && p == nil {
		return
	}
	if s == nil {
		s = &source{id: id}
		c.policies[id] = s
	}
	if p == nil {
		delete(c.policies, id)
		p = &parsed{id: id}
	}
	c.setSubject(s, p)
	for _, d := range directions {
		next := p.chains[d]
		if next == nil {
			next = &parsedChain{}
		}
		c.setChain(&s.chains[d-1], next)
	}
}

// setSubject sets what decides which classes pods have: whom the policy is about, when it is asked, and whether it does anything
// in a direction at all.
func (c *Compiler) setSubject(s *source, p *parsed) {
	var subject *members
	if len(p.chains) > 0 {
		subject = c.scope(p.subject)
	}
	same := s.subject == subject && s.tier == p.tier && s.priority == p.priority
	for _, d := range directions {
		same = same && (s.chains[d-1].Chain == nil) == (p.chains[d] == nil)
	}
	if same {
		return
	}
	if s.subject != nil {
		s.subject.subjectOf = slices.DeleteFunc(s.subject.subjectOf, func(o *source) bool { return o == s })
		c.touchPods(s.subject)
	}
	if subject != nil {
		subject.subjectOf = append(subject.subjectOf, s)
		c.touchPods(subject)
	}
	s.subject, s.tier, s.priority = subject, p.tier, p.priority
}

// touchPods touches the pods that m selects, and notes m itself.
func (c *Compiler) touchPods(m *members) {
	c.round.touchScope(m)
	for ns := range c.reach(m) {
		for p := range ns.pods {
			if m.podLabels.Matches(p.Labels) {
				c.round.touch(p)
			}
		}
	}
}

// reach yields the namespaces that m reaches into.
func (c *Compiler) reach(m *members) iter.Seq[*namespace] {
	return func(yield func(*namespace) bool) {
		if !m.wide {
			yield(c.namespace(m.namespace))
			return
		}
		for _, ns := range c.namespaces {
			if ns.matches(m) && !yield(ns) {
				return
			}
		}
	}
}

// setChain gives a chain its new content and counts who uses what it names.
func (c *Compiler) setChain(s *chain, next *parsedChain) {
	if reflect.DeepEqual(s.Chain, next.chain) {
		return
	}
	c.round.chains = append(c.round.chains, s)
	was, live := s.needs, b2i(s.live > 0)
	s.Chain, s.needs = next.chain, next.needs
	c.count(s.needs, +1, +live)
	c.count(was, -1, -live)
}

// count adds to the number of chains that name the sets of n, and to that of the live ones among them.
func (c *Compiler) count(n needs, users, live int) {
	for _, s := range n.peers {
		m := c.scope(s)
		m.users, m.live = m.users+users, m.live+live
		c.round.touchScope(m)
	}
	for _, set := range n.blocks {
		b := c.block(set)
		b.users, b.live = b.users+users, b.live+live
		c.round.blocks = append(c.round.blocks, b)
	}
	for _, key := range n.ports {
		u := c.port(key)
		u.users, u.live = u.users+users, u.live+live
		c.round.touchPort(u)
	}
}

// scope returns the scope, which something has named.
func (c *Compiler) scope(s scope) *members {
	m := c.scopes[s.scopeKey]
	if m != nil {
		return m
	}
	m = &members{scope: s, born: c.round.number}
	c.scopes[s.scopeKey] = m
	if s.wide {
		c.wide[s.scopeKey] = m
	} else {
		c.namespace(s.namespace).own++
	}
	for ns := range c.reach(m) {
		ns.scopes.add(m)
	}
	return m
}

func (c *Compiler) block(set *BlockSet) *block {
	b := c.blocks[set.Name]
	if b == nil {
		b = &block{set: set}
		c.blocks[set.Name] = b
	}
	return b
}

func (c *Compiler) port(key portKey) *named {
	u := c.ports[key]
	if u == nil {
		u = &named{portKey: key}
		c.ports[key] = u
	}
	return u
}
