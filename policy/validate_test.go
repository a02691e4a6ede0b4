package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy"
)

// crowd is pods that a mistake could let through: web, to whom the policies are, and four who would like to reach it.
func crowd() []policy.Pod {
	pod := func(namespace, name, address string, labels ...string) policy.Pod {
		return policy.Pod{Namespace: namespace, Name: name, Labels: labelled(labels...).MatchLabels,
			Addresses: []netip.Addr{netip.MustParseAddr(address)}, Ports: []policy.NamedPort{{Name: "http", Number: 80}}}
	}
	return []policy.Pod{pod("default", "web", "10.0.0.1", "app", "web"), pod("default", "client", "10.0.0.2", "role", "client"),
		pod("default", "other", "10.0.0.3"), pod("test", "client", "10.0.0.4", "role", "client")}
}

func ingress(rules ...policy.Rule) policy.Policy {
	return policy.Policy{Namespace: "default", Name: "p", Pods: *labelled("app", "web"), Ingress: rules}
}

func from(peers ...policy.Peer) policy.Policy { return ingress(policy.Rule{Peers: peers}) }

func on(ports ...policy.Port) policy.Policy { return ingress(policy.Rule{Ports: ports}) }

func block(cidr string, except ...string) policy.Peer {
	b := &policy.Block{CIDR: netip.MustParsePrefix(cidr)}
	for _, e := range except {
		b.Except = append(b.Except, netip.MustParsePrefix(e))
	}
	return policy.Peer{Block: b}
}

// TestBadPolicy: what makes no sense is reported by its place and lets nobody in.
func TestBadPolicy(t *testing.T) {
	everything, web := &policy.Selector{}, labelled("app", "web")
	tests := []struct {
		name   string
		policy policy.Policy
		want   []string
	}{
		{"an empty peer", from(policy.Peer{}),
			[]string{`spec.ingress[0].from[0]: is empty: select pods, namespaces or a block of addresses`}},
		{"a block and a selector", from(policy.Peer{Block: block("10.0.0.0/8").Block, Pods: everything}),
			[]string{`spec.ingress[0].from[0]: has a block of addresses and a selector: make two peers of it`}},
		{"no block", from(policy.Peer{Block: &policy.Block{}}),
			[]string{`spec.ingress[0].from[0].ipBlock.cidr: is missing or not a block of addresses: one reads like "10.244.0.0/16" or "fd00::/64"`}},
		{"IPv4 as IPv6", from(block("::ffff:10.0.0.0/104")),
			[]string{`spec.ingress[0].from[0].ipBlock.cidr: ::ffff:10.0.0.0/104 is IPv4 written as IPv6: write it as IPv4: that is how its packets travel`}},
		{"a hole that is none", from(policy.Peer{Block: &policy.Block{CIDR: netip.MustParsePrefix("10.0.0.0/8"), Except: make([]netip.Prefix, 1)}}),
			[]string{`spec.ingress[0].from[0].ipBlock.except[0]: is missing or not a block of addresses: one reads like "10.244.0.0/16" or "fd00::/64"`}},
		{"a hole as large as its block", from(block("10.0.0.0/8", "10.0.0.0/8")),
			[]string{`spec.ingress[0].from[0].ipBlock.except[0]: 10.0.0.0/8 is no part of 10.0.0.0/8: leave it out, or name a smaller block within`}},
		{"an operator", from(policy.Peer{Pods: new(one("a", "Gt", "1"))}),
			[]string{`spec.ingress[0].from[0].podSelector.matchExpressions[0].operator: "Gt" is not an operator: use In, NotIn, Exists or DoesNotExist`}},
		{"NotIn without values", from(policy.Peer{Pods: new(one("a", policy.NotIn))}),
			[]string{`spec.ingress[0].from[0].podSelector.matchExpressions[0].values: is missing: NotIn needs at least one value`}},
		{"Exists with values", from(policy.Peer{Namespaces: new(one("a", policy.DoesNotExist, "x"))}),
			[]string{`spec.ingress[0].from[0].namespaceSelector.matchExpressions[0].values: x has no meaning here: DoesNotExist takes no values`}},
		{"a key", from(policy.Peer{Pods: new(one("no key", policy.DoesNotExist))}),
			[]string{`spec.ingress[0].from[0].podSelector.matchExpressions[0].key: "no key" is not a label's key: write at most 63 letters, digits, "-", "_" and ".", perhaps after a DNS name and "/"`}},
		{"a value", from(policy.Peer{Pods: new(one("a", policy.NotIn, "x y"))}),
			[]string{`spec.ingress[0].from[0].podSelector.matchExpressions[0].values: "x y" is not a label's value: write at most 63 letters, digits, "-", "_" and "."`}},
		{"a label", from(policy.Peer{Pods: labelled("a/b/c", "x", "z", "-")}),
			[]string{`spec.ingress[0].from[0].podSelector.matchLabels: "a/b/c" is not a label's key: write at most 63 letters, digits, "-", "_" and ".", perhaps after a DNS name and "/"`,
				`spec.ingress[0].from[0].podSelector.matchLabels: "-" is not a label's value: write at most 63 letters, digits, "-", "_" and "."`}},
		{"a protocol", on(policy.Port{Protocol: 1}),
			[]string{`spec.ingress[0].ports[0].protocol: 1 is not a protocol with ports: use TCP, UDP or SCTP`}},
		{"a name and a number", on(policy.Port{Name: "http", Number: 80}),
			[]string{`spec.ingress[0].ports[0].port: http is given by name and by number: make two ports of it`}},
		{"a port's name", on(policy.Port{Name: "HTTP"}),
			[]string{`spec.ingress[0].ports[0].port: "HTTP" is not a port's name: write at most 15 lower-case letters, digits and "-", at least one of them a letter`}},
		{"an end before the beginning", on(policy.Port{Number: 80, End: 79}),
			[]string{`spec.ingress[0].ports[0].endPort: 79 comes before port 80`}},
		{"an end without a beginning", on(policy.Port{End: 80}),
			[]string{`spec.ingress[0].ports[0].endPort: 80 has no beginning: give the number of the first port beside it`}},
		{"an end after a name", on(policy.Port{Name: "http", End: 80}),
			[]string{`spec.ingress[0].ports[0].endPort: 80 has no beginning: give the number of the first port beside it`}},
		{"several problems", policy.Policy{Namespace: "default", Name: "p", Pods: *web, Types: []policy.Direction{policy.Ingress},
			Ingress: []policy.Rule{{Peers: []policy.Peer{{}}}, {Peers: []policy.Peer{{Pods: everything}}, Ports: []policy.Port{{Protocol: 1}}}},
			Egress:  []policy.Rule{{Peers: []policy.Peer{{}}}}},
			[]string{`spec.ingress[0].from[0]: is empty: select pods, namespaces or a block of addresses`,
				`spec.ingress[1].ports[0].protocol: 1 is not a protocol with ports: use TCP, UDP or SCTP`,
				`spec.egress[0].to[0]: is empty: select pods, namespaces or a block of addresses`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := policy.Model{Pods: crowd(), Policies: []policy.Policy{tt.policy}}
			rules, err := policy.Compile(m)
			for i := range tt.want {
				tt.want[i] = "policy default/p: " + tt.want[i]
			}
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.Equal(t, tt.want, strings.Split(err.Error(), "\n"))
			assert.Equal(t, err, m.Validate())
			for _, pod := range m.Pods[1:] {
				packet := policy.Packet{Src: pod.Addresses[0], Dst: m.Pods[0].Addresses[0], Protocol: policy.TCP, Port: 80}
				verdict, why := rules.Evaluate(packet)
				assert.Equal(t, policy.Denied, verdict, "%s", why)
				assert.Contains(t, rules.Explain(packet), "policy default/p", "is isolated by it")
			}
		})
	}
}

// TestBadPart: only what makes no sense is left out of a policy.
func TestBadPart(t *testing.T) {
	m := policy.Model{Pods: crowd(), Policies: []policy.Policy{ingress(
		policy.Rule{Peers: []policy.Peer{{}, {Pods: labelled("role", "client")}}, Ports: []policy.Port{{Protocol: 1}, {Number: 80}}})}}
	rules, err := policy.Compile(m)
	require.ErrorIs(t, err, podweft.ErrInvalid)
	got := func(i int, port uint16) policy.Verdict {
		verdict, _ := rules.Evaluate(policy.Packet{Src: m.Pods[i].Addresses[0], Dst: m.Pods[0].Addresses[0], Protocol: policy.TCP, Port: port})
		return verdict
	}
	assert.Equal(t, policy.Allowed, got(1, 80))
	assert.Equal(t, policy.Denied, got(1, 81))
	assert.Equal(t, policy.Denied, got(2, 80))
}

// TestBadClusterPolicy: in an ordered list a rule that is left out would let later ones decide. So an Accept that makes no sense
// matches nothing, and a Deny or Pass denies all.
func TestBadClusterPolicy(t *testing.T) {
	everyone := policy.Peer{Namespaces: &policy.Selector{}}
	tests := []struct {
		name  string
		peers []policy.Peer
		ports []policy.Port
		want  string
	}{
		{"no peers", nil, nil, `from: is missing: {namespaces: {}} is every pod`},
		{"an empty peer", []policy.Peer{everyone, {}}, nil, `from[1]: is empty: select pods, namespaces or a block of addresses`},
		{"pods without namespaces", []policy.Peer{{Pods: &policy.Selector{}}}, nil, `from[0].namespaceSelector: is missing: {} selects all namespaces`},
		{"networks in ingress", []policy.Peer{block("10.0.0.0/8")}, nil, `from[0].networks: 10.0.0.0/8 is not for ingress: select pods or namespaces`},
		{"a port", []policy.Peer{everyone}, []policy.Port{{Number: 80, End: 1}}, `ports[0].endPort: 1 comes before port 80`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for action, want := range map[policy.Action]policy.Verdict{policy.Accept: policy.Denied, policy.Deny: policy.Denied, policy.Pass: policy.Denied} {
				m := policy.Model{Pods: crowd(), Namespaces: []policy.Namespace{{Name: "default"}, {Name: "test"}},
					ClusterPolicies: []policy.ClusterPolicy{{Name: "c", Tier: policy.Admin, Ingress: []policy.ClusterRule{
						{Action: action, Peers: tt.peers, Ports: tt.ports},
						{Action: policy.Deny, Peers: []policy.Peer{everyone}, Ports: nil},
					}}}}
				rules, err := policy.Compile(m)
				require.EqualError(t, err, "cluster policy c: spec.ingress[0]."+tt.want)
				verdict, why := rules.Evaluate(policy.Packet{Src: m.Pods[1].Addresses[0], Dst: m.Pods[0].Addresses[0], Protocol: policy.TCP, Port: 80})
				assert.Equal(t, want, verdict, "%s: %s", action, why)
				assert.Equal(t, map[policy.Action]int{policy.Accept: 1}[action], why.Ingress.Rule, "the rule that decided: %s", why)
			}
		})
	}
}

func TestBadClusterPolicyAsAWhole(t *testing.T) {
	tests := []struct {
		name   string
		policy policy.ClusterPolicy
		want   string
	}{
		{"no tier", policy.ClusterPolicy{Name: "c"}, `cluster policy c: spec.tier: 0 is not a tier: use Admin or Baseline`},
		{"a tier for others", policy.ClusterPolicy{Name: "c", Tier: policy.Namespaced}, `cluster policy c: spec.tier: 2 is not a tier: use Admin or Baseline`},
		{"priority", policy.ClusterPolicy{Name: "c", Tier: policy.Admin, Priority: 1001}, `cluster policy c: spec.priority: 1001 is out of range: use 0 to 1000; 0 comes first`},
		{"no name", policy.ClusterPolicy{Tier: policy.Admin}, `cluster policy : metadata.name: is missing`},
		{"subject", policy.ClusterPolicy{Name: "c", Tier: policy.Admin, Subject: policy.Subject{Namespaces: one("a", "Is")}},
			`cluster policy c: spec.subject.namespaces.matchExpressions[0].operator: "Is" is not an operator: use In, NotIn, Exists or DoesNotExist`},
		{"action", policy.ClusterPolicy{Name: "c", Tier: policy.Admin, Ingress: []policy.ClusterRule{{Peers: []policy.Peer{{Namespaces: &policy.Selector{}}}}}},
			`cluster policy c: spec.ingress[0].action: 0 is not an action: use Accept, Deny or Pass`},
		{"holes in networks", policy.ClusterPolicy{Name: "c", Tier: policy.Admin, Egress: []policy.ClusterRule{
			{Action: policy.Deny, Peers: []policy.Peer{block("10.0.0.0/8", "10.1.0.0/16")}}}},
			`cluster policy c: spec.egress[0].to[0].networks: 10.0.0.0/8 except 10.1.0.0/16 has holes: write a rule for them before this one`},
		{"a name for ports of networks", policy.ClusterPolicy{Name: "c", Tier: policy.Admin, Egress: []policy.ClusterRule{
			{Action: policy.Deny, Peers: []policy.Peer{block("10.0.0.0/8")}, Ports: []policy.Port{{Name: "http"}}}}},
			`cluster policy c: spec.egress[0].ports[0].destinationNamedPort: http is not for networks: they have no names for ports: give its number`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.EqualError(t, policy.Model{ClusterPolicies: []policy.ClusterPolicy{tt.policy}}.Validate(), tt.want)
		})
	}
}

func TestBadObjects(t *testing.T) {
	pod := func(p policy.Pod) policy.Model {
		p.Namespace, p.Name = "default", "web"
		return policy.Model{Pods: []policy.Pod{p}}
	}
	addr := netip.MustParseAddr
	tests := []struct {
		name  string
		model policy.Model
		want  string
	}{
		{"a pod without name", policy.Model{Pods: []policy.Pod{{Namespace: "default"}}}, `pod default/: metadata.name: is missing`},
		{"a pod without namespace", policy.Model{Pods: []policy.Pod{{Name: "web"}}}, `pod web: metadata.namespace: is missing: use "default" where kubectl would`},
		{"a policy without namespace", policy.Model{Policies: []policy.Policy{{Name: "p"}}}, `policy p: metadata.namespace: is missing: use "default" where kubectl would`},
		{"a namespace without name", policy.Model{Namespaces: []policy.Namespace{{}}}, `namespace : metadata.name: is missing`},
		{"a node without name", policy.Model{Nodes: []policy.Node{{}}}, `node : metadata.name: is missing`},
		{"no address", pod(policy.Pod{Addresses: []netip.Addr{{}}}), `pod default/web: status.podIPs: is not an address`},
		{"IPv4 as IPv6", pod(policy.Pod{Addresses: []netip.Addr{addr("::ffff:10.0.0.1")}}),
			`pod default/web: status.podIPs: ::ffff:10.0.0.1 is IPv4 written as IPv6: write 10.0.0.1: that is how its packets travel`},
		{"a zone", pod(policy.Pod{Addresses: []netip.Addr{addr("fe80::1%eth0")}}),
			`pod default/web: status.podIPs: fe80::1%eth0 is not an address that others can send to: leave it out`},
		{"everybody's address", policy.Model{Nodes: []policy.Node{{Name: "n", Addresses: []netip.Addr{addr("224.0.0.1")}}}},
			`node n: status.addresses: 224.0.0.1 is not an address that others can send to: leave it out`},
		{"a port without number", pod(policy.Pod{Ports: []policy.NamedPort{{Name: "http"}}}),
			`pod default/web: spec.containers[].ports: http has no number: use 1 to 65535`},
		{"a port's name", pod(policy.Pod{Ports: []policy.NamedPort{{Name: "80", Number: 80}}}),
			`pod default/web: spec.containers[].ports: "80" is not a port's name`},
		{"a port's protocol", pod(policy.Pod{Ports: []policy.NamedPort{{Name: "ping", Number: 8, Protocol: 1}}}),
			`pod default/web: spec.containers[].ports: 1 is not a protocol with ports: use TCP, UDP or SCTP`},
		{"a type", policy.Model{Policies: []policy.Policy{{Namespace: "default", Name: "p", Types: []policy.Direction{policy.Ingress, 3}}}},
			`policy default/p: spec.policyTypes[1]: 3 is not a direction: use Ingress or Egress`},
		{"a subject", policy.Model{Policies: []policy.Policy{{Namespace: "default", Name: "p", Pods: one("", policy.Exists)}}},
			`policy default/p: spec.podSelector.matchExpressions[0].key: "" is not a label's key: write at most 63 letters, digits, "-", "_" and ".", perhaps after a DNS name and "/"`},
		{"two of one name", policy.Model{Namespaces: []policy.Namespace{{Name: "a"}, {Name: "a"}}},
			`namespace a: is there twice: the last one counts: remove the others`},
		{"two pods with one address", policy.Model{Pods: []policy.Pod{
			{Namespace: "default", Name: "b", Addresses: []netip.Addr{addr("10.0.0.1")}},
			{Namespace: "default", Name: "a", Addresses: []netip.Addr{addr("10.0.0.1")}, Phase: policy.Terminating}}},
			`pod default/a: status.podIPs: 10.0.0.1 is also that of pod default/b, which has it: remove the pod that has ended`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.model.Validate()
			require.EqualError(t, err, tt.want)
			require.ErrorIs(t, err, podweft.ErrInvalid)
			var field *podweft.FieldError
			require.ErrorAs(t, err, &field)
		})
	}
}

// TestBadType: what was meant may have been either direction.
func TestBadType(t *testing.T) {
	bad := ingress()
	bad.Types = []policy.Direction{9}
	m := policy.Model{Pods: crowd(), Policies: []policy.Policy{bad}}
	rules, err := policy.Compile(m)
	require.Error(t, err)
	web, client := m.Pods[0].Addresses[0], m.Pods[1].Addresses[0]
	for _, p := range []policy.Packet{{Src: client, Dst: web}, {Src: web, Dst: client}} {
		verdict, why := rules.Evaluate(p)
		assert.Equal(t, policy.Denied, verdict, "%s", why)
	}
}

// TestUpdateMends: what was wrong once is put right by putting it again.
func TestUpdateMends(t *testing.T) {
	c := policy.NewCompiler("")
	bad := policy.Policy{Namespace: "default", Name: "p", Pods: one("a", "Gt")}
	_, err := c.Update(policy.Model{Pods: crowd(), Policies: []policy.Policy{bad}})
	require.Error(t, err)
	_, err = c.Update(policy.Model{Pods: crowd()[:1]})
	require.NoError(t, err, "problems are reported once")
	got, err := c.Update(policy.Model{Policies: []policy.Policy{from()}})
	require.NoError(t, err)
	want, err := policy.Compile(policy.Model{Pods: crowd(), Policies: []policy.Policy{from()}})
	require.NoError(t, err)
	assert.Equal(t, want, got)
	got, err = c.Update(policy.Model{Policies: []policy.Policy{bad}})
	require.Error(t, err)
	assert.Empty(t, got.Chains, "a policy that makes no sense any more is none")
}
