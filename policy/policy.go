package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// Policy is a NetworkPolicy (networking.k8s.io/v1). It isolates the pods that it selects: in its directions they have only the
// connections that some policy allows.
type Policy struct {
	Namespace, Name string
	// Pods are those of its namespace that it isolates; the zero Selector is all of them.
	Pods Selector
	// Types are the directions in which it isolates. Empty means what it means in Kubernetes: Ingress, and Egress too when
	// there are egress rules. Rules of a direction that is not here have no effect.
	Types []Direction
	// Ingress and Egress are what it allows. Without a rule, it allows nothing.
	Ingress, Egress []Rule
}

// isolates reports whether p isolates in direction d. A type that makes no sense may have been meant for either.
func (p *Policy) isolates(d Direction) bool {
	if len(p.Types) == 0 {
		return d == Ingress || len(p.Egress) > 0
	}
	for _, t := range p.Types {
		if t == d || t != Ingress && t != Egress {
			return true
		}
	}
	return false
}

// Direction is which end of a connection a rule is about.
type Direction uint8

const (
	// Ingress is what comes to a pod.
	Ingress Direction = iota + 1
	// Egress is what a pod sends.
	Egress
)

// directions is how to go over both.
var directions = [...]Direction{Ingress, Egress}

// String returns the direction as specs write it: "ingress".
func (d Direction) String() string {
	switch d {
	case Ingress:
		return "ingress"
	case Egress:
		return "egress"
	}
	return "unknown direction"
}

// peers is what Kubernetes calls a rule's list of peers.
func (d Direction) peers() string {
	if d == Egress {
		return "to"
	}
	return "from"
}

// Rule allows what matches one of its peers and one of its ports.
type Rule struct {
	// Peers are who is at the other end; none means everybody.
	Peers []Peer
	// Ports are those of the destination; none means every port, and every protocol.
	Ports []Port
}

// Peer is who is at the other end: either some pods or a block of addresses.
type Peer struct {
	// Namespaces and Pods select together: the pods that Pods selects in the namespaces that Namespaces selects. Without
	// Namespaces it is the policy's own; without Pods it is all of them.
	Namespaces, Pods *Selector
	// Block excludes the other two.
	Block *Block
}

// String is the peer for people: "pods role=client in namespaces project=test".
func (p Peer) String() string {
	if p.Block != nil {
		return p.Block.String()
	}
	who, where := "all pods", ""
	if p.Pods != nil && !p.Pods.isZero() {
		who = "pods " + p.Pods.String()
	}
	switch {
	case p.Namespaces == nil:
	case p.Namespaces.isZero():
		where = " in all namespaces"
	default:
		where = " in namespaces " + p.Namespaces.String()
	}
	return who + where
}

// Block is a range of addresses with holes. The holes are this block's only: another may cover them.
type Block struct {
	CIDR   netip.Prefix
	Except []netip.Prefix
}

// String is the block for people: "10.0.0.0/8 except 10.1.0.0/16".
func (b *Block) String() string {
	var s strings.Builder
	s.WriteString(b.CIDR.String())
	for i, except := range b.Except {
		s.WriteString([...]string{" except ", ", "}[min(i, 1)])
		s.WriteString(except.String())
	}
	return s.String()
}

// contains reports whether a is in the block and in none of its holes.
func (b *Block) contains(a netip.Addr) bool {
	for _, except := range b.Except {
		if except.Contains(a) {
			return false
		}
	}
	return b.CIDR.Contains(a)
}

// Port is one port, a range, a name, or with neither Number nor Name every port of the protocol.
type Port struct {
	// Protocol is TCP, UDP or SCTP; the zero Protocol is TCP.
	Protocol Protocol
	Number   uint16
	// End makes Number the first of a range, End the last.
	End uint16
	// Name is looked up in the destination pod, which may call any port so.
	Name string
}

// String is the port for people: "TCP 8000-8010".
func (p Port) String() string {
	protocol := p.Protocol.orTCP().String()
	switch {
	case p.Name != "":
		return fmt.Sprintf("%s port %q", protocol, p.Name)
	case p.Number == 0:
		return protocol
	case p.End > p.Number:
		return fmt.Sprintf("%s %d-%d", protocol, p.Number, p.End)
	}
	return fmt.Sprintf("%s %d", protocol, p.Number)
}
