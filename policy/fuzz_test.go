package policy_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
)

// FuzzEvaluate asks about packets with any addresses, which may be none, of two families, with a zone, or IPv4 in IPv6 form.
func FuzzEvaluate(f *testing.F) {
	m := scenario.Cluster()
	for _, s := range scenario.All() {
		if s.Name == "all three tiers" {
			m = scenario.Change(m, s.Put, nil)
		}
	}
	rules, err := policy.Compile(m)
	require.NoError(f, err)
	require.Len(f, rules.Classes, 2)
	for _, text := range []string{"", "10.244.1.11", "::ffff:10.244.1.11", "fe80::1%eth0", "fd00:10:244:1::11%x", "::", "0.0.0.0", "192.0.2.1"} {
		f.Add(text, "10.244.1.10", byte(6), uint16(80))
		f.Add("fd00:10:244:1::10", text, byte(17), uint16(0))
	}
	f.Fuzz(func(t *testing.T, from, to string, protocol byte, port uint16) {
		src, _ := netip.ParseAddr(from)
		dst, _ := netip.ParseAddr(to)
		p := policy.Packet{Src: src, Dst: dst, Protocol: policy.Protocol(protocol), Port: port}
		got, why := rules.Evaluate(p)
		require.Equal(t, why.Verdict(), got)
		require.Contains(t, rules.Explain(p), got.String())
		want := policy.Denied
		if q := why.Packet; q.Src.IsValid() && q.Dst.IsValid() && q.Src.Is4() == q.Dst.Is4() {
			want = scenario.Judge(m, q)
		}
		require.Equal(t, want, got)
	})
}

// FuzzCompile compiles clusters in which anything may be anything. Whatever comes of it is the same once more, and in steps.
func FuzzCompile(f *testing.F) {
	f.Add([]byte("a"), "x", uint16(1), byte(1))
	f.Add([]byte{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9}, "no key", uint16(0), byte(0))
	f.Add([]byte{2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5, 9, 0, 4, 5}, "NotIn", uint16(65535), byte(255))
	f.Fuzz(func(t *testing.T, numbers []byte, text string, number uint16, small byte) {
		next := 0
		r := scenario.Random{Choose: func(n int) int {
			if next++; next > len(numbers) {
				return 0
			}
			return int(numbers[next-1]) % n
		}}
		m := r.Model()
		// The fuzzer's own values in every place that takes one.
		prefix, _ := netip.ParsePrefix(text)
		addr, _ := netip.ParseAddr(text)
		for i := range m.Policies {
			p := &m.Policies[i]
			switch r.Choose(7) {
			case 1:
				p.Name = text
			case 2:
				p.Types = append(p.Types, policy.Direction(small))
			case 3:
				p.Pods = one(text, policy.Operator(text), text)
			case 4:
				p.Ingress = append(p.Ingress, policy.Rule{Peers: []policy.Peer{{Block: &policy.Block{CIDR: prefix, Except: []netip.Prefix{prefix}}}}})
			case 5:
				p.Egress = append(p.Egress, policy.Rule{Ports: []policy.Port{{Protocol: policy.Protocol(small), Number: number, End: uint16(small), Name: text}}})
			case 6:
				p.Ingress = append(p.Ingress, policy.Rule{Peers: []policy.Peer{{Pods: new(one(text, policy.In, text)), Block: &policy.Block{}}, {}}})
			}
		}
		for i := range m.ClusterPolicies {
			c := &m.ClusterPolicies[i]
			c.Tier, c.Priority = policy.Tier(int(c.Tier)+r.Choose(3)), int(number)*r.Choose(2)
			c.Ingress = append(c.Ingress, policy.ClusterRule{Name: text, Action: policy.Action(small)})
		}
		for i := range m.Pods {
			p := &m.Pods[i]
			switch r.Choose(4) {
			case 1:
				p.Addresses = append(p.Addresses, addr)
			case 2:
				p.Ports = append(p.Ports, policy.NamedPort{Name: text, Number: number, Protocol: policy.Protocol(small)})
			case 3:
				p.Phase = policy.Phase(small)
			}
		}
		rules, err := policy.Compile(m)
		again, errAgain := policy.Compile(m)
		require.Equal(t, rules, again)
		require.Equal(t, err, errAgain)
		require.NotNil(t, rules)

		c := policy.NewCompiler("")
		for i := range m.Pods {
			c.Update(policy.Model{Pods: m.Pods[i : i+1]})
		}
		for i := range m.Policies {
			c.Update(policy.Model{Policies: m.Policies[i : i+1]})
		}
		stepwise, _ := c.Update(policy.Model{Nodes: m.Nodes, Namespaces: m.Namespaces, ClusterPolicies: m.ClusterPolicies})
		require.Equal(t, rules, stepwise)
		for range 8 {
			rules.Explain(r.Packet())
		}
	})
}
