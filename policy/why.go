package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// Why is how a [Verdict] came about: what each end decided. Both must allow.
type Why struct {
	Packet          Packet
	Egress, Ingress Decision
}

// Decision is what one end of a connection decided.
type Decision struct {
	Verdict Verdict
	Reason  Reason
	// Pod is who is at this end; zero where the address is no pod's.
	Pod ID
	// Policy is the one that decided, with Reason ByRule; Rule is the index of its rule and Peer that of the rule's peer, -1 where
	// peers do not matter to the rule. Match says the same for people: "ingress[0].from[1], pods role=client in namespace default".
	Policy     ID
	Rule, Peer int
	Match      string
	// Isolated are the policies that isolate the pod, none of which allows the packet, with Reason NoRule.
	Isolated []ID
}

// Reason is a sort of [Decision].
type Reason uint8

const (
	// NotAPacket says that addresses are missing or of two families.
	NotAPacket Reason = iota
	// NoPod says that no pod that is judged here has this address.
	NoPod
	// NoPolicy speaks of this: none selects the pod, or of those of cluster policies no rule matches.
	NoPolicy
	// OwnNode says that the other end is the node that the pod runs on.
	OwnNode
	// Self says that the pod talks with itself.
	Self
	// ByRule says that a rule of a policy decided.
	ByRule
	// NoRule says that policies isolate the pod, and none of them allows it.
	NoRule
)

// decide notes the match that decides.
func (d *Decision) decide(chain *Chain, m *Match, remote netip.Addr) {
	d.Reason, d.Verdict = ByRule, Denied
	if m.Action == Accept {
		d.Verdict = Allowed
	}
	d.Policy, d.Rule, d.Peer = chain.Policy, m.Rule, m.peer(chain, remote)
	d.Match = chain.ruleName(m.Rule)
	if d.Peer >= 0 {
		d.Match += fmt.Sprintf(".%s[%d], %s", chain.Direction.peers(), d.Peer, chain.peerText(m.Rule, d.Peer))
	}
}

// peer returns which of the rule's peers the remote address is, the first of several, or -1.
func (m *Match) peer(chain *Chain, remote netip.Addr) int {
	peers := chain.rule(m.Rule).Peers
	for _, i := range m.PeersOfRule {
		if i < len(peers) && (peers[i].Block == nil || peers[i].Block.contains(remote)) {
			return i
		}
	}
	return -1
}

// rule returns rule i as its author wrote it. Where a Ruleset of somebody's own making does not have it, it is an empty one.
func (c *Chain) rule(i int) ClusterRule {
	if i < len(c.Rules) {
		return c.Rules[i]
	}
	return ClusterRule{}
}

// ruleName is where the rule stands: `ingress[0]`, `egress[2] "to the database"`.
func (c *Chain) ruleName(i int) string {
	name := fmt.Sprintf("%s[%d]", c.Direction, i)
	if of := c.rule(i).Name; of != "" {
		name += fmt.Sprintf(" %q", of)
	}
	return name
}

func (c *Chain) peerText(rule, peer int) string {
	text := c.Rules[rule].Peers[peer].String()
	if p := c.Rules[rule].Peers[peer]; p.Block == nil && p.Namespaces == nil {
		text += " in namespace " + c.Policy.Namespace
	}
	return text
}

// String is what one end decided, in one line.
func (d Decision) String() string {
	switch d.Reason {
	case NotAPacket:
		return "no packet has such addresses"
	case NoPod:
		return "no pod of ours"
	case NoPolicy:
		return fmt.Sprintf("%s: no policy speaks of it", d.Pod)
	case OwnNode:
		return fmt.Sprintf("%s: talks with its own node", d.Pod)
	case Self:
		return fmt.Sprintf("%s: talks with itself", d.Pod)
	case ByRule:
		return fmt.Sprintf("%s: %s by %s, %s", d.Pod, d.Verdict, d.Policy, d.Match)
	case NoRule:
		return fmt.Sprintf("%s: isolated by %s, and nothing there allows it", d.Pod, list(d.Isolated))
	}
	return "unknown reason"
}

func list(ids []ID) string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = id.String()
	}
	return strings.Join(names, ", ")
}

// Verdict is that of both ends together.
func (w Why) Verdict() Verdict { return min(w.Egress.Verdict, w.Ingress.Verdict) }

// String is the verdict and what each end decided, in three lines.
func (w Why) String() string {
	return fmt.Sprintf("%s: %s\n  egress  %s\n  ingress %s\n", w.Packet, w.Verdict(), w.Egress, w.Ingress)
}

// Explain says what becomes of a packet as text that a person reads: the verdict, what each end decided, and where nothing
// allows the packet, what each rule lacks for that.
func (r *Ruleset) Explain(p Packet) string {
	_, why := r.Evaluate(p)
	var b strings.Builder
	b.WriteString(why.String())
	r.explain(&b, Egress, why.Egress, why.Packet.Dst, why.Packet)
	r.explain(&b, Ingress, why.Ingress, why.Packet.Src, why.Packet)
	return b.String()
}

// explain writes what the rules that could have allowed the packet lack.
func (r *Ruleset) explain(b *strings.Builder, d Direction, decision Decision, remote netip.Addr, p Packet) {
	for _, id := range decision.Isolated {
		chain := r.chainOf(id, d)
		if len(chain.Rules) == 0 {
			fmt.Fprintf(b, "  %s allows no %s at all\n", id, d)
		}
		for i := range chain.Rules {
			fmt.Fprintf(b, "  %s, %s: %s\n", id, chain.ruleName(i), r.lacking(chain, i, remote, p))
		}
	}
}

func (r *Ruleset) chainOf(id ID, d Direction) *Chain {
	for _, c := range r.Chains {
		if c.Policy == id && c.Direction == d {
			return c
		}
	}
	return &Chain{}
}

// lacking says why rule i does not match.
func (r *Ruleset) lacking(chain *Chain, i int, remote netip.Addr, p Packet) string {
	var peer, port, some bool
	for j := range chain.Matches {
		if m := &chain.Matches[j]; m.Rule == i {
			some = true
			peer = peer || r.remoteIn(m, remote)
			port = port || r.portIn(m, p)
		}
	}
	end := map[Direction]string{Ingress: "source", Egress: "destination"}[chain.Direction]
	switch {
	case !some:
		return "makes no sense, and so allows nothing"
	case port:
		return fmt.Sprintf("the %s %s is none of: %s", end, remote, chain.peersText(i))
	case peer:
		return fmt.Sprintf("allows the %s, but only on: %s", end, chain.portsText(i))
	}
	return fmt.Sprintf("the %s %s is none of: %s; and only allows: %s", end, remote, chain.peersText(i), chain.portsText(i))
}

func (c *Chain) peersText(rule int) string {
	var texts []string
	for i := range c.Rules[rule].Peers {
		texts = append(texts, c.peerText(rule, i))
	}
	return strings.Join(texts, "; ")
}

func (c *Chain) portsText(rule int) string {
	var texts []string
	for _, p := range c.Rules[rule].Ports {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ", ")
}
