package world

import (
	"fmt"
	"net/netip"

	"github.com/podweft/podweft/policy"
)

// Crowd is a cluster of 100 namespaces with 10 deployments of 10 pods and 10 policies each, spread over so many nodes: 10,000 pods
// of both families, 1,000 policies.
func Crowd(nodes int) policy.Model {
	var m policy.Model
	for ns := range 100 {
		namespace := fmt.Sprintf("ns-%d", ns)
		m.Namespaces = append(m.Namespaces, policy.Namespace{Name: namespace, Labels: map[string]string{"team": fmt.Sprint(ns % 10)}})
		for app := range 10 {
			for replica := range 10 {
				m.Pods = append(m.Pods, CrowdPod(ns, app, replica, nodes))
			}
			m.Policies = append(m.Policies, CrowdPolicy(ns, app))
		}
	}
	return m
}

// CrowdPod is one of its pods, or another like them.
func CrowdPod(ns, app, replica, nodes int) policy.Pod {
	return policy.Pod{
		Namespace: fmt.Sprintf("ns-%d", ns), Name: fmt.Sprintf("app-%d-%d", app, replica), Node: fmt.Sprintf("node-%d", (ns+app*10+replica)%nodes),
		Labels: map[string]string{"app": fmt.Sprint(app), "role": [...]string{"client", "server", "db"}[app%3]},
		Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{10, byte(ns), byte(app), byte(10 + replica)}),
			netip.AddrFrom16([16]byte{0: 0xfd, 12: 1, 13: byte(ns), 14: byte(app), 15: byte(10 + replica)}),
		},
		Ports: []policy.NamedPort{{Name: "http", Protocol: policy.TCP, Number: uint16(8000 + app)}},
	}
}

// CrowdPolicy is that of a deployment.
func CrowdPolicy(ns, app int) policy.Policy {
	neighbour := labels("app", fmt.Sprint((app+1)%10))
	return policy.Policy{
		Namespace: fmt.Sprintf("ns-%d", ns), Name: fmt.Sprintf("app-%d", app), Pods: *labels("app", fmt.Sprint(app)),
		Types: []policy.Direction{policy.Ingress, policy.Egress},
		Ingress: []policy.Rule{{
			Peers: []policy.Peer{
				{Pods: neighbour},
				{Namespaces: labels("team", fmt.Sprint((ns+app)%10)), Pods: labels("role", "client")},
				{Block: &policy.Block{CIDR: netip.MustParsePrefix("203.0.0.0/16"), Except: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}},
			},
			Ports: []policy.Port{{Number: uint16(8000 + app)}, {Protocol: policy.UDP, Number: 9000, End: 9010}},
		}},
		Egress: []policy.Rule{
			{Peers: []policy.Peer{{Pods: neighbour}}, Ports: []policy.Port{{Name: "http"}}},
			{Peers: []policy.Peer{{Namespaces: &policy.Selector{}, Pods: labels("role", "db")}}, Ports: []policy.Port{{Number: 5432}}},
		},
	}
}

func labels(pairs ...string) *policy.Selector {
	s := &policy.Selector{MatchLabels: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		s.MatchLabels[pairs[i]] = pairs[i+1]
	}
	return s
}
