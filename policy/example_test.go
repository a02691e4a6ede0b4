package policy_test

import (
	"fmt"
	"net/netip"

	"github.com/podweft/podweft/policy"
)

// Would a client reach the web server, and why? Two pods and a policy, before and after the client gets its label.
func Example() {
	web := policy.Pod{Namespace: "default", Name: "web", Labels: map[string]string{"app": "web"},
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.10")}}
	client := policy.Pod{Namespace: "default", Name: "client",
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.2.11")}}

	compiler := policy.NewCompiler("") // of all nodes
	rules, err := compiler.Update(policy.Model{
		Pods: []policy.Pod{web, client},
		Policies: []policy.Policy{{
			Namespace: "default", Name: "web-from-test",
			Pods: policy.Selector{MatchLabels: map[string]string{"app": "web"}},
			Ingress: []policy.Rule{{
				Peers: []policy.Peer{{Pods: &policy.Selector{MatchLabels: map[string]string{"role": "test"}}}},
				Ports: []policy.Port{{Protocol: policy.TCP, Number: 80}},
			}},
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	packet := policy.Packet{Src: client.Addresses[0], Dst: web.Addresses[0], Protocol: policy.TCP, Port: 80}
	fmt.Print(rules.Explain(packet))

	client.Labels = map[string]string{"role": "test"}
	rules, err = compiler.Update(policy.Model{Pods: []policy.Pod{client}})
	if err != nil {
		fmt.Println(err)
		return
	}
	verdict, why := rules.Evaluate(packet)
	fmt.Println(verdict, "by", why.Ingress.Policy, why.Ingress.Match)
	// Output:
	// 10.244.2.11 -> 10.244.1.10 TCP 80: denied
	//   egress  pod default/client: no policy speaks of it
	//   ingress pod default/web: isolated by policy default/web-from-test, and nothing there allows it
	//   policy default/web-from-test, ingress[0]: the source 10.244.2.11 is none of: pods role=test in namespace default
	// allowed by policy default/web-from-test ingress[0].from[0], pods role=test in namespace default
}
