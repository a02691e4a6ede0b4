package policy

import (
	"net/netip"
	"slices"
)

// finish settles what this round has touched, so that everything counted comes out right before anything is shown.
func (c *Compiler) finish() {
	for _, n := range c.round.nodes {
		c.settleNode(n)
	}
	for _, p := range c.round.pods {
		c.round.newcomers += b2i(p.settled == 0 && !p.gone)
		c.settlePod(p)
	}
	// None of these writes anything that another looks at.
	rest := []func(){c.finishEndpoints, c.finishPorts, c.finishScopes, c.finishOthers}
	if len(c.round.pods) >= many {
		sideBySide(rest...)
		return
	}
	for _, f := range rest {
		f()
	}
}

func (c *Compiler) finishEndpoints() {
	c.shown.endpoints.flush(Endpoint.Compare, Endpoint.addr)
}

func (c *Compiler) finishPorts() {
	for _, u := range c.round.named {
		c.settlePort(u)
	}
	c.shown.portSets.flush(byName)
}

func (c *Compiler) finishScopes() {
	for _, m := range c.round.scopes {
		c.settleScope(m)
	}
	c.shown.peerSets.flush(byName)
}

func (c *Compiler) finishOthers() {
	for _, b := range c.round.blocks {
		show(&c.shown.blockSets.edits, b.set, b.live > 0)
		if b.users == 0 {
			delete(c.blocks, b.set.Name)
		}
	}
	for _, s := range c.round.chains {
		c.showChain(s)
	}
	for _, k := range c.round.classes {
		show(&c.shown.classes.edits, k.Class, k.live > 0)
		if k.live == 0 && c.classes[k.key] == k {
			delete(c.classes, k.key)
		}
	}
	t := &c.shown
	t.locals.flush(Local.compare)
	t.classes.flush(byName)
	t.chains.flush(byName)
	t.blockSets.flush(byName)
}

// show puts an object into a table, or takes it out.
func show[T comparable](in *edits[T], object T, there bool) {
	if there {
		in.add = append(in.add, object)
	} else {
		in.gone = append(in.gone, object)
	}
}

func (c *Compiler) settleNode(n *node) {
	for _, a := range n.shown {
		show(&c.shown.locals.edits, Local{a, n.name}, false)
	}
	if n.shown = nil; c.here(n.name) {
		n.shown = n.addrs
	}
	for _, a := range n.shown {
		show(&c.shown.locals.edits, Local{a, n.name}, true)
	}
}

// settlePod brings every table that has something of p up to date.
func (c *Compiler) settlePod(p *pod) {
	var scopes []*members
	var addrs []netip.Addr
	var ports []NamedPort
	if p.takesPart() {
		addrs, ports = c.owned(p), p.Ports
		c.scratch.scopes = c.namespace(p.Namespace).scopes.of(p.Labels, c.scratch.scopes[:0])
		scopes = slices.Clone(c.scratch.scopes)
	}
	moved := !slices.Equal(addrs, p.addrs)
	c.moveScopes(p, scopes, addrs, moved)
	if moved || !slices.Equal(ports, p.ports) {
		c.eachPort(p.ports, p.addrs, func(u *named, a AddrPort) { show(&u.elements.edits, a, false) })
		c.eachPort(ports, addrs, func(u *named, a AddrPort) { show(&u.elements.edits, a, true) })
	}
	judged := c.judge(p, scopes, len(addrs) > 0)
	if moved || judged != p.judged {
		if p.judged != nil {
			for _, a := range p.addrs {
				show(&c.shown.endpoints.edits, Endpoint{Addr: a}, false)
			}
		}
		if judged != nil {
			for _, a := range addrs {
				show(&c.shown.endpoints.edits, Endpoint{a, judged}, true)
			}
		}
	}
	p.settled, p.scopes, p.addrs, p.ports, p.judged = c.round.number, scopes, addrs, ports, judged
}

// owned returns the addresses of p that no other pod has before it.
func (c *Compiler) owned(p *pod) []netip.Addr {
	lost := func(a netip.Addr) bool { return c.claims[a][0] != p }
	if !slices.ContainsFunc(p.claims, lost) {
		return p.claims
	}
	return slices.DeleteFunc(slices.Clone(p.claims), lost)
}

// moveScopes takes p out of the scopes that it has left and puts it into those that it has entered.
func (c *Compiler) moveScopes(p *pod, scopes []*members, addrs []netip.Addr, moved bool) {
	c.mark++
	for _, m := range scopes {
		m.mark = c.mark
	}
	entered := c.mark
	c.mark++
	for _, m := range p.scopes {
		if m.mark == entered && !moved {
			m.mark = c.mark // and stays
			continue
		}
		if m.users > 0 {
			m.addrs.gone = append(m.addrs.gone, p.addrs...)
			c.round.touchScope(m)
		}
	}
	for _, m := range scopes {
		if m.mark == entered && m.users > 0 {
			m.addrs.add = append(m.addrs.add, addrs...)
			c.round.touchScope(m)
		}
	}
}

// eachPort calls do for every element of PortSets that comes from ports at addrs.
func (c *Compiler) eachPort(ports []NamedPort, addrs []netip.Addr, do func(*named, AddrPort)) {
	for _, port := range ports {
		u := c.ports[portKey{port.Protocol, port.Name}]
		if u == nil {
			continue
		}
		for _, a := range addrs {
			do(u, AddrPort{a, port.Number})
		}
		c.round.touchPort(u)
	}
}

// judge says who judges p, which is nil where p is no endpoint, and counts its classes.
func (c *Compiler) judge(p *pod, scopes []*members, addressed bool) *Judged {
	endpoint := addressed && c.here(p.Node)
	for _, d := range directions {
		var next *class
		if endpoint {
			next = c.class(d, scopes)
		}
		if was := p.classes[d-1]; next != was {
			p.classes[d-1] = next
			c.enliven(next, +1)
			c.enliven(was, -1)
		}
	}
	if !endpoint {
		return nil
	}
	now := Judged{p.Namespace, p.Name, p.Node, p.classes[Ingress-1].className(), p.classes[Egress-1].className()}
	if p.judged != nil && *p.judged == now {
		return p.judged
	}
	return &now
}

// class returns the class of a pod that is in scopes, nil where nobody speaks of it.
func (c *Compiler) class(d Direction, scopes []*members) *class {
	sources := c.scratch.sources[:0]
	for _, m := range scopes {
		for _, s := range m.subjectOf {
			if s.chains[d-1].Chain != nil {
				sources = append(sources, s)
			}
		}
	}
	c.scratch.sources = sources
	if len(sources) == 0 {
		return nil
	}
	slices.SortFunc(sources, (*source).precedence)
	if baseline := slices.IndexFunc(sources, func(s *source) bool { return s.tier == Baseline }); baseline > 0 && sources[baseline-1].tier == Namespaced {
		sources = sources[:baseline]
	}
	key := c.scratch.key[:0]
	for _, s := range sources {
		key = append(key, byte(s.tier)) // which a policy may change
		key = append(key, s.chains[d-1].Name...)
	}
	c.scratch.key = key
	k := c.classes[string(key)]
	if k == nil {
		k = &class{Class: newClass(d, sources), key: string(key)}
		for _, s := range sources {
			k.chains = append(k.chains, &s.chains[d-1])
		}
		c.classes[k.key] = k
	}
	return k
}

// enliven counts a pod that comes to a class or leaves it.
func (c *Compiler) enliven(k *class, pods int) {
	if k == nil {
		return
	}
	was := b2i(k.live > 0)
	k.live += pods
	change := b2i(k.live > 0) - was
	if change == 0 {
		return
	}
	c.round.classes = append(c.round.classes, k)
	for _, s := range k.chains {
		was := b2i(s.live > 0)
		s.live += change
		if change := b2i(s.live > 0) - was; change != 0 {
			c.round.chains = append(c.round.chains, s)
			c.count(s.needs, 0, change)
		}
	}
}

// showChain shows what the chain has become. A chain that is no more is no longer live.
func (c *Compiler) showChain(s *chain) {
	if s.shown != nil {
		show(&c.shown.chains.edits, s.shown, false)
	}
	if s.shown = nil; s.live > 0 {
		s.shown = s.Chain
		show(&c.shown.chains.edits, s.shown, true)
	}
}

func (c *Compiler) settleScope(m *members) {
	if m.users == 0 {
		if m.set != nil {
			show(&c.shown.peerSets.edits, m.set, false)
		}
		m.set, m.addrs = nil, longTable[netip.Addr]{}
		if len(m.subjectOf) == 0 {
			c.forgetScope(m)
		}
		return
	}
	if m.set == nil {
		c.fillScope(m)
	}
	if changed := m.addrs.flush(netip.Addr.Compare, itself); changed || m.set == nil {
		m.set = &PeerSet{Name: m.setName(), Text: m.String(), Addrs: m.addrs.list}
	}
	show(&c.shown.peerSets.edits, m.set, m.live > 0)
}

// fillScope adds the pods that have not said by themselves that they are in m: those that were there before it, or that were in it
// when nobody used it.
func (c *Compiler) fillScope(m *members) {
	fresh := m.born == c.round.number
	if fresh && c.allNew() {
		return
	}
	for ns := range c.reach(m) {
		for p := range ns.pods {
			said := fresh && p.settled == c.round.number
			if said || !p.takesPart() || !m.podLabels.Matches(p.Labels) {
				continue
			}
			if !slices.Contains(p.scopes, m) {
				p.scopes = append(p.scopes, m)
			}
			m.addrs.add = append(m.addrs.add, p.addrs...)
		}
	}
}

// allNew reports whether every pod there is came in this round, as in a Compiler's first: all of them have said where they are.
func (c *Compiler) allNew() bool { return c.round.newcomers == len(c.pods) }

func (c *Compiler) forgetScope(m *members) {
	if c.scopes[m.scopeKey] != m {
		return
	}
	for ns := range c.reach(m) {
		ns.scopes.remove(m)
		for p := range ns.pods {
			p.scopes = slices.DeleteFunc(p.scopes, func(o *members) bool { return o == m })
		}
	}
	delete(c.scopes, m.scopeKey)
	if m.wide {
		delete(c.wide, m.scopeKey)
		return
	}
	c.namespace(m.namespace).own--
	c.forget(m.namespace)
}

func (c *Compiler) settlePort(u *named) {
	if u.users == 0 {
		if u.set != nil {
			show(&c.shown.portSets.edits, u.set, false)
		}
		u.set = nil
		delete(c.ports, u.portKey)
		return
	}
	if u.set == nil {
		c.fillPort(u)
	}
	if changed := u.elements.flush(AddrPort.Compare, AddrPort.addr); changed || u.set == nil {
		u.set = &PortSet{Name: u.setName(), Protocol: u.protocol, Port: u.port, Elements: u.elements.list}
	}
	show(&c.shown.portSets.edits, u.set, u.live > 0)
}

// fillPort adds the pods that were there before anybody called a port so.
func (c *Compiler) fillPort(u *named) {
	if c.allNew() {
		return
	}
	for _, p := range c.pods {
		for _, port := range p.ports {
			if port.Protocol != u.protocol || port.Name != u.port {
				continue
			}
			for _, a := range p.addrs {
				u.elements.add = append(u.elements.add, AddrPort{a, port.Number})
			}
		}
	}
}
