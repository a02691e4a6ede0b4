package scenario

import (
	"net/netip"
	"strings"

	"github.com/podweft/podweft/policy"
)

// The words of the table.

func split(path string) (namespace, name string) {
	namespace, name, ok := strings.Cut(path, "/")
	if !ok {
		return "default", namespace
	}
	return namespace, name
}

func policies(list ...policy.Policy) policy.Model { return policy.Model{Policies: list} }

func cluster(list ...policy.ClusterPolicy) policy.Model { return policy.Model{ClusterPolicies: list} }

func pods(list ...policy.Pod) policy.Model { return policy.Model{Pods: list} }

// also joins models.
func also(list ...policy.Model) (m policy.Model) {
	for _, o := range list {
		m = Change(m, o, nil)
	}
	return m
}

// web is default/p, a policy for app=web with these ingress rules and no policyTypes.
func web(rules ...policy.Rule) policy.Policy {
	return np("p", eq("app", "web"), rules...)
}

// np is a policy with ingress rules and no policyTypes.
func np(path string, who policy.Selector, rules ...policy.Rule) policy.Policy {
	namespace, name := split(path)
	return policy.Policy{Namespace: namespace, Name: name, Pods: who, Ingress: rules}
}

// out is default/out, a policy for role=client with these egress rules and of type Egress alone.
func out(rules ...policy.Rule) policy.Policy { return npOut("out", eq("role", "client"), rules...) }

func npOut(path string, who policy.Selector, rules ...policy.Rule) policy.Policy {
	namespace, name := split(path)
	return policy.Policy{Namespace: namespace, Name: name, Pods: who, Types: []policy.Direction{policy.Egress}, Egress: rules}
}

// typed sets policyTypes.
func typed(p policy.Policy, types ...policy.Direction) policy.Policy {
	p.Types = types
	return p
}

// named renames a policy.
func named(path string, p policy.Policy) policy.Policy {
	p.Namespace, p.Name = split(path)
	return p
}

func rule(peers []policy.Peer, ports ...policy.Port) policy.Rule {
	return policy.Rule{Peers: peers, Ports: ports}
}

// on is a rule for everybody on these ports.
func on(ports ...policy.Port) policy.Rule { return policy.Rule{Ports: ports} }

func peers(list ...policy.Peer) []policy.Peer { return list }

// podPeer is pods of the policy's namespace.
func podPeer(s policy.Selector) policy.Peer { return policy.Peer{Pods: &s} }

func nsPeer(s policy.Selector) policy.Peer { return policy.Peer{Namespaces: &s} }

func bothPeer(namespaces, pods policy.Selector) policy.Peer {
	return policy.Peer{Namespaces: &namespaces, Pods: &pods}
}

func block(cidr string, except ...string) policy.Peer {
	b := &policy.Block{CIDR: netip.MustParsePrefix(cidr)}
	for _, e := range except {
		b.Except = append(b.Except, netip.MustParsePrefix(e))
	}
	return policy.Peer{Block: b}
}

// blocks are peers, one for each CIDR.
func blocks(cidrs ...string) (list []policy.Peer) {
	for _, cidr := range cidrs {
		list = append(list, block(cidr))
	}
	return list
}

// all is the empty selector.
func all() policy.Selector { return policy.Selector{} }

// eq is matchLabels of keys and values.
func eq(pairs ...string) policy.Selector {
	s := policy.Selector{MatchLabels: l{}}
	for i := 0; i < len(pairs); i += 2 {
		s.MatchLabels[pairs[i]] = pairs[i+1]
	}
	return s
}

// is is one matchExpression.
func is(key string, op policy.Operator, values ...string) policy.Selector {
	return policy.Selector{MatchExpressions: []policy.Requirement{{Key: key, Operator: op, Values: values}}}
}

// both is all conditions of two selectors.
func both(a, b policy.Selector) policy.Selector {
	s := policy.Selector{MatchLabels: l{}}
	for _, from := range []policy.Selector{a, b} {
		for key, value := range from.MatchLabels {
			s.MatchLabels[key] = value
		}
		s.MatchExpressions = append(s.MatchExpressions, from.MatchExpressions...)
	}
	return s
}

// nsName selects the namespace of that name.
func nsName(name string) policy.Selector { return eq("kubernetes.io/metadata.name", name) }

func tcp(number uint16) policy.Port  { return policy.Port{Protocol: policy.TCP, Number: number} }
func udp(number uint16) policy.Port  { return policy.Port{Protocol: policy.UDP, Number: number} }
func sctp(number uint16) policy.Port { return policy.Port{Protocol: policy.SCTP, Number: number} }

func upTo(p policy.Port, end uint16) policy.Port {
	p.End = end
	return p
}

func called(protocol policy.Protocol, name string) policy.Port {
	return policy.Port{Protocol: protocol, Name: name}
}

// admin is a cluster policy of the Admin tier, for every pod.
func admin(priority int, ingress ...policy.ClusterRule) policy.ClusterPolicy {
	return policy.ClusterPolicy{Name: "admin", Tier: policy.Admin, Priority: priority, Ingress: ingress}
}

func adminOut(egress ...policy.ClusterRule) policy.ClusterPolicy {
	return policy.ClusterPolicy{Name: "admin", Tier: policy.Admin, Egress: egress}
}

func baseline(ingress ...policy.ClusterRule) policy.ClusterPolicy {
	return policy.ClusterPolicy{Name: "baseline", Tier: policy.Baseline, Ingress: ingress}
}

func does(action policy.Action, peers []policy.Peer, ports ...policy.Port) policy.ClusterRule {
	return policy.ClusterRule{Action: action, Peers: peers, Ports: ports}
}

// about sets the subject of a cluster policy, and its name.
func about(p policy.ClusterPolicy, name string, namespaces, pods policy.Selector) policy.ClusterPolicy {
	p.Name, p.Subject = name, policy.Subject{Namespaces: namespaces, Pods: pods}
	return p
}

// everyone is every pod of the cluster.
func everyone() []policy.Peer { return peers(nsPeer(all())) }
