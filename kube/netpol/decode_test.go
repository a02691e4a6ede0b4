package netpol_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/kube/netpol"
	"github.com/podweft/podweft/policy"
)

func read(t testing.TB, names ...string) (files []netpol.File) {
	for _, name := range names {
		data, err := os.ReadFile("testdata/" + name)
		require.NoError(t, err)
		files = append(files, netpol.File{Name: name, Data: data})
	}
	return files
}

// TestTutorials plays what readers of the common tutorials do: apply the policy, see the client refused, label it or its namespace,
// see it let in.
func TestTutorials(t *testing.T) {
	type step struct {
		labelPods       map[string]string // "test/client": "role=test"
		labelNamespaces map[string]string
		allowed, denied []string // sources, of the web server's port 80
	}
	tests := []struct {
		file  string
		steps []step
	}{
		{"tutorial-1.yaml", []step{
			{denied: []string{"default/client", "test/client", "myproject/frontend", "203.0.113.7"}, allowed: []string{"192.0.2.1"}},
			{labelPods: map[string]string{"default/client": "role=test"}, allowed: []string{"default/client"}, denied: []string{"test/client"}},
			{labelPods: map[string]string{"test/client": "role=test"}, denied: []string{"test/client"}, allowed: []string{"default/client"}},
		}},
		{"tutorial-2.yaml", []step{
			{denied: []string{"default/client", "test/client", "myproject/frontend", "192.0.2.2"}},
			{labelNamespaces: map[string]string{"test": "project=test"}, allowed: []string{"test/client"}, denied: []string{"default/client"}},
			{labelPods: map[string]string{"default/client": "role=test"}, allowed: []string{"default/client", "test/client"}, denied: []string{"myproject/frontend"}},
		}},
		{"tutorial-3.yaml", []step{
			{denied: []string{"default/client", "test/client"}},
			{labelPods: map[string]string{"default/client": "role=test", "test/client": "role=test"}, denied: []string{"default/client", "test/client"}},
			{labelNamespaces: map[string]string{"test": "project=test"}, allowed: []string{"test/client"}, denied: []string{"default/client"}},
		}},
		{"tutorial-4.yaml", []step{
			{allowed: []string{"192.168.56.0", "192.168.56.1", "192.168.56.255", "myproject/frontend"},
				denied: []string{"192.168.55.255", "192.168.57.0", "default/client", "test/client"}},
			{labelPods: map[string]string{"test/client": "role=frontend"}, denied: []string{"test/client"}},
			{labelNamespaces: map[string]string{"test": "project=myproject"}, allowed: []string{"test/client"}},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			m, err := netpol.Decode(read(t, "cluster.yaml", tt.file)...)
			require.NoError(t, err)
			compiler := policy.NewCompiler("")
			_, err = compiler.Update(m)
			require.NoError(t, err)
			web := pod(t, m, "default/web")
			for i, step := range tt.steps {
				var put policy.Model
				for name, label := range step.labelPods {
					p := pod(t, m, name)
					p.Labels = with(p.Labels, label)
					put.Pods = append(put.Pods, *p)
				}
				for name, label := range step.labelNamespaces {
					for i := range m.Namespaces {
						if n := &m.Namespaces[i]; n.Name == name {
							n.Labels = with(n.Labels, label)
							put.Namespaces = append(put.Namespaces, *n)
						}
					}
				}
				rules, err := compiler.Update(put)
				require.NoError(t, err)
				for want, sources := range map[policy.Verdict][]string{policy.Allowed: step.allowed, policy.Denied: step.denied} {
					for _, from := range sources {
						src := []netip.Addr{}
						if a, err := netip.ParseAddr(from); err == nil {
							src = append(src, a)
						} else {
							src = pod(t, m, from).Addresses
						}
						for _, a := range src {
							for _, dst := range web.Addresses {
								p := policy.Packet{Src: a, Dst: dst, Protocol: policy.TCP, Port: 80}
								if a.Is4() == dst.Is4() {
									got, why := rules.Evaluate(p)
									assert.Equal(t, want, got, "step %d: %s\n%s", i, from, why)
									p.Port = 81
									other, _ := rules.Evaluate(p)
									assert.Equal(t, from == "192.0.2.1", other == policy.Allowed, "step %d: %s, port 81", i, from)
								}
							}
						}
					}
				}
			}
		})
	}
}

func pod(t *testing.T, m policy.Model, path string) *policy.Pod {
	t.Helper()
	for i := range m.Pods {
		if p := &m.Pods[i]; p.Namespace+"/"+p.Name == path {
			return p
		}
	}
	require.Fail(t, "no such pod", path)
	return nil
}

func with(labels map[string]string, label string) map[string]string {
	key, value, _ := strings.Cut(label, "=")
	out := map[string]string{key: value}
	for k, v := range labels {
		out[k] = v
	}
	return out
}

func TestDecodeCluster(t *testing.T) {
	m, err := netpol.Decode(read(t, "cluster.yaml")...)
	require.NoError(t, err)
	addr := netip.MustParseAddr
	assert.Equal(t, []policy.Node{{Name: "node-1", Addresses: []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}},
		{Name: "node-2", Addresses: []netip.Addr{addr("192.0.2.2")}}}, m.Nodes)
	assert.Equal(t, []policy.Namespace{
		{Name: "test", Labels: map[string]string{"kubernetes.io/metadata.name": "test"}},
		{Name: "myproject", Labels: map[string]string{"kubernetes.io/metadata.name": "myproject", "project": "myproject"}},
		{Name: "default", Labels: map[string]string{"kubernetes.io/metadata.name": "default"}}, // which only a pod named
	}, m.Namespaces)
	assert.Equal(t, policy.Pod{
		Namespace: "default", Name: "web", Labels: map[string]string{"app": "myapp-v1"}, Node: "node-1",
		Addresses: []netip.Addr{addr("10.244.1.10"), addr("fd00:10:244:1::a")},
		Ports:     []policy.NamedPort{{Name: "http", Protocol: policy.TCP, Number: 80}},
	}, m.Pods[0])
	assert.Len(t, m.Pods, 4)
	require.NoError(t, m.Validate())
}

func TestDecodeClusterPolicy(t *testing.T) {
	m, err := netpol.Decode(read(t, "cluster.yaml", "cluster-policy.yaml")...)
	require.NoError(t, err)
	require.NoError(t, m.Validate())
	labels := func(key, value string) policy.Selector {
		return policy.Selector{MatchLabels: map[string]string{key: value}}
	}
	everyone := policy.Peer{Namespaces: &policy.Selector{}}
	block := func(cidr string) policy.Peer {
		return policy.Peer{Block: &policy.Block{CIDR: netip.MustParsePrefix(cidr)}}
	}
	assert.Equal(t, []policy.ClusterPolicy{{
		Name: "guard", Tier: policy.Admin, Priority: 10,
		Subject: policy.Subject{Namespaces: labels("kubernetes.io/metadata.name", "default"), Pods: labels("app", "myapp-v1")},
		Ingress: []policy.ClusterRule{
			{Name: "monitoring", Action: policy.Accept,
				Peers: []policy.Peer{{Namespaces: new(labels("project", "myproject")), Pods: new(labels("role", "frontend"))}},
				Ports: []policy.Port{{Protocol: policy.TCP, Number: 9090}, {Protocol: policy.UDP, Number: 8000, End: 8010}, {Protocol: policy.SCTP},
					{Protocol: policy.TCP, Name: "http"}, {Protocol: policy.UDP, Name: "http"}, {Protocol: policy.SCTP, Name: "http"}}},
			{Action: policy.Deny, Peers: []policy.Peer{everyone}},
		},
		Egress: []policy.ClusterRule{
			{Action: policy.Pass, Peers: []policy.Peer{everyone}},
			{Name: "nowhere else", Action: policy.Deny, Peers: []policy.Peer{block("0.0.0.0/0"), block("::/0")}},
		},
	}}, m.ClusterPolicies)
}

func TestDecodeLists(t *testing.T) {
	tests := []struct{ name, text string }{
		{"kubectl's", `{apiVersion: v1, kind: List, items: [{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}}]}`},
		{"the API server's, whose items do not say what they are", `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicyList, items: [{metadata: {name: p}}]}`},
		{"JSON", `{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}}`},
		{"after empty documents", "---\n# nothing\n---\n\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n---\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := netpol.Decode(netpol.File{Name: "f", Data: []byte(tt.text)})
			require.NoError(t, err)
			assert.Equal(t, []policy.Policy{{Namespace: "default", Name: "p"}}, m.Policies)
		})
	}
}

// TestDecodeProblems: what is wrong is said with its place, and what is not wrong is read.
func TestDecodeProblems(t *testing.T) {
	np := func(spec string) string {
		return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: " + spec
	}
	cnp := func(spec string) string {
		return "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: c}\nspec: " + spec
	}
	tests := []struct{ name, text, want string }{
		{"no YAML", "a: [", `f, document 1: yaml: line 1: did not find expected node content`},
		{"no object", "just text", `f, document 1: is not an object`},
		{"no kind", "a: b", `f, document 1: kind: is missing`},
		{"in a later document", "---\napiVersion: v1\nkind: Service\n---\na: b", `document 2: kind: is missing`},
		{"in a list", "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Service}, {a: b}]", `f, document 1, items[1]: kind: is missing`},
		{"an older API", "apiVersion: extensions/v1beta1\nkind: NetworkPolicy",
			`f, document 1: apiVersion: extensions/v1beta1 has no NetworkPolicy that we know: use networking.k8s.io/v1 NetworkPolicy`},
		{"an older cluster API", "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy", `has no AdminNetworkPolicy that we know`},
		{"another's policy", "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy", `has no GlobalNetworkPolicy that we know`},
		{"a field that is none", np(`{podSelectors: {}}`), `f, document 1: unknown field "spec.podSelectors"`},
		{"a field in another case", np(`{podselector: {}}`), `unknown field "spec.podselector"`},
		{"a field twice", np("{podSelector: {}, podSelector: {}}"), `already set in map`},
		{"a field of the wrong type", np(`{podSelector: web}`), `cannot unmarshal string into Go struct field`},
		{"a CIDR", np(`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0/8}}]}]}`),
			`f, document 1: policy default/p: spec.ingress[0].from[0].ipBlock.cidr: "10.0.0/8" is not a block of addresses: one reads like "10.244.0.0/16" or "fd00::/64"`},
		{"a hole", np(`{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0]}}]}]}`),
			`spec.egress[0].to[0].ipBlock.except[0]: "10.1.0.0" is not a block of addresses`},
		{"a port", np(`{podSelector: {}, ingress: [{ports: [{port: 65536}]}]}`), `spec.ingress[0].ports[0].port: 65536 is not a port: use 1 to 65535`},
		{"an end", np(`{podSelector: {}, ingress: [{ports: [{port: 1, endPort: -1}]}]}`), `spec.ingress[0].ports[0].endPort: -1 is not a port: use 1 to 65535`},
		{"a protocol", np(`{podSelector: {}, ingress: [{ports: [{protocol: tcp}]}]}`), `spec.ingress[0].ports[0].protocol: "tcp" is not a protocol: use TCP, UDP or SCTP`},
		{"a type", np(`{podSelector: {}, policyTypes: [ingress]}`), `spec.policyTypes[0]: "ingress" is not a direction: use Ingress or Egress`},
		{"a pod's address", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIPs: [{ip: 10.0.0}]}", `pod default/a: status.podIPs[0].ip: "10.0.0" is not an address`},
		{"a node's address", "apiVersion: v1\nkind: Node\nmetadata: {name: node-1}\nstatus: {addresses: [{type: InternalIP, address: x}]}", `node node-1: status.addresses[0]: "x" is not an address`},
		{"a tier", cnp(`{tier: admin, priority: 1, subject: {namespaces: {}}}`), `cluster policy c: spec.tier: "admin" is not a tier: use Admin or Baseline`},
		{"no priority", cnp(`{tier: Admin, subject: {namespaces: {}}}`), `spec.priority: is missing: use 0 to 1000; 0 comes first`},
		{"no subject", cnp(`{tier: Admin, priority: 1, subject: {}}`), `spec.subject: is not one of namespaces and pods: {namespaces: {}} is every pod`},
		{"an action", cnp(`{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Allow, from: [{namespaces: {}}]}]}`),
			`spec.ingress[0].action: "Allow" is not an action: use Accept, Deny or Pass`},
		{"nodes", cnp(`{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {}}]}]}`),
			`spec.egress[0].to[0]: selects nodes or domainNames, which are experimental and not supported: use networks`},
		{"two peers in one", cnp(`{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {}, networks: [10.0.0.0/8]}]}]}`),
			`spec.egress[0].to[0]: is not one of namespaces, pods and networks: make a peer of each`},
		{"two protocols in one", cnp(`{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {}, udp: {}}]}]}`),
			`spec.egress[0].protocols[0]: is not one of tcp, udp, sctp and destinationNamedPort: make a protocol of each`},
		{"a number and a range", cnp(`{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {}}}]}]}`),
			`spec.egress[0].protocols[0].tcp.destinationPort: is not one of number and range`},
		{"the other direction's peers", cnp(`{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, from: [{namespaces: {}}]}]}`),
			`spec.egress[0]: has peers of the other direction: write them as to`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := netpol.Decode(netpol.File{Name: "f", Data: []byte(tt.text + "\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: after}\n")})
			require.ErrorContains(t, err, tt.want)
			assert.Equal(t, "after", m.Namespaces[0].Name, "the next document is read")
		})
	}
}

// TestNothingOpens: a value that is none must not turn into one that means everything, such as port 0.
func TestNothingOpens(t *testing.T) {
	for _, rule := range []string{
		`{ports: [{port: 0}]}`, `{ports: [{port: 65536}]}`, `{ports: [{port: ""}]}`, `{ports: [{port: "80"}]}`, `{ports: [{port: -1}]}`,
		`{ports: [{port: 1, endPort: 0}]}`, `{ports: [{port: 1, endPort: 70000}]}`, `{ports: [{protocol: icmp}]}`, `{ports: [{protocol: tcp, port: 80}]}`,
		`{from: [{}]}`, `{from: [{podSelector: null}]}`, `{from: [{ipBlock: {}}]}`, `{from: [{ipBlock: {cidr: everywhere}}]}`, `{from: [{ipBlock: {cidr: 0.0.0.0/33}}]}`,
		`{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [none]}}]}`, `{from: [{ipBlock: {cidr: "::ffff:0.0.0.0/0"}}]}`,
		`{from: [{podSelectors: {}}]}`, `{from: [{podSelector: {matchExpressions: [{key: a, operator: notin, values: [b]}]}}]}`,
	} {
		t.Run(rule, func(t *testing.T) {
			m, errDecode := netpol.Decode(append(read(t, "cluster.yaml"), netpol.File{Name: "f", Data: []byte(
				"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}, ingress: [" + rule + "]}")})...)
			require.Len(t, m.Policies, 1)
			rules, errCompile := policy.Compile(m)
			require.True(t, errDecode != nil || errCompile != nil)
			if errDecode != nil {
				require.ErrorContains(t, errDecode, "f, document 1")
			}
			if errCompile != nil {
				require.ErrorIs(t, errCompile, podweft.ErrInvalid)
			}
			for _, port := range []uint16{0, 1, 80, 65535} {
				got, why := rules.Evaluate(policy.Packet{Src: pod(t, m, "default/client").Addresses[0], Dst: pod(t, m, "default/web").Addresses[0],
					Protocol: policy.TCP, Port: port})
				assert.Equal(t, policy.Denied, got, "%s", why)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, file := range read(f, "cluster.yaml", "tutorial-1.yaml", "tutorial-2.yaml", "tutorial-3.yaml", "tutorial-4.yaml", "cluster-policy.yaml") {
		f.Add(file.Data)
	}
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [null, 1, {kind: List, apiVersion: v1, items: [{}]}]"))
	f.Add([]byte("apiVersion: v1\nkind: Pod\nmetadata: {deletionTimestamp: 2026-01-01T00:00:00Z}\nstatus: {podIP: '::ffff:1.2.3.4'}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, _ := netpol.Decode(netpol.File{Name: "f", Data: data})
		rules, _ := policy.Compile(m)
		require.NotNil(t, rules)
		_ = rules.String()
	})
}
