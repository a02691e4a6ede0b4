package policy

import (
	"fmt"
	"net/netip"
	"slices"
)

// Packet is the first packet of a connection, as a filter sees it that stands after Service addresses have become those of pods
// and before sources are masqueraded. What follows, both ways, belongs to the connection and passes if the first has.
type Packet struct {
	Src, Dst netip.Addr
	Protocol Protocol
	Port     uint16 // of the destination, where the Protocol has ports
}

// String is the packet for people: "10.244.1.2 -> 10.244.2.3 TCP 80".
func (p Packet) String() string {
	s := fmt.Sprintf("%s -> %s %s", p.Src, p.Dst, p.Protocol)
	if p.Protocol.hasPorts() {
		s += fmt.Sprintf(" %d", p.Port)
	}
	return s
}

// Verdict is what becomes of a packet.
type Verdict uint8

// The zero Verdict is Denied.
const (
	Denied Verdict = iota
	Allowed
)

// String returns "allowed" or "denied".
func (v Verdict) String() string {
	if v == Allowed {
		return "allowed"
	}
	return "denied"
}

// Evaluate says what becomes of a packet, and why. It walks the Ruleset as a packet filter does: a pod that sends is judged by
// its egress class, one that receives by its ingress class, and both must allow the packet.
//
// An IPv4 address in IPv6 form counts as IPv4, and zones are not looked at: neither exists in packets. A packet whose addresses
// are missing or of two families is denied.
func (r *Ruleset) Evaluate(p Packet) (Verdict, Why) {
	p.Src, p.Dst = p.Src.WithZone("").Unmap(), p.Dst.WithZone("").Unmap()
	why := Why{Packet: p}
	if !p.Src.IsValid() || p.Src.BitLen() != p.Dst.BitLen() {
		why.Egress, why.Ingress = Decision{Reason: NotAPacket}, Decision{Reason: NotAPacket}
		return Denied, why
	}
	src, dst := r.endpoint(p.Src), r.endpoint(p.Dst)
	if src != nil && src == dst {
		self := Decision{Verdict: Allowed, Reason: Self, Pod: src.ID()}
		why.Egress, why.Ingress = self, self
		return Allowed, why
	}
	why.Egress = r.judge(Egress, src, p.Dst, p)
	why.Ingress = r.judge(Ingress, dst, p.Src, p)
	return min(why.Egress.Verdict, why.Ingress.Verdict), why
}

// judge is what one end's policies say.
func (r *Ruleset) judge(d Direction, pod *Judged, remote netip.Addr, p Packet) Decision {
	if pod == nil {
		return Decision{Verdict: Allowed, Reason: NoPod}
	}
	out := Decision{Verdict: Allowed, Reason: NoPolicy, Pod: pod.ID()}
	if r.local(remote, pod.Node) {
		out.Reason = OwnNode
		return out
	}
	class := find(r.Classes, pod.class(d))
	if class == nil {
		return out
	}
	if r.tier(class.Admin, remote, p, &out) || r.namespaced(class.Policies, remote, p, &out) {
		return out
	}
	r.tier(class.Baseline, remote, p, &out)
	return out
}

// tier asks policies in their order, and reports whether one has decided.
func (r *Ruleset) tier(chains []string, remote netip.Addr, p Packet, out *Decision) bool {
	for _, name := range chains {
		chain := r.chain(name)
		for i := range chain.Matches {
			m := &chain.Matches[i]
			if !r.remoteIn(m, remote) || !r.portIn(m, p) {
				continue
			}
			if m.Action == Pass {
				return false
			}
			out.decide(chain, m, remote)
			return true
		}
	}
	return false
}

// namespaced asks whether any policy allows the packet. If there are policies, they decide.
func (r *Ruleset) namespaced(chains []string, remote netip.Addr, p Packet, out *Decision) bool {
	if len(chains) == 0 || r.tier(chains, remote, p, out) {
		return len(chains) > 0
	}
	out.Verdict, out.Reason = Denied, NoRule
	for _, name := range chains {
		out.Isolated = append(out.Isolated, r.chain(name).Policy)
	}
	slices.SortFunc(out.Isolated, ID.compare)
	return true
}

func (r *Ruleset) remoteIn(m *Match, remote netip.Addr) bool {
	switch {
	case m.Peers != "":
		return find(r.PeerSets, m.Peers).contains(remote)
	case m.Blocks != "":
		return find(r.BlockSets, m.Blocks).contains(remote)
	}
	return true
}

func (r *Ruleset) portIn(m *Match, p Packet) bool {
	switch {
	case m.Protocol == 0:
		return true
	case m.Protocol != p.Protocol:
		return false
	case m.PortNames != "":
		return find(r.PortSets, m.PortNames).contains(AddrPort{p.Dst, p.Port})
	}
	return len(m.Ports) == 0 || slices.ContainsFunc(m.Ports, func(r PortRange) bool { return r.From <= p.Port && p.Port <= r.To })
}
