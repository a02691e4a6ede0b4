package netpol

import (
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"github.com/podweft/podweft/policy"
)

// clusterNetworkPolicy is what we read of a ClusterNetworkPolicy (sigs.k8s.io/network-policy-api, apis/v1alpha2). Its module would
// bring a newer k8s.io/api than we ask for.
type clusterNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Tier     string `json:"tier"`
		Priority *int32 `json:"priority"`
		Subject  struct {
			Namespaces *metav1.LabelSelector `json:"namespaces"`
			Pods       *namespacedPod        `json:"pods"`
		} `json:"subject"`
		Ingress []clusterRule `json:"ingress"`
		Egress  []clusterRule `json:"egress"`
	} `json:"spec"`
	Status any `json:"status"`
}

type namespacedPod struct {
	NamespaceSelector metav1.LabelSelector `json:"namespaceSelector"`
	PodSelector       metav1.LabelSelector `json:"podSelector"`
}

type clusterRule struct {
	Name      string            `json:"name"`
	Action    string            `json:"action"`
	From      []clusterPeer     `json:"from"`
	To        []clusterPeer     `json:"to"`
	Protocols []clusterProtocol `json:"protocols"`
}

type clusterPeer struct {
	Namespaces *metav1.LabelSelector `json:"namespaces"`
	Pods       *namespacedPod        `json:"pods"`
	Networks   []string              `json:"networks"`
	// Experimental; not supported.
	Nodes       *metav1.LabelSelector `json:"nodes"`
	DomainNames []string              `json:"domainNames"`
}

type clusterProtocol struct {
	TCP                  *clusterPorts `json:"tcp"`
	UDP                  *clusterPorts `json:"udp"`
	SCTP                 *clusterPorts `json:"sctp"`
	DestinationNamedPort string        `json:"destinationNamedPort"`
}

type clusterPorts struct {
	DestinationPort *struct {
		Number *int32 `json:"number"`
		Range  *struct {
			Start int32 `json:"start"`
			End   int32 `json:"end"`
		} `json:"range"`
	} `json:"destinationPort"`
}

// ClusterPolicy turns the JSON of a ClusterNetworkPolicy into a policy. The error joins what cannot be read, as that of [Policy] does;
// where ok is false nobody can tell whom the policy is about, or when it is asked, and there is none.
func ClusterPolicy(data []byte) (p policy.ClusterPolicy, ok bool, err error) {
	p, ok, errs := clusterPolicy(data)
	return p, ok, errors.Join(errs...)
}

func clusterPolicy(data []byte) (p policy.ClusterPolicy, ok bool, errs []error) {
	var c clusterNetworkPolicy
	unknown, err := kjson.UnmarshalStrict(data, &c)
	if err != nil {
		return p, false, []error{err}
	}
	p, ok, err = c.policy()
	if err != nil {
		unknown = append(unknown, err)
	}
	return p, ok, unknown
}

// policy returns the policy; where ok is false nobody can tell whom it is about, or when it is asked.
func (c *clusterNetworkPolicy) policy() (p policy.ClusterPolicy, ok bool, err error) {
	p = policy.ClusterPolicy{Name: c.Name}
	r := reader{of: p.ID()}
	switch c.Spec.Tier {
	case policy.Admin.String():
		p.Tier = policy.Admin
	case policy.Baseline.String():
		p.Tier = policy.Baseline
	default:
		r.bad("spec.tier", fmt.Sprintf("%q", c.Spec.Tier), "is not a tier", "use Admin or Baseline")
	}
	switch c.Spec.Priority {
	case nil:
		r.bad("spec.priority", nil, "is missing", "use 0 to 1000; 0 comes first")
	default:
		p.Priority = int(*c.Spec.Priority)
	}
	switch s := c.Spec.Subject; {
	case (s.Namespaces == nil) == (s.Pods == nil):
		r.bad("spec.subject", nil, "is not one of namespaces and pods", "{namespaces: {}} is every pod")
	case s.Pods != nil:
		p.Subject = policy.Subject{Namespaces: selector(s.Pods.NamespaceSelector), Pods: selector(s.Pods.PodSelector)}
	default:
		p.Subject.Namespaces = selector(*s.Namespaces)
	}
	ok = len(r.errs) == 0
	for i, rule := range c.Spec.Ingress {
		p.Ingress = append(p.Ingress, r.clusterRule(fmt.Sprintf("spec.ingress[%d]", i), "from", rule, rule.From, rule.To))
	}
	for i, rule := range c.Spec.Egress {
		p.Egress = append(p.Egress, r.clusterRule(fmt.Sprintf("spec.egress[%d]", i), "to", rule, rule.To, rule.From))
	}
	return p, ok, errors.Join(r.errs...)
}

func (r *reader) clusterRule(field, end string, rule clusterRule, peers, others []clusterPeer) policy.ClusterRule {
	out := policy.ClusterRule{Name: rule.Name}
	switch rule.Action {
	case policy.Accept.String():
		out.Action = policy.Accept
	case policy.Deny.String():
		out.Action = policy.Deny
	case policy.Pass.String():
		out.Action = policy.Pass
	default:
		r.bad(field+".action", fmt.Sprintf("%q", rule.Action), "is not an action", "use Accept, Deny or Pass")
	}
	for i, p := range peers {
		out.Peers = append(out.Peers, r.clusterPeers(fmt.Sprintf("%s.%s[%d]", field, end, i), p)...)
	}
	if len(others) > 0 {
		r.bad(field, nil, "has peers of the other direction", "write them as "+end)
		out.Peers = append(out.Peers, policy.Peer{})
	}
	for i, p := range rule.Protocols {
		out.Ports = append(out.Ports, r.clusterPorts(fmt.Sprintf("%s.protocols[%d]", field, i), p)...)
	}
	return out
}

// clusterPeers returns the peer; of networks there is one for each. What nobody can tell is an empty peer, which spoils the rule.
func (r *reader) clusterPeers(field string, p clusterPeer) (out []policy.Peer) {
	if p.Nodes != nil || len(p.DomainNames) > 0 {
		r.bad(field, nil, "selects nodes or domainNames, which are experimental and not supported", "use networks")
		return []policy.Peer{{}}
	}
	if p.Namespaces != nil {
		out = append(out, policy.Peer{Namespaces: selectorOf(p.Namespaces)})
	}
	if p.Pods != nil {
		out = append(out, policy.Peer{Namespaces: new(selector(p.Pods.NamespaceSelector)), Pods: new(selector(p.Pods.PodSelector))})
	}
	kinds := len(out)
	for i, cidr := range p.Networks {
		out = append(out, policy.Peer{Block: &policy.Block{CIDR: r.prefix(fmt.Sprintf("%s.networks[%d]", field, i), cidr)}})
	}
	if len(p.Networks) > 0 {
		kinds++
	}
	if kinds != 1 {
		r.bad(field, nil, "is not one of namespaces, pods and networks", "make a peer of each")
		return []policy.Peer{{}}
	}
	return out
}

func (r *reader) clusterPorts(field string, p clusterProtocol) (out []policy.Port) {
	if p.DestinationNamedPort != "" { // of whichever protocol the pod has it
		for _, protocol := range []policy.Protocol{policy.TCP, policy.UDP, policy.SCTP} {
			out = append(out, policy.Port{Protocol: protocol, Name: p.DestinationNamedPort})
		}
	}
	kinds := min(len(out), 1)
	for _, of := range []struct {
		policy.Protocol
		field string
		ports *clusterPorts
	}{{policy.TCP, ".tcp", p.TCP}, {policy.UDP, ".udp", p.UDP}, {policy.SCTP, ".sctp", p.SCTP}} {
		if of.ports != nil {
			kinds++
			out = append(out, r.clusterPort(field+of.field+".destinationPort", of.Protocol, of.ports))
		}
	}
	if kinds != 1 {
		r.bad(field, nil, "is not one of tcp, udp, sctp and destinationNamedPort", "make a protocol of each")
		return []policy.Port{{Protocol: badProtocol}}
	}
	return out
}

func (r *reader) clusterPort(field string, protocol policy.Protocol, p *clusterPorts) policy.Port {
	out := policy.Port{Protocol: protocol}
	switch d := p.DestinationPort; {
	case d == nil: // every port
	case (d.Number == nil) == (d.Range == nil):
		r.bad(field, nil, "is not one of number and range", "use {number: 80} or {range: {start: 8000, end: 8010}}")
		out.Protocol = badProtocol
	case d.Number != nil:
		out.Number = r.number(field+".number", *d.Number, &out)
	default:
		out.Number = r.number(field+".range.start", d.Range.Start, &out)
		out.End = r.number(field+".range.end", d.Range.End, &out)
	}
	return out
}
