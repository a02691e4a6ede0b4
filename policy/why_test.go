package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/policy"
)

func TestExplain(t *testing.T) {
	addr := netip.MustParseAddr
	clients := policy.Peer{Pods: labelled("role", "client")}
	deny := policy.ClusterPolicy{Name: "c", Tier: policy.Admin, Subject: policy.Subject{Namespaces: *labelled("team", "a")}, Ingress: []policy.ClusterRule{
		{Name: "no telnet", Action: policy.Deny, Peers: []policy.Peer{{Namespaces: &policy.Selector{}}}, Ports: []policy.Port{{Number: 23}}},
		{Action: policy.Pass, Peers: []policy.Peer{{Namespaces: &policy.Selector{}}}}}}
	m := policy.Model{
		Nodes:           []policy.Node{{Name: "n1", Addresses: []netip.Addr{addr("192.0.2.1")}}},
		Namespaces:      []policy.Namespace{{Name: "default", Labels: labelled("team", "a").MatchLabels}, {Name: "test"}},
		Pods:            crowd(),
		ClusterPolicies: []policy.ClusterPolicy{deny},
		Policies: []policy.Policy{
			ingress(policy.Rule{Peers: []policy.Peer{clients, block("203.0.113.0/24", "203.0.113.64/26"), block("203.0.113.77/32")}, Ports: []policy.Port{{Number: 80}, {Protocol: policy.UDP, Number: 53, End: 60}}},
				policy.Rule{Peers: []policy.Peer{{Namespaces: labelled("team", "b")}}}),
			{Namespace: "default", Name: "q", Pods: *labelled("app", "web")},
			{Namespace: "test", Name: "out", Pods: policy.Selector{}, Types: []policy.Direction{policy.Egress}, Egress: []policy.Rule{{Ports: []policy.Port{{Name: "dns", Protocol: policy.UDP}}}}},
		},
	}
	m.Pods[0].Node = "n1"
	rules, err := policy.Compile(m)
	require.NoError(t, err)

	tests := []struct {
		name   string
		packet policy.Packet
		want   string
	}{
		{"a rule allows it", policy.Packet{Src: addr("10.0.0.2"), Dst: addr("10.0.0.1"), Protocol: policy.TCP, Port: 80}, `
10.0.0.2 -> 10.0.0.1 TCP 80: allowed
  egress  pod default/client: no policy speaks of it
  ingress pod default/web: allowed by policy default/p, ingress[0].from[0], pods role=client in namespace default`},
		{"one of two blocks allows it", policy.Packet{Src: addr("203.0.113.77"), Dst: addr("10.0.0.1"), Protocol: policy.UDP, Port: 60}, `
203.0.113.77 -> 10.0.0.1 UDP 60: allowed
  egress  no pod of ours
  ingress pod default/web: allowed by policy default/p, ingress[0].from[2], 203.0.113.77/32`},
		{"the peer lacks", policy.Packet{Src: addr("10.0.0.3"), Dst: addr("10.0.0.1"), Protocol: policy.TCP, Port: 80}, `
10.0.0.3 -> 10.0.0.1 TCP 80: denied
  egress  pod default/other: no policy speaks of it
  ingress pod default/web: isolated by policy default/p, policy default/q, and nothing there allows it
  policy default/p, ingress[0]: the source 10.0.0.3 is none of: pods role=client in namespace default; 203.0.113.0/24 except 203.0.113.64/26; 203.0.113.77/32
  policy default/p, ingress[1]: the source 10.0.0.3 is none of: all pods in namespaces team=b
  policy default/q allows no ingress at all`},
		{"the port lacks", policy.Packet{Src: addr("10.0.0.2"), Dst: addr("10.0.0.1"), Protocol: policy.UDP, Port: 61}, `
10.0.0.2 -> 10.0.0.1 UDP 61: denied
  egress  pod default/client: no policy speaks of it
  ingress pod default/web: isolated by policy default/p, policy default/q, and nothing there allows it
  policy default/p, ingress[0]: allows the source, but only on: TCP 80, UDP 53-60
  policy default/p, ingress[1]: the source 10.0.0.2 is none of: all pods in namespaces team=b
  policy default/q allows no ingress at all`},
		{"both ends deny, and peer and port lack", policy.Packet{Src: addr("10.0.0.4"), Dst: addr("10.0.0.1"), Protocol: policy.TCP, Port: 22}, `
10.0.0.4 -> 10.0.0.1 TCP 22: denied
  egress  pod test/client: isolated by policy test/out, and nothing there allows it
  ingress pod default/web: isolated by policy default/p, policy default/q, and nothing there allows it
  policy test/out, egress[0]: allows the destination, but only on: UDP port "dns"
  policy default/p, ingress[0]: the source 10.0.0.4 is none of: pods role=client in namespace default; 203.0.113.0/24 except 203.0.113.64/26; 203.0.113.77/32; and only allows: TCP 80, UDP 53-60
  policy default/p, ingress[1]: the source 10.0.0.4 is none of: all pods in namespaces team=b
  policy default/q allows no ingress at all`},
		{"a cluster policy denies it", policy.Packet{Src: addr("10.0.0.2"), Dst: addr("10.0.0.1"), Protocol: policy.TCP, Port: 23}, `
10.0.0.2 -> 10.0.0.1 TCP 23: denied
  egress  pod default/client: no policy speaks of it
  ingress pod default/web: denied by cluster policy c, ingress[0] "no telnet".from[0], all pods in all namespaces`},
		{"the own node", policy.Packet{Src: addr("192.0.2.1"), Dst: addr("10.0.0.1"), Protocol: policy.TCP, Port: 1}, `
192.0.2.1 -> 10.0.0.1 TCP 1: allowed
  egress  no pod of ours
  ingress pod default/web: talks with its own node`},
		{"itself", policy.Packet{Src: addr("10.0.0.1"), Dst: addr("10.0.0.1"), Protocol: 1}, `
10.0.0.1 -> 10.0.0.1 protocol 1: allowed
  egress  pod default/web: talks with itself
  ingress pod default/web: talks with itself`},
		{"two families", policy.Packet{Src: addr("10.0.0.1"), Dst: addr("fd00::1"), Protocol: policy.TCP, Port: 1}, `
10.0.0.1 -> fd00::1 TCP 1: denied
  egress  no packet has such addresses
  ingress no packet has such addresses`},
		{"no addresses", policy.Packet{}, `
invalid IP -> invalid IP protocol 0: denied
  egress  no packet has such addresses
  ingress no packet has such addresses`},
		{"IPv4 as IPv6", policy.Packet{Src: addr("::ffff:10.0.0.2"), Dst: addr("10.0.0.1"), Protocol: policy.TCP, Port: 80}, `
10.0.0.2 -> 10.0.0.1 TCP 80: allowed
  egress  pod default/client: no policy speaks of it
  ingress pod default/web: allowed by policy default/p, ingress[0].from[0], pods role=client in namespace default`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, strings.TrimPrefix(tt.want, "\n")+"\n", rules.Explain(tt.packet))
		})
	}
}

func TestWhy(t *testing.T) {
	m := policy.Model{Pods: crowd(), Policies: []policy.Policy{
		from(policy.Peer{Pods: labelled("role", "nobody")}, block("10.0.0.0/30", "10.0.0.2/32"), policy.Peer{Pods: labelled("role", "client")})}}
	rules, err := policy.Compile(m)
	require.NoError(t, err)
	_, why := rules.Evaluate(policy.Packet{Src: m.Pods[1].Addresses[0], Dst: m.Pods[0].Addresses[0], Protocol: policy.TCP, Port: 80})
	assert.Equal(t, policy.Decision{
		Verdict: policy.Allowed, Reason: policy.ByRule, Pod: m.Pods[0].ID(), Policy: m.Policies[0].ID(), Rule: 0, Peer: 2,
		Match: "ingress[0].from[2], pods role=client in namespace default",
	}, why.Ingress)
	_, why = rules.Evaluate(policy.Packet{Src: m.Pods[2].Addresses[0], Dst: m.Pods[0].Addresses[0], Protocol: policy.TCP, Port: 80})
	assert.Equal(t, 1, why.Ingress.Peer, "the block")
	m.Policies[0].Ingress = []policy.Rule{{}}
	rules, err = policy.Compile(m)
	require.NoError(t, err)
	_, why = rules.Evaluate(policy.Packet{Src: m.Pods[2].Addresses[0], Dst: m.Pods[0].Addresses[0]})
	assert.Equal(t, -1, why.Ingress.Peer, "everybody")
	assert.Equal(t, "ingress[0]", why.Ingress.Match)
}

// TestEvaluateWithoutSets: a Ruleset that somebody made by hand may name what is not there.
func TestEvaluateWithoutSets(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.1")
	r := &policy.Ruleset{
		Endpoints: policy.Endpoints(policy.Endpoint{Addr: addr, Pod: &policy.Judged{Name: "a", Ingress: "k"}}),
		Classes:   []*policy.Class{{Name: "k", Admin: []string{"x"}, Policies: []string{"c"}, Baseline: []string{"y"}}},
		Chains: []*policy.Chain{{Name: "c", Matches: []policy.Match{{Action: policy.Accept, Peers: "p"}, {Action: policy.Accept, Blocks: "b"},
			{Action: policy.Accept, Protocol: policy.TCP, PortNames: "n"}}}},
	}
	p := policy.Packet{Src: netip.MustParseAddr("10.0.0.2"), Dst: addr, Protocol: policy.TCP, Port: 80}
	verdict, _ := r.Evaluate(p)
	assert.Equal(t, policy.Denied, verdict)
	assert.NotEmpty(t, r.String())
	assert.NotEmpty(t, r.Explain(p))
}
