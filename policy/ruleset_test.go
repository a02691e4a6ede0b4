package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/policy"
)

// TestCompile shows a whole Ruleset: what a packet filter will have of three replicas, two policies and a cluster policy.
func TestCompile(t *testing.T) {
	pod := func(name, node, v4, v6 string, labels ...string) policy.Pod {
		return policy.Pod{Namespace: "default", Name: name, Node: node, Labels: labelled(labels...).MatchLabels,
			Addresses: []netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)},
			Ports:     []policy.NamedPort{{Name: "http", Number: 8080}}}
	}
	clients := policy.Peer{Pods: labelled("role", "client")}
	m := policy.Model{
		Nodes:      []policy.Node{{Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}},
		Namespaces: []policy.Namespace{{Name: "default"}},
		Pods: []policy.Pod{
			pod("web-0", "n1", "10.0.0.1", "fd00::1", "app", "web"), pod("web-1", "n1", "10.0.0.2", "fd00::2", "app", "web"),
			pod("web-2", "n2", "10.0.0.3", "fd00::3", "app", "web"), pod("client", "n2", "10.0.0.4", "fd00::4", "role", "client"),
		},
		Policies: []policy.Policy{
			{Namespace: "default", Name: "a", Pods: *labelled("app", "web"), Ingress: []policy.Rule{
				{Peers: []policy.Peer{clients, block("203.0.0.0/16", "203.0.113.0/24"), block("2001:db8::/32")},
					Ports: []policy.Port{{Number: 80}, {Number: 8000, End: 8010}, {Number: 81}, {Protocol: policy.UDP}, {Name: "http"}}},
			}},
			{Namespace: "default", Name: "b", Pods: *labelled("app", "web"), Ingress: []policy.Rule{{Peers: []policy.Peer{clients}, Ports: []policy.Port{{Number: 443}}}}},
			{Namespace: "default", Name: "selects nobody", Pods: *labelled("app", "none"), Ingress: []policy.Rule{{Peers: []policy.Peer{{Pods: labelled("role", "unheard-of")}}}}},
		},
		ClusterPolicies: []policy.ClusterPolicy{{Name: "c", Tier: policy.Admin, Subject: policy.Subject{Pods: *labelled("app", "web")},
			Ingress: []policy.ClusterRule{{Name: "no telnet", Action: policy.Deny, Peers: []policy.Peer{{Namespaces: &policy.Selector{}}}, Ports: []policy.Port{{Number: 23}}}}}},
	}
	rules, err := policy.Compile(m)
	require.NoError(t, err)
	assert.Equal(t, strings.TrimPrefix(golden, "\n"), rules.String())

	t.Run("one node", func(t *testing.T) {
		rules, err := policy.NewCompiler("n2").Update(m)
		require.NoError(t, err)
		assert.Equal(t, 4, rules.Endpoints.Len(), "web-2 and client are here")
		assert.Empty(t, rules.Locals, "n1 is not")
		assert.Len(t, rules.Chains, 3)
		rules, err = policy.NewCompiler("n3").Update(m)
		require.NoError(t, err)
		assert.Equal(t, &policy.Ruleset{}, rules, "nothing is here")
	})
}

// TestLabelChange: the commonest change there is costs elements of sets. All else is not even copied.
func TestLabelChange(t *testing.T) {
	m := city()
	c := policy.NewCompiler("")
	before, err := c.Update(m)
	require.NoError(t, err)
	pod := citizen(7, 3, 0)
	pod.Labels["role"] = "server" // it was client, which 10 policies let in
	after, err := c.Update(policy.Model{Pods: []policy.Pod{pod}})
	require.NoError(t, err)

	gone, added := after.Endpoints.Diff(before.Endpoints, policy.Endpoint.Compare)
	assert.Empty(t, append(gone, added...))
	assert.Same(t, &before.Classes[0], &after.Classes[0])
	assert.Same(t, &before.Chains[0], &after.Chains[0])
	assert.Same(t, &before.BlockSets[0], &after.BlockSets[0])
	assert.Same(t, &before.PortSets[0], &after.PortSets[0])
	require.Len(t, after.PeerSets, len(before.PeerSets))
	var changed []string
	for i, s := range after.PeerSets {
		if s != before.PeerSets[i] {
			changed = append(changed, s.Text)
			assert.Equal(t, before.PeerSets[i].Name, s.Name)
			gone, added := s.Addrs.Diff(before.PeerSets[i].Addrs, netip.Addr.Compare)
			assert.Equal(t, pod.Addresses, gone)
			assert.Empty(t, added)
		}
	}
	assert.Equal(t, []string{"pods role=client in namespaces team=team-7"}, changed)
}

// golden is TestCompile's Ruleset. A filter left behind by an older process is recognised by its names: whoever changes what they
// stand for changes namesVersion, and this text.
const golden = `
set p-bhmgh2lo6yor5bht5gj52h: all pods in all namespaces
  10.0.0.1
  10.0.0.2
  10.0.0.3
  10.0.0.4
  fd00::1
  fd00::2
  fd00::3
  fd00::4
set p-mooxj6mf5tzq6yhtm2yimw: pods role=client in namespace default
  10.0.0.4
  fd00::4
set b-mqfss5stj6n3e2g4kgfq2z: blocks
  203.0.0.0-203.0.112.255
  203.0.114.0-203.0.255.255
  2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff
set n-6afu7qp3e6utsiptv4hekk: TCP port "http"
  10.0.0.1 8080
  10.0.0.2 8080
  10.0.0.3 8080
  10.0.0.4 8080
  fd00::1 8080
  fd00::2 8080
  fd00::3 8080
  fd00::4 8080
chain c-apwisyauhjskh3f5xnn3sv: cluster policy c, ingress
  p-bhmgh2lo6yor5bht5gj52h TCP 23: Deny  # ingress[0] "no telnet"
chain c-b273w7vt2fv7npgmsk3jek: policy default/b, ingress
  p-mooxj6mf5tzq6yhtm2yimw TCP 443: Accept  # ingress[0]
chain c-wst5uhiwt2txs4tdtpyknf: policy default/a, ingress
  p-mooxj6mf5tzq6yhtm2yimw TCP 80-81 8000-8010: Accept  # ingress[0]
  p-mooxj6mf5tzq6yhtm2yimw UDP: Accept  # ingress[0]
  p-mooxj6mf5tzq6yhtm2yimw TCP n-6afu7qp3e6utsiptv4hekk: Accept  # ingress[0]
  b-mqfss5stj6n3e2g4kgfq2z TCP 80-81 8000-8010: Accept  # ingress[0]
  b-mqfss5stj6n3e2g4kgfq2z UDP: Accept  # ingress[0]
  b-mqfss5stj6n3e2g4kgfq2z TCP n-6afu7qp3e6utsiptv4hekk: Accept  # ingress[0]
class k-ighilzwufwxejgng4qeva2: ingress
  Admin: c-apwisyauhjskh3f5xnn3sv  # cluster policy c
  NetworkPolicy: c-wst5uhiwt2txs4tdtpyknf  # policy default/a
  NetworkPolicy: c-b273w7vt2fv7npgmsk3jek  # policy default/b
nodes
  192.0.2.1 is n1's
pods
  10.0.0.1 is pod default/web-0's, ingress k-ighilzwufwxejgng4qeva2
  10.0.0.2 is pod default/web-1's, ingress k-ighilzwufwxejgng4qeva2
  10.0.0.3 is pod default/web-2's, ingress k-ighilzwufwxejgng4qeva2
  10.0.0.4 is pod default/client's
  fd00::1 is pod default/web-0's, ingress k-ighilzwufwxejgng4qeva2
  fd00::2 is pod default/web-1's, ingress k-ighilzwufwxejgng4qeva2
  fd00::3 is pod default/web-2's, ingress k-ighilzwufwxejgng4qeva2
  fd00::4 is pod default/client's
`
