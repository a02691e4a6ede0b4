package nftables

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/enforce"
)

// renderer turns parts of a Ruleset into parts of a table.
type renderer struct {
	table nft.Table
	group uint16 // of NFLOG
	audit bool
	// strict asks the rules about each packet of a connection.
	strict bool
	im     *image
	rules  *policy.Ruleset
}

// meaning is what a rule of ours counts.
type meaning = enforce.Meaning

var directions = [...]policy.Direction{policy.Egress, policy.Ingress}

// views are the families as rules look at packets.
func (r *renderer) views() []family {
	list := families
	for i := range list {
		list[i].tracked = r.strict
	}
	return list[:]
}

// all renders the whole of spec.
func (r *renderer) all(spec Spec) {
	r.frame(spec)
	for _, s := range r.rules.PeerSets {
		r.peerSet(s, s.Addrs.All())
	}
	for _, s := range r.rules.BlockSets {
		r.blockSet(s)
	}
	for _, s := range r.rules.PortSets {
		r.portSet(s, s.Elements.All())
	}
	for _, c := range r.rules.Chains {
		r.policyChains(c)
		for _, ports := range portLists(c) {
			r.portList(ports)
		}
	}
	for _, c := range r.rules.Classes {
		r.classChains(c)
	}
	r.endpoints(r.rules.Endpoints.All())
}

// start is the chain where packets come in: behind everything that changes a destination, before whatever changes the source, which
// conntrack says once for both. One chain for both directions costs each packet half of what two would.
const (
	start    = "policies"
	priority = nft.PrioritySrcNAT - 5
)

// frame is what is there whatever the rules are.
func (r *renderer) frame(spec Spec) {
	r.frameSets()
	base := r.im.chain(nft.Chain{Table: r.table, Name: start, Base: nft.Base{
		Type: "filter", Hook: nft.Postrouting, Priority: priority, Policy: nft.Accept,
	}})
	if !r.strict {
		r.add(base, meaning{}, "replies, and what follows", stateIs("established", expr.CtStateBitESTABLISHED), accept())
		r.add(base, meaning{}, "errors about them, and what they announce", stateIs("related", expr.CtStateBitRELATED), accept())
	}
	for i, f := range r.views() {
		if r.strict { // rules that name ports would not know it
			r.add(base, meaning{}, "errors, whatever has become of the connection", f.problem(), accept())
		}
		r.add(base, meaning{}, "", f.is(), jump(dispatchChain(policy.Egress, f)))
		r.add(base, meaning{}, "", f.is(), goTo(dispatchChain(policy.Ingress, f)))
		for _, d := range directions {
			into := r.im.chain(nft.Chain{Table: r.table, Name: dispatchChain(d, f)})
			r.dispatch(into, d, f)
			if r.strict {
				r.dispatch(into, d, families[i], unknown())
			}
			r.closed(f, d)
		}
		r.own(r.im.chain(nft.Chain{Table: r.table, Name: ownChain(f)}), f, policy.Ingress)
	}
	r.locals(r.rules.Locals)
	for _, p := range enforce.Disjoint(spec.Closed) {
		f := familyOf(p.Addr())
		r.elements(nft.Set{Name: "closed" + f.suffix, Key: f.addr, Interval: true}, nft.Prefix(p))
	}
}

// dispatch sends packets that begin so to the rules of the pod that they concern.
func (r *renderer) dispatch(into *chain, d policy.Direction, f family, begin ...statement) {
	address, text := f.own(d)
	verdicts := d.String() + f.suffix
	r.add(into, meaning{}, "pods' own rules", append(slices.Clone(begin), statement{text + " vmap @" + verdicts, []expr.Any{
		address, &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: verdicts, IsDestRegSet: true},
	}})...)
	r.add(into, meaning{}, "addresses of no known pod", append(slices.Clone(begin), f.ownIn(d, "closed"+f.suffix), goTo(closedChain(d, f)))...)
}

// frameSets are the sets and maps that are there whatever the rules are.
func (r *renderer) frameSets() {
	for _, f := range families {
		for _, d := range directions {
			r.elements(nft.Set{Name: d.String() + f.suffix, Key: f.addr, Data: nft.Verdict})
		}
		r.elements(nft.Set{Name: "node" + f.suffix, Key: f.addr})
		r.elements(nft.Set{Name: "self" + f.suffix, Key: nft.Concat(f.addr, f.addr)})
		r.elements(nft.Set{Name: "closed" + f.suffix, Key: f.addr, Interval: true})
	}
	if !r.strict {
		r.elements(nft.Set{Name: tcpUDP, Key: nft.InetProto},
			nft.Element{Key: string([]byte{unix.IPPROTO_TCP})}, nft.Element{Key: string([]byte{unix.IPPROTO_UDP})})
	}
}

// tcpUDP is the set of these two protocols.
const tcpUDP = "tcp-udp"

func (r *renderer) locals(list []policy.Local) {
	for _, l := range list {
		f := familyOf(l.Addr)
		r.elements(nft.Set{Name: "node" + f.suffix, Key: f.addr}, nft.Element{Key: string(l.Addr.AsSlice())})
	}
}

func dispatchChain(d policy.Direction, f family) string { return d.String() + "-pods" + f.suffix }
func closedChain(d policy.Direction, f family) string   { return d.String() + "-closed" + f.suffix }
func ownChain(f family) string                          { return "ingress-own" + f.suffix }

// allowed is what becomes of a packet that may pass in a direction: ingress, which comes last, is the end. From where rules of egress
// stand a return leads to ingress, for packets come there by one jump and by goto from then on; so they are never behind a jump.
func allowed(d policy.Direction) statement {
	if d == policy.Egress {
		return statement{"return", []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}}
	}
	return accept()
}

// own allows what no policy may deny. Only packets that are about to be dropped come here, or those of classes in which something
// may be.
func (r *renderer) own(into *chain, f family, d policy.Direction) {
	r.add(into, meaning{}, "the pod's node", f.remoteIn(d, "node"+f.suffix), allowed(d))
	if d == policy.Ingress || r.strict { // what it answers comes by too
		r.add(into, meaning{}, "the pod's node, whichever of its addresses", fromHere(), allowed(d))
	}
	r.add(into, meaning{}, "the pod itself", f.toItself("self"+f.suffix), allowed(d))
	if f.suffix == "6" {
		r.add(into, meaning{}, "neighbours on a bridge", neighborDiscovery(), allowed(d))
	}
}

// exempt has a class ask what own says.
func (r *renderer) exempt(into *chain, f family, d policy.Direction) {
	if d == policy.Egress {
		r.own(into, f, d)
	} else {
		r.add(into, meaning{}, "", jump(ownChain(f)))
	}
}

// closed is for addresses of no pod that we know.
func (r *renderer) closed(f family, d policy.Direction) {
	c := r.im.chain(nft.Chain{Table: r.table, Name: closedChain(d, f)})
	if d == policy.Egress {
		r.add(c, meaning{}, "the node has addresses there too", fromHere(), allowed(d))
	}
	r.exempt(c, f, d)
	r.add(c, meaning{Counts: true, Direction: d, Unknown: true}, "no known pod", r.deny(d, "no known pod")...)
}

// deny drops, or does all but that.
func (r *renderer) deny(d policy.Direction, why string) []statement {
	s := []statement{counter(), {}, drop()}
	if r.group != 0 {
		s[1] = logTo(r.group, fmt.Sprintf("podweft %s: %s ", d, why))
	}
	if r.audit {
		s[2] = allowed(d)
	}
	return s
}

func (r *renderer) add(c *chain, m meaning, comment string, statements ...statement) {
	c.rules = append(c.rules, r.rule(c.Name, comment, statements...))
	c.what = append(c.what, m)
}

// elements puts elements into a set, which is there even without any.
func (r *renderer) elements(s nft.Set, list ...nft.Element) {
	s.Table = r.table
	in := r.im.set(s)
	in.elements = append(in.elements, list...)
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return families[0]
	}
	return families[1]
}

func (r *renderer) peerSet(s *policy.PeerSet, addrs iter.Seq[netip.Addr]) {
	for _, f := range families {
		r.elements(nft.Set{Name: s.Name + f.suffix, Key: f.addr})
	}
	for a := range addrs {
		f := familyOf(a)
		r.elements(nft.Set{Name: s.Name + f.suffix, Key: f.addr}, nft.Element{Key: string(a.AsSlice())})
	}
}

// blockSet makes sets of the families that have something in it.
func (r *renderer) blockSet(s *policy.BlockSet) {
	for _, b := range s.Ranges {
		f := familyOf(b.From)
		e := nft.Element{Key: string(b.From.AsSlice())}
		if b.From != b.To {
			e.Last = string(b.To.AsSlice())
		}
		r.elements(nft.Set{Name: s.Name + f.suffix, Key: f.addr, Interval: true}, e)
	}
}

func (r *renderer) portSet(s *policy.PortSet, ports iter.Seq[policy.AddrPort]) {
	for _, f := range families {
		r.elements(nft.Set{Name: s.Name + f.suffix, Key: nft.Concat(f.addr, nft.InetService)})
	}
	for p := range ports {
		f := familyOf(p.Addr)
		key := nft.Key(p.Addr.AsSlice(), binary.BigEndian.AppendUint16(nil, p.Port))
		r.elements(nft.Set{Name: s.Name + f.suffix, Key: nft.Concat(f.addr, nft.InetService)}, nft.Element{Key: key})
	}
}

// portLists are the lists of several ports in a chain. They are sets that rules share.
func portLists(c *policy.Chain) (lists [][]policy.PortRange) {
	for i := range c.Matches {
		if ports := c.Matches[i].Ports; len(ports) > 1 {
			lists = append(lists, ports)
		}
	}
	return lists
}

// maxName is the longest name of a set, NFT_NAME_MAXLEN less the zero at its end.
const maxName = 255

// portListName is what is in the list, "s-80.443.8000-8010", if that is not too long for a name.
func portListName(ports []policy.PortRange) string {
	parts := make([]string, len(ports))
	for i, p := range ports {
		parts[i] = p.String()
	}
	name := "s-" + strings.Join(parts, ".")
	if len(name) > maxName {
		sum := sha256.Sum256([]byte(name))
		return "s-" + hex.EncodeToString(sum[:16])
	}
	return name
}

func (r *renderer) portList(ports []policy.PortRange) {
	s := nft.Set{Table: r.table, Name: portListName(ports), Key: nft.InetService, Interval: true}
	if r.im.sets[s.Name] != nil {
		return
	}
	r.elements(s)
	for _, p := range ports {
		e := nft.Element{Key: string(binary.BigEndian.AppendUint16(nil, p.From))}
		if p.From != p.To {
			e.Last = string(binary.BigEndian.AppendUint16(nil, p.To))
		}
		r.elements(s, e)
	}
}

// passes reports whether a rule of the chain leaves its tier. No verdict of nf_tables returns from two chains at once, so that the
// rules of such a chain stand in each class that has it.
func passes(c *policy.Chain) bool {
	return c.Tier == policy.Admin && slices.ContainsFunc(c.Matches, func(m policy.Match) bool { return m.Action == policy.Pass })
}

// few is how many rules of a policy each class has for itself. To jump to a chain and come back costs a packet as much as two rules that
// do not match, and each chain costs every transaction something, for the kernel looks at all of them in each (the second step of
// nf_tables_commit, net/netfilter/nf_tables_api.c).
const few = 8

// inlined reports whether the rules of a policy stand in each class that has it, as those of most do, and all of egress: see allowed.
func inlined(c *policy.Chain) bool {
	return passes(c) || c.Direction == policy.Egress || len(c.Matches) <= few
}

// policyChains is a policy in one direction, if classes jump to it.
func (r *renderer) policyChains(c *policy.Chain) {
	if inlined(c) {
		return
	}
	for _, f := range r.views() {
		into := r.im.chain(nft.Chain{Table: r.table, Name: c.Name + f.suffix})
		r.matches(into, f, c, allowed(c.Direction))
	}
}

// never reports whether m is about addresses of the other family alone. What is in a set of blocks never changes, for its name says what
// it is.
func (r *renderer) never(m *policy.Match, f family) bool {
	i, known := find(r.rules.BlockSets, m.Blocks, blockSetName)
	return known && !slices.ContainsFunc(r.rules.BlockSets[i].Ranges, func(b policy.Range) bool { return familyOf(b.From).suffix == f.suffix })
}

// matches are the rules of a policy; pass is where those go on that pass.
func (r *renderer) matches(into *chain, f family, c *policy.Chain, pass statement) {
	for i := 0; i < len(c.Matches); i++ {
		m := &c.Matches[i]
		if m.Blocks != "" && r.never(m, f) {
			continue
		}
		both := !f.tracked && i+1 < len(c.Matches) && bothProtocols(m, &c.Matches[i+1])
		if both {
			i++
		}
		var end []statement
		switch m.Action {
		case policy.Deny:
			end = r.deny(c.Direction, c.Policy.String())
		case policy.Pass:
			end = []statement{counter(), pass}
		default:
			end = []statement{counter(), allowed(c.Direction)}
		}
		what := meaning{Counts: true, Policy: c.Policy, Direction: c.Direction, Rule: m.Rule, Action: m.Action}
		comment := fmt.Sprintf("%s %s[%d]", c.Policy, c.Direction, m.Rule)
		r.add(into, what, comment, append(r.conditions(f, c.Direction, m, both), end...)...)
	}
}

// bothProtocols reports whether two Matches of a rule differ in this alone, that one is of TCP and the other of UDP, as those of
// DNS do. They are one rule then, which a packet from elsewhere leaves at the set of peers. In rules about the connection they stay two:
// nft takes no port of a connection whose protocol it has not read before.
func bothProtocols(a, b *policy.Match) bool {
	return a.Protocol == policy.TCP && b.Protocol == policy.UDP && a.Rule == b.Rule && a.Action == b.Action &&
		a.Peers == b.Peers && a.Blocks == b.Blocks && a.PortNames+b.PortNames == "" && slices.Equal(a.Ports, b.Ports)
}

// conditions asks what costs least first: to look into a set takes longer than all else. Which of both protocols it is comes last,
// for that is a set too.
func (r *renderer) conditions(f family, d policy.Direction, m *policy.Match, both bool) (all []statement) {
	if m.Protocol != 0 && !both {
		all = append(all, protocolIs(m.Protocol))
	}
	if len(m.Ports) == 1 {
		all = append(all, f.portIs(m.Ports[0]))
	}
	if set := m.Peers + m.Blocks; set != "" {
		all = append(all, f.remoteIn(d, set+f.suffix))
	}
	switch {
	case m.PortNames != "":
		all = append(all, f.namedPort(m.PortNames+f.suffix))
	case len(m.Ports) > 1:
		all = append(all, f.portIn(portListName(m.Ports)))
	}
	if both {
		all = append(all, protocolIn(tcpUDP))
	}
	return all
}

// next is the chain of a class where a packet goes on that an Admin policy passes.
func next(c *policy.Class, f family) string { return c.Name + "-next" + f.suffix }

// classChains is all policies of some pods. Where something may deny, what no policy may deny is accepted before; where packets
// are dropped because nothing has allowed them, just before that, which costs the others nothing.
func (r *renderer) classChains(c *policy.Class) {
	for _, f := range r.views() {
		into := r.im.chain(nft.Chain{Table: r.table, Name: c.Name + f.suffix})
		ordered := len(c.Admin)+len(c.Baseline) > 0
		if ordered {
			r.exempt(into, f, c.Direction)
		}
		if r.admin(into, f, c) {
			into = r.im.chain(nft.Chain{Table: r.table, Name: next(c, f)})
		}
		for _, name := range slices.Concat(c.Policies, c.Baseline) {
			r.ask(into, f, r.chainOf(name), allowed(c.Direction))
		}
		if len(c.Policies) == 0 {
			continue // what nothing has decided passes
		}
		if !ordered {
			r.exempt(into, f, c.Direction)
		}
		who := r.isolators(c)
		why := "isolated by " + joined(who)
		r.add(into, meaning{Counts: true, Direction: c.Direction, Isolated: who}, why, r.deny(c.Direction, why)...)
	}
}

// admin asks the class's Admin policies, and reports whether the next tier has a chain of its own.
func (r *renderer) admin(into *chain, f family, c *policy.Class) (split bool) {
	pass := allowed(c.Direction)
	if split = slices.ContainsFunc(c.Admin, func(name string) bool { return passes(r.chainOf(name)) }); split {
		pass = goTo(next(c, f))
	}
	for _, name := range c.Admin {
		r.ask(into, f, r.chainOf(name), pass)
	}
	if split {
		r.add(into, meaning{}, "", goTo(next(c, f)))
	}
	return split
}

// ask asks a policy in a class; pass is where a packet goes on that it passes.
func (r *renderer) ask(into *chain, f family, c *policy.Chain, pass statement) {
	if inlined(c) {
		r.matches(into, f, c, pass)
	} else {
		r.add(into, meaning{}, c.Policy.String(), jump(c.Name+f.suffix))
	}
}

func (r *renderer) chainOf(name string) *policy.Chain {
	i, ok := slices.BinarySearchFunc(r.rules.Chains, name, func(c *policy.Chain, name string) int { return strings.Compare(c.Name, name) })
	if !ok {
		return &policy.Chain{}
	}
	return r.rules.Chains[i]
}

func (r *renderer) isolators(c *policy.Class) (ids []policy.ID) {
	for _, name := range c.Policies {
		ids = append(ids, r.chainOf(name).Policy)
	}
	return ids
}

func joined(ids []policy.ID) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	return strings.Join(texts, ", ")
}

// endpoints sends packets of pods to their rules.
//
// An element that names a chain has the kernel go through all rules of the table once more (nft_table_validate in
// net/netfilter/nf_tables_api.c; once for each chain since Linux 6.19, and in 6.18.44, before that once for each element). So a pod
// that comes costs what the policies of the node's other pods are. A map of pods to numbers, and one of numbers to chains, would cost
// nothing of the kind. But nft has no words for a map in a map, and when it is to list one it aborts: 1.0.6 was seen to, and 1.1.6 has
// the assertion still (netlink_parse_concat_expr, src/netlink_delinearize.c). Nobody on the node could list its rules any more. Sets
// instead, one for each bit of the number, would make one decision of many lookups, between which the numbers may change.
func (r *renderer) endpoints(list iter.Seq[policy.Endpoint]) {
	for e := range list {
		f, key := familyOf(e.Addr), e.Addr.AsSlice()
		for _, d := range directions {
			class, verdict := e.Pod.Ingress, expr.Verdict{Kind: expr.VerdictAccept}
			if d == policy.Egress {
				class, verdict.Kind = e.Pod.Egress, expr.VerdictReturn
			}
			if class != "" {
				verdict = expr.Verdict{Kind: expr.VerdictGoto, Chain: class + f.suffix}
			}
			r.elements(nft.Set{Name: d.String() + f.suffix, Key: f.addr, Data: nft.Verdict}, nft.Element{Key: string(key), Verdict: verdict})
		}
		r.elements(nft.Set{Name: "self" + f.suffix, Key: nft.Concat(f.addr, f.addr)}, nft.Element{Key: nft.Key(key, key)})
	}
}
