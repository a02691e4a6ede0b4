package policy

import (
	"cmp"
	"slices"
)

// parsed is one policy by itself, of either kind: what it comes to before anybody knows which pods there are.
type parsed struct {
	id       ID
	tier     Tier
	priority int
	subject  scope
	chains   map[Direction]*parsedChain // only for directions in which it does something
}

// parsedChain is a Chain and what its Matches name.
type parsedChain struct {
	chain *Chain
	needs
}

// needs are the sets that Matches name.
type needs struct {
	peers  []scope
	blocks []*BlockSet
	ports  []portKey
}

func (n *needs) compact() {
	n.peers = slices.CompactFunc(slices.SortedFunc(slices.Values(n.peers), scope.compare), scope.equal)
	n.blocks = slices.CompactFunc(slices.SortedFunc(slices.Values(n.blocks), byName), sameName)
	n.ports = slices.Compact(slices.SortedFunc(slices.Values(n.ports), portKey.compare))
}

// portKey is a port that is known by name.
type portKey struct {
	protocol Protocol
	port     string
}

func (k portKey) setName() string { return hashed(portsName, k.protocol.String(), k.port) }

// parsePolicy returns nil for a policy of which nobody can tell whom it isolates.
func parsePolicy(p *Policy) (*parsed, []error) {
	c := &checker{of: p.ID()}
	if ok := c.named(true); !c.selector(at(spec).dot("podSelector"), p.Pods) || !ok {
		return nil, c.errs
	}
	for i, t := range p.Types {
		if t != Ingress && t != Egress {
			c.bad(at(spec).index("policyTypes", i), uint8(t), "is not a direction", "use Ingress or Egress")
		}
	}
	out := &parsed{id: c.of, tier: Namespaced, subject: ownScope(p.Namespace, p.Pods), chains: map[Direction]*parsedChain{}}
	for _, d := range directions {
		rules := acceptAll([...][]Rule{p.Ingress, p.Egress}[d-1])
		chain := c.chain(out, d, p.Namespace, rules) // also for what it finds wrong
		if p.isolates(d) {
			out.chains[d] = chain
		}
	}
	return out, c.errs
}

func acceptAll(rules []Rule) []ClusterRule {
	out := make([]ClusterRule, len(rules))
	for i, r := range rules {
		out[i] = ClusterRule{Action: Accept, Peers: r.Peers, Ports: r.Ports}
	}
	return out
}

// parseCluster returns nil for a policy of which nobody can tell when it is asked, or about whom.
func parseCluster(p *ClusterPolicy) (*parsed, []error) {
	c := &checker{of: p.ID()}
	ok := c.named(false)
	if p.Tier != Admin && p.Tier != Baseline {
		ok = c.bad(at(spec).dot("tier"), uint8(p.Tier), "is not a tier", "use Admin or Baseline")
	}
	if p.Priority < 0 || p.Priority > 1000 {
		ok = c.bad(at(spec).dot("priority"), p.Priority, "is out of range", "use 0 to 1000; 0 comes first")
	}
	ok = c.selector(at(spec).dot("subject.namespaces"), p.Subject.Namespaces) && ok
	if !c.selector(at(spec).dot("subject.pods.podSelector"), p.Subject.Pods) || !ok {
		return nil, c.errs
	}
	out := &parsed{id: c.of, tier: p.Tier, priority: p.Priority, subject: wideScope(p.Subject.Namespaces, p.Subject.Pods), chains: map[Direction]*parsedChain{}}
	for _, d := range directions {
		if rules := [...][]ClusterRule{p.Ingress, p.Egress}[d-1]; len(rules) > 0 {
			out.chains[d] = c.chain(out, d, "", rules)
		}
	}
	return out, c.errs
}

func (c *checker) chain(of *parsed, d Direction, namespace string, rules []ClusterRule) *parsedChain {
	p := &parsedChain{chain: &Chain{
		Name:      hashed(chainName, c.of.Kind.String(), c.of.Namespace, c.of.Name, d.String()),
		Policy:    c.of,
		Direction: d,
		Tier:      of.tier,
		Rules:     rules,
	}}
	for i := range rules {
		p.chain.Matches = append(p.chain.Matches, c.rule(p, i, namespace)...)
	}
	p.compact()
	return p
}

// rule turns one rule into Matches: each of its remote ends with each of its port conditions. What makes no sense never opens
// anything. A rule of a namespaced policy only allows, so a bad peer or port is left out. A bad one in a cluster policy spoils
// the rule: an Accept then matches nothing, and a Deny or a Pass denies everything, as its API demands of what an implementation
// does not understand (ClusterNetworkPolicyIngressPeer, "fail closed").
func (c *checker) rule(p *parsedChain, i int, namespace string) []Match {
	d, rule, cluster := p.chain.Direction, p.chain.Rules[i], c.of.Kind == KindClusterPolicy
	where := at(spec).index(d.String(), i)
	before, needs := len(c.errs), p.needs
	if cluster && (rule.Action < Accept || rule.Action > Pass) {
		c.bad(where.dot("action"), uint8(rule.Action), "is not an action", "use Accept, Deny or Pass")
	}
	if cluster && len(rule.Peers) == 0 {
		c.bad(where.dot(d.peers()), nil, "is missing", "{namespaces: {}} is every pod")
	}
	ends := c.ends(p, where, i, namespace)
	ports := c.ports(p, where, rule)
	spoilt := cluster && len(c.errs) > before
	if spoilt || len(ends) == 0 || len(ports) == 0 {
		p.needs = needs
	}
	if spoilt && rule.Action != Accept {
		return []Match{{Rule: i, Action: Deny}}
	} else if spoilt {
		return nil
	}
	var matches []Match
	for _, end := range ends {
		for _, port := range ports {
			m := end
			m.Rule, m.Action = i, rule.Action
			m.Protocol, m.Ports, m.PortNames = port.Protocol, port.Ports, port.PortNames
			matches = append(matches, m)
		}
	}
	return matches
}

// ends returns the remote ends of a rule, as Matches in which only that is set.
func (c *checker) ends(p *parsedChain, where at, rule int, namespace string) []Match {
	d, peers := p.chain.Direction, p.chain.Rules[rule].Peers
	if len(peers) == 0 {
		return []Match{{}} // everybody: not to be confused with peers of which none is sound
	}
	var ends []Match
	var blocks []*Block
	var blockPeers []int
	for i, peer := range peers {
		switch {
		case !c.peer(where.index(d.peers(), i), peer, d):
		case peer.Block != nil:
			blocks, blockPeers = append(blocks, peer.Block), append(blockPeers, i)
		default:
			pods := peerScope(namespace, peer)
			p.peers = append(p.peers, pods)
			name := pods.setName()
			same := slices.IndexFunc(ends, func(m Match) bool { return m.Peers == name })
			if same < 0 {
				same, ends = len(ends), append(ends, Match{Peers: name})
			}
			ends[same].PeersOfRule = append(ends[same].PeersOfRule, i)
		}
	}
	if len(blocks) > 0 {
		set := newBlockSet(blocks)
		p.blocks = append(p.blocks, set)
		ends = append(ends, Match{Blocks: set.Name, PeersOfRule: blockPeers})
	}
	return ends
}

// ports returns the port conditions of a rule, as Matches in which only that is set: one for the numbers of each protocol, and
// one for each name.
func (c *checker) ports(p *parsedChain, where at, rule ClusterRule) []Match {
	if len(rule.Ports) == 0 {
		return []Match{{}} // every protocol: not to be confused with ports of which none is sound
	}
	blocks := slices.ContainsFunc(rule.Peers, func(peer Peer) bool { return peer.Block != nil })
	whole := map[Protocol]bool{}
	numbers := map[Protocol][]PortRange{}
	var names []portKey
	for i, port := range rule.Ports {
		protocol := port.Protocol.orTCP()
		switch {
		case !c.port(where.index("ports", i), port, blocks):
		case port.Name != "":
			names = append(names, portKey{protocol, port.Name})
		case port.Number == 0:
			whole[protocol] = true
		default:
			numbers[protocol] = append(numbers[protocol], PortRange{port.Number, max(port.Number, port.End)})
		}
	}
	var matches []Match
	for _, protocol := range [...]Protocol{TCP, UDP, SCTP} {
		switch {
		case whole[protocol]:
			matches = append(matches, Match{Protocol: protocol})
		case len(numbers[protocol]) > 0:
			matches = append(matches, Match{Protocol: protocol, Ports: apart(numbers[protocol])})
		}
	}
	names = slices.Compact(slices.SortedFunc(slices.Values(names), portKey.compare))
	for _, key := range names {
		matches = append(matches, Match{Protocol: key.protocol, PortNames: key.setName()})
	}
	p.ports = append(p.ports, names...)
	return matches
}

// apart sorts ranges and joins those that overlap or touch.
func apart(all []PortRange) []PortRange {
	slices.SortFunc(all, func(a, b PortRange) int { return cmp.Compare(a.From, b.From) })
	out := all[:1]
	for _, r := range all[1:] {
		if last := &out[len(out)-1]; int(r.From) <= int(last.To)+1 {
			last.To = max(last.To, r.To)
		} else {
			out = append(out, r)
		}
	}
	return out
}

func newBlockSet(blocks []*Block) *BlockSet {
	set := &BlockSet{Ranges: ranges(blocks)}
	parts := make([]string, 0, 2*len(set.Ranges))
	for _, r := range set.Ranges {
		parts = append(parts, r.From.String(), r.To.String())
	}
	set.Name = hashed(blocksName, parts...)
	return set
}

func (k portKey) compare(o portKey) int {
	return cmp.Or(cmp.Compare(k.protocol, o.protocol), cmp.Compare(k.port, o.port))
}
