package scenario

import (
	"fmt"
	"net/netip"

	"github.com/podweft/podweft/policy"
)

// Random makes clusters in which everything has to do with everything: few labels, few ports, and so few addresses that pods,
// nodes, blocks and holes meet. Its numbers come from Choose, which returns one of 0 to n-1; 0 should be the simplest.
type Random struct {
	Choose func(n int) int
}

const (
	randomNamespaces = 4
	randomNames      = 6
	randomHosts      = 16 // addresses of each family
)

// Model returns a cluster.
func (r Random) Model() policy.Model {
	var m policy.Model
	for i := range 1 + r.Choose(2) {
		m.Nodes = append(m.Nodes, r.Node(i))
	}
	for i := range r.Choose(randomNamespaces + 1) {
		m.Namespaces = append(m.Namespaces, r.Namespace(i))
	}
	for i := range r.Choose(2 * randomNames) {
		m.Pods = append(m.Pods, r.Pod(i))
	}
	for i := range r.Choose(randomNames) {
		m.Policies = append(m.Policies, r.Policy(i))
	}
	for i := range r.Choose(4) {
		m.ClusterPolicies = append(m.ClusterPolicies, r.ClusterPolicy(i))
	}
	return m
}

// Update returns some objects that replace those of a Model, or come to it, and the IDs of some that go, if they are there.
func (r Random) Update() (put policy.Model, gone []policy.ID) {
	for range 1 + r.Choose(3) {
		switch r.Choose(10) {
		case 0, 1, 2:
			put.Pods = append(put.Pods, r.Pod(r.Choose(2*randomNames)))
		case 3, 4:
			put.Policies = append(put.Policies, r.Policy(r.Choose(randomNames)))
		case 5:
			put.Namespaces = append(put.Namespaces, r.Namespace(r.Choose(randomNamespaces)))
		case 6:
			put.ClusterPolicies = append(put.ClusterPolicies, r.ClusterPolicy(r.Choose(4)))
		case 7:
			put.Nodes = append(put.Nodes, r.Node(r.Choose(2)))
		default:
			kinds := [...]policy.ID{r.Pod(r.Choose(2 * randomNames)).ID(), r.Policy(r.Choose(randomNames)).ID(),
				r.Namespace(r.Choose(randomNamespaces)).ID(), r.ClusterPolicy(r.Choose(4)).ID(), r.Node(r.Choose(2)).ID()}
			gone = append(gone, kinds[r.Choose(len(kinds))])
		}
	}
	return put, gone
}

// Node returns a node of that number.
func (r Random) Node(i int) policy.Node {
	return policy.Node{Name: fmt.Sprintf("n%d", i), Addresses: []netip.Addr{r.addr(4), r.addr(6)}}
}

// Namespace returns a namespace of that number.
func (r Random) Namespace(i int) policy.Namespace {
	return policy.Namespace{Name: r.namespace(i), Labels: r.labels()}
}

// Pod returns a pod of that number. Its name is the number's; in which namespace it is may differ.
func (r Random) Pod(i int) policy.Pod {
	p := policy.Pod{Namespace: r.namespace(i), Name: fmt.Sprintf("p%d", i), Labels: r.labels(), Node: fmt.Sprintf("n%d", r.Choose(2))}
	for _, family := range [][]int{{4, 6}, {4}, {6}, {}, {4, 4}}[r.mostly(5)] {
		p.Addresses = append(p.Addresses, r.addr(family))
	}
	for range r.Choose(3) {
		p.Ports = append(p.Ports, policy.NamedPort{Name: r.portName(), Protocol: r.protocol(), Number: r.portNumber()})
	}
	p.HostNetwork = r.mostly(2) == 1
	p.Phase = [...]policy.Phase{policy.Running, policy.Terminating, policy.Finished}[r.mostly(3)]
	return p
}

// Policy returns a policy of that number.
func (r Random) Policy(i int) policy.Policy {
	p := policy.Policy{Namespace: r.namespace(i), Name: fmt.Sprintf("np%d", i), Pods: r.selector()}
	p.Types = [][]policy.Direction{nil, {policy.Ingress}, {policy.Egress}, {policy.Ingress, policy.Egress}}[r.Choose(4)]
	for range r.Choose(3) {
		p.Ingress = append(p.Ingress, policy.Rule{Peers: r.peers(true), Ports: r.ports()})
	}
	for range r.Choose(3) {
		p.Egress = append(p.Egress, policy.Rule{Peers: r.peers(true), Ports: r.ports()})
	}
	return p
}

// ClusterPolicy returns a policy of that number.
func (r Random) ClusterPolicy(i int) policy.ClusterPolicy {
	c := policy.ClusterPolicy{
		Name: fmt.Sprintf("cnp%d", i), Tier: [...]policy.Tier{policy.Admin, policy.Baseline}[r.Choose(2)], Priority: r.Choose(3),
		Subject: policy.Subject{Namespaces: r.selector(), Pods: r.selector()},
	}
	for range r.Choose(3) {
		c.Ingress = append(c.Ingress, policy.ClusterRule{Action: r.action(), Peers: r.clusterPeers(false), Ports: r.ports()})
	}
	for range r.Choose(3) {
		egress := policy.ClusterRule{Action: r.action(), Peers: r.clusterPeers(true), Ports: r.ports()}
		if egress.Peers[0].Block != nil { // networks have no names for ports
			egress.Ports = nil
		}
		c.Egress = append(c.Egress, egress)
	}
	return c
}

// Packet returns a packet between any two addresses of one family.
func (r Random) Packet() policy.Packet {
	family := [...]int{4, 6}[r.Choose(2)]
	p := policy.Packet{Src: r.addr(family), Dst: r.addr(family), Protocol: [...]policy.Protocol{policy.TCP, policy.UDP, policy.SCTP, 1}[r.Choose(4)]}
	if p.Protocol != 1 {
		p.Port = r.portNumber()
	}
	return p
}

// Packets returns one packet between every two addresses.
func (r Random) Packets() (list []policy.Packet) {
	for _, family := range []int{4, 6} {
		for src := range randomHosts {
			for dst := range randomHosts {
				p := r.Packet()
				p.Src, p.Dst = host(family, src), host(family, dst)
				list = append(list, p)
			}
		}
	}
	return list
}

// mostly is Choose with 0 in three cases of four.
func (r Random) mostly(n int) int {
	if r.Choose(4) < 3 {
		return 0
	}
	return r.Choose(n)
}

func (r Random) addr(family int) netip.Addr { return host(family, r.Choose(randomHosts)) }

func host(family, i int) netip.Addr {
	if family == 4 {
		return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i)})
}

func (r Random) namespace(i int) string { return fmt.Sprintf("ns%d", i%randomNamespaces) }

func (r Random) labels() map[string]string {
	labels := map[string]string{}
	for range r.Choose(4) {
		labels[r.key()] = r.value()
	}
	return labels
}

func (r Random) key() string   { return [...]string{"a", "b", "c"}[r.Choose(3)] }
func (r Random) value() string { return [...]string{"x", "y", ""}[r.Choose(3)] }

func (r Random) selector() policy.Selector {
	var s policy.Selector
	for range r.mostly(3) {
		if s.MatchLabels == nil {
			s.MatchLabels = map[string]string{}
		}
		s.MatchLabels[r.key()] = r.value()
	}
	for range r.Choose(3) {
		q := policy.Requirement{Key: r.key(), Operator: [...]policy.Operator{policy.In, policy.NotIn, policy.Exists, policy.DoesNotExist}[r.Choose(4)]}
		if q.Operator == policy.In || q.Operator == policy.NotIn {
			for range 1 + r.Choose(2) {
				q.Values = append(q.Values, r.value())
			}
		}
		s.MatchExpressions = append(s.MatchExpressions, q)
	}
	return s
}

func (r Random) peers(own bool) (list []policy.Peer) {
	for range r.Choose(4) {
		list = append(list, r.peer(own))
	}
	return list
}

func (r Random) clusterPeers(networks bool) []policy.Peer {
	if networks && r.Choose(2) == 1 {
		return []policy.Peer{{Block: &policy.Block{CIDR: r.prefix(4 + 2*r.Choose(2))}}}
	}
	s := r.selector()
	list := []policy.Peer{{Namespaces: &s}}
	if r.Choose(2) == 1 {
		pods := r.selector()
		list[0].Pods = &pods
	}
	return list
}

func (r Random) peer(own bool) policy.Peer {
	namespaces, pods := r.selector(), r.selector()
	switch r.Choose(5) {
	case 0:
		if own {
			return policy.Peer{Pods: &pods}
		}
		return policy.Peer{Namespaces: &namespaces}
	case 1:
		return policy.Peer{Namespaces: &namespaces}
	case 2:
		return policy.Peer{Namespaces: &namespaces, Pods: &pods}
	}
	family := [...]int{4, 6}[r.Choose(2)]
	b := &policy.Block{CIDR: r.prefix(family)}
	for range r.Choose(4) {
		// A hole is within its block and smaller.
		bits := b.CIDR.Bits() + 1 + r.Choose(b.CIDR.Addr().BitLen()-b.CIDR.Bits()+1)
		hole := netip.PrefixFrom(r.addr(family), min(bits, b.CIDR.Addr().BitLen()))
		if b.CIDR.Contains(hole.Addr()) && hole.Bits() > b.CIDR.Bits() {
			b.Except = append(b.Except, hole)
		}
	}
	return policy.Peer{Block: b}
}

// prefix is /0, or cuts through the few addresses there are.
func (r Random) prefix(family int) netip.Prefix {
	a := r.addr(family)
	if r.mostly(2) == 1 {
		return netip.PrefixFrom(a, 0)
	}
	return netip.PrefixFrom(a, a.BitLen()-r.Choose(5))
}

func (r Random) ports() (list []policy.Port) {
	for range r.mostly(4) {
		p := policy.Port{Protocol: r.protocol()}
		switch r.Choose(4) {
		case 0:
			p.Number = r.portNumber()
		case 1:
			p.Number = r.portNumber()
			p.End = p.Number + uint16(r.Choose(3))
		case 2:
			p.Name = r.portName()
		}
		list = append(list, p)
	}
	return list
}

func (r Random) protocol() policy.Protocol {
	return [...]policy.Protocol{policy.TCP, policy.UDP, policy.SCTP, 0}[r.Choose(4)]
}
func (r Random) portNumber() uint16 { return uint16(80 + r.Choose(5)) }
func (r Random) portName() string   { return [...]string{"http", "dns"}[r.Choose(2)] }
func (r Random) action() policy.Action {
	return [...]policy.Action{policy.Accept, policy.Deny, policy.Pass}[r.Choose(3)]
}
