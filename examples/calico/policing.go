package calico

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/gate"
	"github.com/podweft/podweft/policy/nftables"
)

// policing holds the node's pods to their policies.
type policing struct {
	cfg  Config
	gate *gate.Gate[nftables.Spec]

	mu     sync.Mutex
	closed []netip.Prefix // pods' addresses: closed to all while nobody has said whose they are
	spec   nftables.Spec  // as it was made last
	known  policy.Model   // as it was told last
	own    policy.Node
	wrong  []string // what the source has and cannot be read
}

// newPolicing knows of the pods that are there. Nothing is in force before the first read.
func newPolicing(cfg Config, part *part[nftables.Spec]) (*policing, error) {
	p := &policing{cfg: cfg}
	var err error
	p.gate, err = gate.New(gate.Config[nftables.Spec]{Node: cfg.Node, Loop: part.loop, Spec: p.specOf})
	if err != nil {
		return nil, err
	}
	attachments, err := local.Open(cfg.StateDir+"/attachments", "")
	if err != nil {
		return nil, err
	}
	records, problems, err := attachments.All(cfg.Network)
	if err != nil {
		return nil, err
	}
	for _, problem := range problems {
		cfg.Logger.Warn("attachment left out", "err", problem)
	}
	p.gate.Restore(records...)
	return p, nil
}

func (p *policing) specOf(rules *policy.Ruleset) nftables.Spec {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spec = nftables.Spec{Rules: rules, Closed: p.closed}
	return p.spec
}

// settle says which addresses are the node's own and which are its pods'.
func (p *policing) settle(v view) error {
	own := policy.Node{Name: p.cfg.Node, Addresses: slices.Collect(v.self.Underlay.All())}
	for _, w := range []way{byVXLAN, byIPIP} {
		own.Addresses = append(own.Addresses, v.tunnels[w]...)
	}
	closed := without(v.own, own.Addresses)
	p.mu.Lock()
	same := slices.Equal(closed, p.closed) && slices.Equal(own.Addresses, p.own.Addresses)
	p.closed, p.own = closed, own
	p.mu.Unlock()
	if same {
		return nil
	}
	return p.gate.Update(policy.Model{Nodes: []policy.Node{own}})
}

// read makes what the source has the policies in force. As long as something of it cannot be read, nothing is taken away: a policy that
// is being written anew must not be missing for a moment.
func (p *policing) read(ctx context.Context) error {
	m, err := p.cfg.Policies.Model(ctx)
	m.Nodes = slices.DeleteFunc(m.Nodes, func(n policy.Node) bool { return n.Name == p.cfg.Node })
	p.mu.Lock()
	var gone []policy.ID
	p.wrong = nil
	if err == nil {
		gone = missing(p.known, m)
		p.known = m
	} else {
		p.wrong = []string{oneLine(err)}
		p.known = joined(p.known, m)
	}
	p.mu.Unlock()
	if refused := p.gate.Update(m, gone...); refused != nil {
		p.mu.Lock()
		p.wrong = append(p.wrong, oneLine(refused))
		p.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("policies: %w", err)
	}
	return nil
}

// problems are what the source has and cannot be read.
func (p *policing) problems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.wrong)
}

// ids are the names of everything in a model.
func ids(m policy.Model) map[policy.ID]bool {
	all := map[policy.ID]bool{}
	for _, o := range m.Nodes {
		all[o.ID()] = true
	}
	for _, o := range m.Namespaces {
		all[o.ID()] = true
	}
	for _, o := range m.Pods {
		all[o.ID()] = true
	}
	for _, o := range m.Policies {
		all[o.ID()] = true
	}
	for _, o := range m.ClusterPolicies {
		all[o.ID()] = true
	}
	return all
}

// missing names what was there before and is not any more.
func missing(before, now policy.Model) (gone []policy.ID) {
	there := ids(now)
	for id := range ids(before) {
		if !there[id] {
			gone = append(gone, id)
		}
	}
	return gone
}

// joined is everything of two models, for its names.
func joined(a, b policy.Model) policy.Model {
	return policy.Model{
		Nodes: slices.Concat(a.Nodes, b.Nodes), Namespaces: slices.Concat(a.Namespaces, b.Namespaces), Pods: slices.Concat(a.Pods, b.Pods),
		Policies: slices.Concat(a.Policies, b.Policies), ClusterPolicies: slices.Concat(a.ClusterPolicies, b.ClusterPolicies),
	}
}

// without are prefixes less addresses, as few as that takes.
func without(prefixes []netip.Prefix, addrs []netip.Addr) (rest []netip.Prefix) {
	for _, p := range prefixes {
		switch {
		case !slices.ContainsFunc(addrs, p.Contains):
			rest = append(rest, p)
		case !p.IsSingleIP():
			rest = append(rest, without(halves(p), addrs)...)
		}
	}
	return rest
}

// halves are the two parts of a prefix.
func halves(p netip.Prefix) []netip.Prefix {
	high := p.Addr().AsSlice()
	high[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	second, _ := netip.AddrFromSlice(high)
	return []netip.Prefix{netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(second, p.Bits()+1)}
}
