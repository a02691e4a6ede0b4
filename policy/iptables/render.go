package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/enforce"
)

// renderer turns a Spec into the image of one family.
type renderer struct {
	family
	names names
	group uint16 // of NFLOG
	spec  Spec
	rules *policy.Ruleset
	uses  map[string]use // by the names of sets in the Ruleset
	im    *image
}

// render returns what should be there for spec. A family in which there is no pod and nothing is closed needs nothing.
func (cfg Config) render(f family, spec Spec) *image {
	r := &renderer{family: f, names: cfg.names(), group: cfg.LogGroup, spec: spec, rules: spec.Rules, uses: map[string]use{}, im: newImage(f)}
	if spec.Rules != nil && r.concerned() {
		r.frame()
		r.policies()
		r.members()
		r.im.prune()
	}
	return r.im
}

func (r *renderer) concerned() bool {
	for e := range r.rules.Endpoints.All() {
		if r.has(e.Addr) {
			return true
		}
	}
	return len(r.closedHere()) > 0
}

// closedHere are the prefixes of this family that are closed.
func (r *renderer) closedHere() []netip.Prefix {
	return slices.DeleteFunc(enforce.Disjoint(r.spec.Closed), func(p netip.Prefix) bool { return !r.has(p.Addr()) })
}

const hook = "POSTROUTING"

// The names of chains and sets of the frame.
const (
	start     = "policies"
	knownSet  = "-known"
	nodeSet   = "-node"
	closedSet = "-closed"
)

func classesChain(d policy.Direction) string { return d.String() + "-classes" }
func closedChain(d policy.Direction) string  { return d.String() + "-closed" }
func judgedSet(d policy.Direction) string    { return "-" + d.String() }

// frame is what is there whatever the policies are.
func (r *renderer) frame() {
	r.im.first, r.im.jumps = true, []string{jumpHere(r.names)}
	root := r.names.frame(start)
	r.add(root, meaning{}, "-m conntrack --ctstate RELATED,ESTABLISHED", comment("replies, and what follows"), "-j RETURN")
	for _, d := range directions {
		chain, classes, closed := r.names.frame(d.String()), r.names.frame(classesChain(d)), r.names.frame(closedChain(d))
		r.add(root, meaning{}, "-j "+chain)
		r.add(chain, meaning{}, r.in(judgedSet(d), own(d)), comment("pods that policies speak of"), "-g "+classes)
		r.im.chains[classes] = nil
		if len(r.closedHere()) > 0 {
			r.add(chain, meaning{}, r.in(closedSet, own(d)), r.notIn(knownSet, own(d)), comment("addresses of no known pod"), "-g "+closed)
			if d == policy.Egress {
				r.add(closed, meaning{}, "-m addrtype --src-type LOCAL", comment("the node has addresses there too"), "-j RETURN")
			}
			r.own(closed, d)
			r.deny(closed, meaning{Counts: true, Direction: d, Unknown: true}, "no known pod", "no known pod")
		}
	}
}

// jumpHere is the rule that leads to all of ours.
func jumpHere(n names) string {
	return comment("podweft policies") + " -j " + n.frame(start)
}

// policies are the chains of classes, and what leads to them.
func (r *renderer) policies() {
	for _, c := range r.rules.Classes {
		classes := r.names.frame(classesChain(c.Direction))
		r.add(classes, meaning{}, r.in(c.Name, own(c.Direction)), "-g "+r.names.class(c.Name))
		r.class(c)
	}
	for _, d := range directions {
		// Nobody comes here: before a pod is in the set that leads to classes it is in one.
		r.deny(r.names.frame(classesChain(d)), meaning{Counts: true, Direction: d, Unknown: true}, "no class yet", "no class yet")
	}
}

// class is all policies of some pods. Where something may deny, what no policy may deny is let through before; where packets are
// dropped because nothing has allowed them, just before that, which costs the others nothing.
func (r *renderer) class(c *policy.Class) {
	chain := r.names.class(c.Name)
	ordered := len(c.Admin)+len(c.Baseline) > 0
	if r.im.chains[chain] = nil; ordered {
		r.own(chain, c.Direction)
	}
	pass := "-j RETURN"
	split := len(c.Policies)+len(c.Baseline) > 0 && slices.ContainsFunc(c.Admin, func(name string) bool { return mayPass(r.chainOf(name)) })
	if split {
		pass = "-g " + r.names.next(c.Name)
	}
	for _, name := range c.Admin {
		r.matches(chain, r.chainOf(name), pass)
	}
	if split {
		r.add(chain, meaning{}, pass)
		chain = r.names.next(c.Name)
	}
	for _, name := range slices.Concat(c.Policies, c.Baseline) {
		r.matches(chain, r.chainOf(name), "-j RETURN")
	}
	if len(c.Policies) == 0 {
		return // what nothing has decided passes
	}
	if !ordered {
		r.own(chain, c.Direction)
	}
	var who []policy.ID
	for _, name := range c.Policies {
		who = append(who, r.chainOf(name).Policy)
	}
	why := "isolated by " + joined(who)
	r.deny(chain, meaning{Counts: true, Direction: c.Direction, Isolated: who}, why, why)
}

func mayPass(c *policy.Chain) bool {
	return slices.ContainsFunc(c.Matches, func(m policy.Match) bool { return m.Action == policy.Pass })
}

// matches are the rules of a policy; pass is where those go on that pass.
func (r *renderer) matches(into string, c *policy.Chain, pass string) {
	for i := range c.Matches {
		m := &c.Matches[i]
		what := meaning{Counts: true, Policy: c.Policy, Direction: c.Direction, Rule: m.Rule, Action: m.Action}
		why := fmt.Sprintf("%s %s[%d]", c.Policy, c.Direction, m.Rule)
		for _, set := range []string{m.Peers, m.PortNames} {
			r.uses[set] |= [...]use{policy.Accept: accepts, policy.Deny: denies, policy.Pass: passes}[m.Action]
		}
		for _, conditions := range r.conditions(c.Direction, m) {
			switch m.Action {
			case policy.Deny:
				r.deny(into, what, c.Policy.String(), why, conditions...)
			case policy.Pass:
				r.add(into, what, append(conditions, comment(why), pass)...)
			default:
				r.add(into, what, append(conditions, comment(why), "-j RETURN")...)
			}
		}
	}
}

// conditions are those of one rule, or of several where the match has more ports than one can have.
func (r *renderer) conditions(d policy.Direction, m *policy.Match) [][]string {
	var all []string
	if m.Protocol != 0 {
		all = append(all, "-p "+strings.ToLower(m.Protocol.String()))
	}
	if m.Peers+m.Blocks != "" {
		all = append(all, r.in(m.Peers+m.Blocks, remote(d)))
	}
	if m.PortNames != "" {
		all = append(all, r.in(m.PortNames, "dst,dst"))
	}
	if len(m.Ports) == 0 {
		return [][]string{all}
	}
	var rules [][]string
	for _, ports := range portLists(m.Ports) {
		rules = append(rules, append(slices.Clip(all), "-m multiport --dports "+ports))
	}
	return rules
}

// portSlots is how many ports a multiport has room for (XT_MULTI_PORTS); a range takes two.
const portSlots = 15

func portLists(ports []policy.PortRange) (lists []string) {
	var list []string
	free := portSlots
	for _, p := range ports {
		text, slots := strconv.Itoa(int(p.From)), 1
		if p.To > p.From {
			text, slots = text+":"+strconv.Itoa(int(p.To)), 2
		}
		if slots > free {
			lists, list, free = append(lists, strings.Join(list, ",")), nil, portSlots
		}
		list, free = append(list, text), free-slots
	}
	return append(lists, strings.Join(list, ","))
}

// own lets through what no policy may deny.
func (r *renderer) own(into string, d policy.Direction) {
	r.add(into, meaning{}, r.in(nodeSet, remote(d)), comment("the node of the pod"), "-j RETURN")
	if d == policy.Ingress {
		r.add(into, meaning{}, "-m addrtype --src-type LOCAL", comment("the node of the pod, whichever of its addresses"), "-j RETURN")
	}
	r.add(into, meaning{}, bpf(r.toItself), comment("the pod itself"), "-j RETURN")
	if r.digit == '6' {
		// What ports of one bridge need to find each other (RFC 4861, section 4) and conntrack does not follow. It is never
		// forwarded, and forwarding lowers the hop limit.
		r.add(into, meaning{}, "-p ipv6-icmp -m hl --hl-eq 255", bpf(neighborDiscovery), comment("neighbours on a bridge"), "-j RETURN")
	}
}

// deny drops what meets the conditions, or does all but that.
func (r *renderer) deny(into string, what meaning, logged, why string, conditions ...string) {
	conditions = slices.Clip(conditions)
	if r.group != 0 {
		prefix := fmt.Sprintf("podweft %s: %s", what.Direction, logged)
		r.add(into, meaning{}, append(conditions, comment(why), fmt.Sprintf("-j NFLOG --nflog-prefix %s --nflog-group %d", quoted(prefix, logLength), r.group))...)
	}
	end := "-j DROP"
	if r.spec.Audit {
		end = "-j RETURN"
	}
	r.add(into, what, append(conditions, comment(why), end)...)
}

// add appends a rule to a chain. Which sets it leads to is in its text.
func (r *renderer) add(chain string, what meaning, parts ...string) {
	text := strings.Join(parts, " ")
	r.im.chains[chain] = append(r.im.chains[chain], rule{text: text, sets: setsIn(text), meaning: what})
}

func (r *renderer) in(set, side string) string {
	return "-m set --match-set " + r.names.set(r.family, set) + " " + side
}

func (r *renderer) notIn(set, side string) string {
	return "-m set ! --match-set " + r.names.set(r.family, set) + " " + side
}

// members are what is in the sets.
func (r *renderer) members() {
	for _, d := range directions {
		r.set(judgedSet(d), ipKind, judges, "pods that policies speak of in "+d.String())
	}
	r.set(knownSet, ipKind, knows, "pods that are known")
	for e := range r.rules.Endpoints.All() {
		r.address(knownSet, e.Addr)
		for d, class := range map[policy.Direction]string{policy.Ingress: e.Pod.Ingress, policy.Egress: e.Pod.Egress} {
			if class != "" {
				r.set(class, ipKind, classifies, "pods of a class in "+d.String())
				r.address(class, e.Addr)
				r.address(judgedSet(d), e.Addr)
			}
		}
	}
	for _, c := range r.rules.Classes {
		r.set(c.Name, ipKind, classifies, "pods of a class in "+c.Direction.String())
	}
	r.set(nodeSet, ipKind, accepts, "the node's addresses")
	for _, l := range r.rules.Locals {
		r.address(nodeSet, l.Addr)
	}
	closed := r.set(closedSet, netKind, denies, "where only known pods are open")
	for _, p := range r.closedHere() {
		closed.elements = append(closed.elements, r.nets(prefixRange(p))...)
	}
	for _, s := range r.rules.PeerSets {
		r.set(s.Name, ipKind, r.uses[s.Name], s.Text)
		for a := range s.Addrs.All() {
			r.address(s.Name, a)
		}
	}
	for _, s := range r.rules.BlockSets {
		blocks := r.set(s.Name, netKind, 0, "blocks of addresses")
		for _, b := range s.Ranges {
			blocks.elements = append(blocks.elements, r.nets(b)...)
		}
	}
	for _, s := range r.rules.PortSets {
		r.portSet(s)
	}
}

// set returns the set of that name, which it makes if there is none.
func (r *renderer) set(name string, k kind, u use, about string) *set {
	full := r.names.set(r.family, name)
	if r.im.sets[full] == nil {
		r.im.sets[full] = &set{name: full, kind: k, use: u, about: about}
	}
	return r.im.sets[full]
}

func (r *renderer) address(set string, a netip.Addr) {
	if r.has(a) {
		in := r.im.sets[r.names.set(r.family, set)]
		in.elements = append(in.elements, a.String())
	}
}

func (r *renderer) portSet(s *policy.PortSet) {
	into := r.set(s.Name, ipPortKind, r.uses[s.Name], fmt.Sprintf("%s port %q of pods", s.Protocol, s.Port))
	protocol := strings.ToLower(s.Protocol.String())
	for p := range s.Elements.All() {
		if r.has(p.Addr) {
			into.elements = append(into.elements, fmt.Sprintf("%s,%s:%d", p.Addr, protocol, p.Port))
		}
	}
}

// nets is a range as elements of a set, none where it is of the other family.
func (r *renderer) nets(b policy.Range) (list []string) {
	if !r.has(b.From) {
		return nil
	}
	for _, p := range prefixes(b) {
		list = append(list, netText(p))
	}
	return list
}

func prefixRange(p netip.Prefix) policy.Range { return policy.Range{From: p.Addr(), To: last(p)} }

func (r *renderer) chainOf(name string) *policy.Chain {
	i, ok := slices.BinarySearchFunc(r.rules.Chains, name, func(c *policy.Chain, name string) int { return strings.Compare(c.Name, name) })
	if !ok {
		return &policy.Chain{}
	}
	return r.rules.Chains[i]
}

func joined(ids []policy.ID) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	return strings.Join(texts, ", ")
}

func bpf(program string) string { return `-m bpf --bytecode "` + program + `"` }

// How long texts of rules may be, less the zero at their end: of comments XT_MAX_COMMENT_LEN, of NFLOG's prefixes its own 64.
const (
	commentLength = 255
	logLength     = 63
)

func comment(text string) string { return "-m comment --comment " + quoted(text, commentLength) }

// quoted is text as iptables-save writes it. It has quotes only where there is more than letters and digits, and what it would write
// with a backslash we do not write at all.
func quoted(text string, length int) string {
	clean := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' || c == '\'' {
			return '?'
		}
		return c
	}, text)
	clean = strings.TrimSpace(clean[:min(len(clean), length)])
	if clean != "" && strings.Trim(clean, "_-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" {
		return clean
	}
	return `"` + clean + `"`
}
