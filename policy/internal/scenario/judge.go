package scenario

import (
	"net/netip"

	"github.com/podweft/podweft/policy"
)

// Judge says what becomes of a packet by reading every object of m as its documentation says, without any preparation. m must be
// valid but for addresses that several pods claim.
func Judge(m policy.Model, p policy.Packet) policy.Verdict {
	src, dst := podAt(m, p.Src), podAt(m, p.Dst)
	if src != nil && src == dst {
		return policy.Allowed
	}
	if src != nil && !lets(m, src, policy.Egress, p.Dst, dst, dst, p) || dst != nil && !lets(m, dst, policy.Ingress, p.Src, src, dst, p) {
		return policy.Denied
	}
	return policy.Allowed
}

// podAt returns the pod that has the address, if it is one that policies know.
func podAt(m policy.Model, a netip.Addr) *policy.Pod {
	var found *policy.Pod
	for i := range m.Pods {
		p := &m.Pods[i]
		if p.HostNetwork || p.Phase == policy.Finished {
			continue
		}
		for _, own := range p.Addresses {
			if own == a && (found == nil || before(p, found)) {
				found = p
			}
		}
	}
	return found
}

func before(a, b *policy.Pod) bool {
	if a.Phase != b.Phase {
		return a.Phase < b.Phase
	}
	if a.Namespace != b.Namespace {
		return a.Namespace < b.Namespace
	}
	return a.Name < b.Name
}

// lets says whether pod's end of the connection lets it through. remote is the other end, other its pod if it has one, and dst
// the destination's.
func lets(m policy.Model, pod *policy.Pod, d policy.Direction, remote netip.Addr, other, dst *policy.Pod, p policy.Packet) bool {
	for _, n := range m.Nodes {
		for _, a := range n.Addresses {
			if a == remote && n.Name == pod.Node {
				return true
			}
		}
	}
	if action := tier(m, policy.Admin, pod, d, remote, other, dst, p); action == policy.Accept || action == policy.Deny {
		return action == policy.Accept
	}
	isolated := false
	for _, np := range m.Policies {
		if np.Namespace != pod.Namespace || !selects(np.Pods, pod.Labels) || !isolates(np, d) {
			continue
		}
		isolated = true
		rules := np.Ingress
		if d == policy.Egress {
			rules = np.Egress
		}
		for _, r := range rules {
			if anyPeer(m, np.Namespace, r.Peers, remote, other) && anyPort(r.Ports, dst, p) {
				return true
			}
		}
	}
	if isolated {
		return false
	}
	return tier(m, policy.Baseline, pod, d, remote, other, dst, p) != policy.Deny
}

func isolates(np policy.Policy, d policy.Direction) bool {
	if len(np.Types) == 0 && d == policy.Ingress {
		return true
	}
	if len(np.Types) == 0 {
		return len(np.Egress) > 0
	}
	for _, t := range np.Types {
		if t == d {
			return true
		}
	}
	return false
}

// tier returns the action of the first rule that matches, of the first policy; 0 if none does.
func tier(m policy.Model, t policy.Tier, pod *policy.Pod, d policy.Direction, remote netip.Addr, other, dst *policy.Pod, p policy.Packet) policy.Action {
	var best *policy.ClusterPolicy
	var action policy.Action
	for i := range m.ClusterPolicies {
		c := &m.ClusterPolicies[i]
		if c.Tier != t || !inNamespaces(m, c.Subject.Namespaces, pod.Namespace) || !selects(c.Subject.Pods, pod.Labels) {
			continue
		}
		if best != nil && (best.Priority < c.Priority || best.Priority == c.Priority && best.Name < c.Name) {
			continue
		}
		rules := c.Ingress
		if d == policy.Egress {
			rules = c.Egress
		}
		for _, r := range rules {
			if anyPeer(m, "", r.Peers, remote, other) && anyPort(r.Ports, dst, p) {
				best, action = c, r.Action
				break
			}
		}
	}
	return action
}

func anyPeer(m policy.Model, own string, peers []policy.Peer, remote netip.Addr, other *policy.Pod) bool {
	for _, peer := range peers {
		switch {
		case peer.Block != nil:
			if inBlock(*peer.Block, remote) {
				return true
			}
		case other == nil:
		case peer.Namespaces == nil && other.Namespace != own:
		case peer.Namespaces != nil && !inNamespaces(m, *peer.Namespaces, other.Namespace):
		case peer.Pods == nil || selects(*peer.Pods, other.Labels):
			return true
		}
	}
	return len(peers) == 0
}

func inBlock(b policy.Block, a netip.Addr) bool {
	in := b.CIDR.Contains(a)
	for _, hole := range b.Except {
		in = in && !hole.Contains(a)
	}
	return in
}

func inNamespaces(m policy.Model, s policy.Selector, name string) bool {
	for _, n := range m.Namespaces {
		if n.Name == name {
			return selects(s, n.Labels)
		}
	}
	return false
}

func anyPort(ports []policy.Port, dst *policy.Pod, p policy.Packet) bool {
	for _, port := range ports {
		protocol := port.Protocol
		if protocol == 0 {
			protocol = policy.TCP
		}
		if protocol != p.Protocol {
			continue
		}
		if port.Name != "" {
			if dst != nil && hasPort(*dst, port.Name, protocol, p.Port) {
				return true
			}
			continue
		}
		last := port.Number
		if port.End != 0 {
			last = port.End
		}
		if port.Number == 0 || port.Number <= p.Port && p.Port <= last {
			return true
		}
	}
	return len(ports) == 0
}

func hasPort(pod policy.Pod, name string, protocol policy.Protocol, number uint16) bool {
	for _, p := range pod.Ports {
		of := p.Protocol
		if of == 0 {
			of = policy.TCP
		}
		if p.Name == name && of == protocol && p.Number == number {
			return true
		}
	}
	return false
}

// selects is written from the API's comments on LabelSelectorRequirement.
func selects(s policy.Selector, labels map[string]string) bool {
	for key, value := range s.MatchLabels {
		if !selects1(policy.Requirement{Key: key, Operator: policy.In, Values: []string{value}}, labels) {
			return false
		}
	}
	for _, r := range s.MatchExpressions {
		if !selects1(r, labels) {
			return false
		}
	}
	return true
}

func selects1(r policy.Requirement, labels map[string]string) bool {
	value, has := labels[r.Key]
	listed := false
	for _, v := range r.Values {
		listed = listed || v == value
	}
	switch r.Operator {
	case policy.In:
		return has && listed
	case policy.NotIn:
		return !has || !listed
	case policy.Exists:
		return has
	default: // DoesNotExist: m is valid
		return !has
	}
}
