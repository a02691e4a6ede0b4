package netpol

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy"
)

// Policy turns a NetworkPolicy into a policy. The error joins a [*podweft.FieldError] for each value that has no form in
// [policy.Policy], such as a CIDR that is none. The policy is returned beside it: such a value stands there as one that
// policy.Compile takes for a bad one, reports once more, and lets nobody through for.
func Policy(np *networkingv1.NetworkPolicy) (policy.Policy, error) {
	p := policy.Policy{Namespace: np.Namespace, Name: np.Name, Pods: selector(np.Spec.PodSelector)}
	r := reader{of: p.ID()}
	for i, t := range np.Spec.PolicyTypes {
		p.Types = append(p.Types, r.direction(fmt.Sprintf("spec.policyTypes[%d]", i), t))
	}
	for i, rule := range np.Spec.Ingress {
		p.Ingress = append(p.Ingress, r.rule(fmt.Sprintf("spec.ingress[%d]", i), "from", rule.From, rule.Ports))
	}
	for i, rule := range np.Spec.Egress {
		p.Egress = append(p.Egress, r.rule(fmt.Sprintf("spec.egress[%d]", i), "to", rule.To, rule.Ports))
	}
	return p, errors.Join(r.errs...)
}

// reader reads one object and keeps the problems.
type reader struct {
	of   policy.ID
	errs []error
}

func (r *reader) bad(field string, value any, problem, remedy string) {
	r.errs = append(r.errs, &podweft.FieldError{Field: r.of.String() + ": " + field, Value: value, Problem: problem, Remedy: remedy})
}

// The values that stand for what cannot be told: package policy knows no such protocol and no such direction.
const (
	badProtocol  policy.Protocol  = 255
	badDirection policy.Direction = 0
)

func (r *reader) direction(field string, t networkingv1.PolicyType) policy.Direction {
	switch t {
	case networkingv1.PolicyTypeIngress:
		return policy.Ingress
	case networkingv1.PolicyTypeEgress:
		return policy.Egress
	}
	r.bad(field, fmt.Sprintf("%q", t), "is not a direction", "use Ingress or Egress")
	return badDirection
}

func (r *reader) rule(field, end string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) (out policy.Rule) {
	for i, p := range peers {
		out.Peers = append(out.Peers, r.peer(fmt.Sprintf("%s.%s[%d]", field, end, i), p))
	}
	for i, p := range ports {
		out.Ports = append(out.Ports, r.port(fmt.Sprintf("%s.ports[%d]", field, i), p))
	}
	return out
}

func (r *reader) peer(field string, p networkingv1.NetworkPolicyPeer) policy.Peer {
	out := policy.Peer{Namespaces: selectorOf(p.NamespaceSelector), Pods: selectorOf(p.PodSelector)}
	if p.IPBlock != nil {
		out.Block = &policy.Block{CIDR: r.prefix(field+".ipBlock.cidr", p.IPBlock.CIDR)}
		for i, except := range p.IPBlock.Except {
			out.Block.Except = append(out.Block.Except, r.prefix(fmt.Sprintf("%s.ipBlock.except[%d]", field, i), except))
		}
	}
	return out
}

func (r *reader) prefix(field, text string) netip.Prefix {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		r.bad(field, fmt.Sprintf("%q", text), "is not a block of addresses", `one reads like "10.244.0.0/16" or "fd00::/64"`)
	}
	return p
}

func (r *reader) port(field string, p networkingv1.NetworkPolicyPort) policy.Port {
	out := policy.Port{Protocol: policy.TCP}
	if p.Protocol != nil {
		out.Protocol = r.protocol(field+".protocol", *p.Protocol)
	}
	switch {
	case p.Port == nil:
	case p.Port.Type == intstr.String && p.Port.StrVal != "":
		out.Name = p.Port.StrVal
	case p.Port.Type == intstr.String:
		r.bad(field+".port", `""`, "is not a port", "leave it out for all ports")
		out.Protocol = badProtocol // without a number this would be every port
	default:
		out.Number = r.number(field+".port", p.Port.IntVal, &out)
	}
	if p.EndPort != nil {
		out.End = r.number(field+".endPort", *p.EndPort, &out)
	}
	return out
}

// number spoils the port where n is no number of one: zero means something else there.
func (r *reader) number(field string, n int32, of *policy.Port) uint16 {
	if n < 1 || n > math.MaxUint16 {
		r.bad(field, n, "is not a port", "use 1 to 65535")
		of.Protocol = badProtocol
		return 0
	}
	return uint16(n)
}

func (r *reader) protocol(field string, p corev1.Protocol) policy.Protocol {
	switch p {
	case "", corev1.ProtocolTCP: // what comes from a file may never have been defaulted
		return policy.TCP
	case corev1.ProtocolUDP:
		return policy.UDP
	case corev1.ProtocolSCTP:
		return policy.SCTP
	}
	r.bad(field, fmt.Sprintf("%q", p), "is not a protocol", "use TCP, UDP or SCTP")
	return badProtocol
}

func selectorOf(s *metav1.LabelSelector) *policy.Selector {
	if s == nil {
		return nil
	}
	return new(selector(*s))
}

func selector(s metav1.LabelSelector) policy.Selector {
	out := policy.Selector{MatchLabels: s.MatchLabels}
	for _, r := range s.MatchExpressions {
		out.MatchExpressions = append(out.MatchExpressions, policy.Requirement{Key: r.Key, Operator: policy.Operator(r.Operator), Values: r.Values})
	}
	return out
}
