package iptables_test

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/iptables"
)

// The rules of a node whose one pod may be called by nobody, as iptables-restore reads them.
func ExampleText() {
	rules, err := policy.NewCompiler("node-1").Update(policy.Model{
		Pods:     []policy.Pod{{Namespace: "default", Name: "web", Node: "node-1", Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.10")}}},
		Policies: []policy.Policy{{Namespace: "default", Name: "deny-all"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := iptables.Text(iptables.Config{}, iptables.Spec{Rules: rules})
	if err != nil {
		fmt.Println(err)
		return
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "10.244.1.10") || strings.Contains(line, "deny-all") {
			fmt.Print(line)
		}
	}
	// Output:
	// add pwubbu4a-ingress 10.244.1.10
	// add pwubbu4akh27ho6wmey4caexilg5av5 10.244.1.10
	// -A pwubbuh27ho6wmey4caexilg5av5 -m comment --comment "isolated by policy default/deny-all" -j DROP
}
