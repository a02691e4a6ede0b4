package iptables_test

import (
	"net/netip"
	"testing"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/iptables"
)

// village is two pods of node-1, and a third elsewhere: web may be called by clients, on port 80.
func village() policy.Model {
	pod := func(name, node string, last byte) policy.Pod {
		return policy.Pod{Namespace: "default", Name: name, Node: node, Labels: map[string]string{"app": name}, Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 244, 1, last}), netip.AddrFrom16([16]byte{0: 0xfd, 15: last})}}
	}
	addr := netip.MustParseAddr
	return policy.Model{
		Nodes: []policy.Node{
			{Name: "node-1", Addresses: []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}},
			{Name: "node-2", Addresses: []netip.Addr{addr("192.0.2.2"), addr("2001:db8::2")}},
		},
		Namespaces: []policy.Namespace{{Name: "default"}},
		Pods:       []policy.Pod{pod("web", "node-1", 10), pod("client", "node-1", 11), pod("other", "node-2", 12)},
		Policies: []policy.Policy{{
			Namespace: "default", Name: "web", Pods: app("web"),
			Ingress: []policy.Rule{{Peers: []policy.Peer{{Pods: new(app("client"))}}, Ports: []policy.Port{{Number: 80}, {Number: 8000, End: 8010}}}},
		}},
	}
}

func app(name string) policy.Selector {
	return policy.Selector{MatchLabels: map[string]string{"app": name}}
}

// villageSpec closes all of the pods' addresses of node-1.
func villageSpec(t testing.TB) iptables.Spec {
	return iptables.Spec{Rules: compiled(t, village(), "node-1"), Closed: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}
}
