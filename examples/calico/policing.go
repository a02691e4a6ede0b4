package calico

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/podweft/podweft/kube"
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
	closed []netip.Prefix     // pods' addresses: closed to all while nobody has said whose they are
	spec   nftables.Spec      // as it was made last
	known  map[policy.ID]bool // what it was told of
	own    policy.Node
	wrong  map[policy.ID]string         // what the source has and cannot be read
	labels map[string]map[string]string // of namespaces
}

// newPolicing knows of nobody. Nothing is in force before the first list.
func newPolicing(cfg Config, part *part[nftables.Spec]) (*policing, error) {
	p := &policing{cfg: cfg, known: map[policy.ID]bool{}, wrong: map[policy.ID]string{}, labels: map[string]map[string]string{}}
	var err error
	p.gate, err = gate.New(gate.Config[nftables.Spec]{Node: cfg.Node, Loop: part.loop, Spec: p.specOf})
	return p, err
}

// remember tells of the pods that are there, where no Agent of package cniplugin does.
func (p *policing) remember() error {
	attachments, err := local.Open(p.cfg.StateDir+"/attachments", "")
	if err != nil {
		return err
	}
	records, problems, err := attachments.All("")
	p.gate.Restore(records...)
	return errors.Join(append(problems, err)...)
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

// list has in force what the source has now.
func (p *policing) list(ctx context.Context) error {
	c, err := p.cfg.Policies.List(ctx)
	if err == nil {
		p.takeAll(ctx, c)
	}
	return err
}

// follow has in force what the source tells, until ctx ends or it cannot be watched any more.
func (p *policing) follow(ctx context.Context) error {
	take := p.takeAll
	for c, err := range p.cfg.Policies.Watch(ctx) {
		if err != nil {
			return err
		}
		take(ctx, c)
		take = p.take
	}
	return nil
}

// takeAll takes changes that are everything there is. What was there before and is not among it is gone, if all of it could be read.
func (p *policing) takeAll(ctx context.Context, c kube.Changes) {
	p.mu.Lock()
	before := maps.Clone(p.known)
	p.mu.Unlock()
	if whole := !slices.ContainsFunc(c.Problems, func(err error) bool { return about(err) == policy.ID{} }); whole {
		c.Gone = append(slices.Clone(c.Gone), missing(before, ids(c.Put))...)
	}
	p.take(ctx, c)
}

// take takes changes. This node is not for others to describe.
func (p *policing) take(ctx context.Context, c kube.Changes) {
	own := policy.Node{Name: p.cfg.Node}.ID()
	c.Put.Nodes = slices.DeleteFunc(slices.Clone(c.Put.Nodes), func(n policy.Node) bool { return n.ID() == own })
	c.Gone = slices.DeleteFunc(slices.Clone(c.Gone), func(id policy.ID) bool { return id == own })
	p.mu.Lock()
	delete(p.wrong, policy.ID{})
	for _, id := range c.Gone {
		delete(p.known, id)
		delete(p.wrong, id)
		if id.Kind == policy.KindNamespace {
			delete(p.labels, id.Name)
		}
	}
	for _, n := range c.Put.Namespaces {
		p.labels[n.Name] = n.Labels
	}
	for id := range ids(c.Put) {
		p.known[id] = true
		delete(p.wrong, id)
	}
	for _, err := range c.Problems {
		p.wrong[about(err)] = oneLine(err)
	}
	p.mu.Unlock()
	for _, err := range c.Problems {
		p.cfg.Logger.WarnContext(ctx, "not all is in force", "err", err)
	}
	if err := p.gate.Update(c.Put, c.Gone...); err != nil && len(c.Problems) == 0 {
		p.cfg.Logger.WarnContext(ctx, "not all is in force", "err", err)
		p.mu.Lock()
		p.wrong[policy.ID{}] = oneLine(err)
		p.mu.Unlock()
	}
}

// labelsOf are a namespace's; it may not be known.
func (p *policing) labelsOf(namespace string) (labels map[string]string, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	labels, known = p.labels[namespace]
	return labels, known
}

// about is the object that a problem is about; zero where it is about none.
func about(err error) policy.ID {
	if of, ok := errors.AsType[*kube.Problem](err); ok {
		return of.ID
	}
	return policy.ID{}
}

// problems are what the source has and cannot be read.
func (p *policing) problems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Values(p.wrong))
}

// untold are the node's pods that the source has not told of. Whoever starts to have policies has them closed, where those pods run already.
func (p *policing) untold() (problems []string, err error) {
	if absent(p.cfg.StateDir + "/attachments") {
		return nil, nil
	}
	attachments, err := local.Open(p.cfg.StateDir+"/attachments", "")
	if err != nil {
		return nil, err
	}
	records, wrong, err := attachments.All(p.cfg.Network)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range records {
		if !p.known[policy.ID{Kind: policy.KindPod, Namespace: r.Pod.Namespace, Name: r.Pod.Name}] {
			name := r.Container
			if r.Pod.Name != "" {
				name = r.Pod.Namespace + "/" + r.Pod.Name
			}
			problems = append(problems, fmt.Sprintf("pod %s: closed to all, since nobody has told of it", name))
		}
	}
	slices.Sort(problems)
	return slices.Compact(problems), errors.Join(append(wrong, err)...)
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
