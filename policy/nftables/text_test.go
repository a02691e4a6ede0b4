package nftables_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/testnet"
)

// TestText: what people are shown is what nft takes, and what nft then makes of it is what the driver would have made: nft lists both
// alike, but for the checks of the family that nft puts before every look at an address.
func TestText(t *testing.T) {
	n, m := testnet.NewNode(t, "by-text"), testnet.NewNode(t, "by-driver")
	if _, ok := ruleset(t, n); !ok {
		t.Skip("the nft program is not installed")
	}
	var policies []policy.Policy
	var clusterPolicies []policy.ClusterPolicy
	for _, s := range scenario.All() {
		for i, p := range s.Put.Policies {
			p.Name += s.Name + string(rune('a'+i))
			policies = append(policies, p)
		}
		for i, p := range s.Put.ClusterPolicies {
			p.Name += s.Name + string(rune('a'+i))
			clusterPolicies = append(clusterPolicies, p)
		}
	}
	// nft sends a file as one message, and an ordinary user's socket takes some 200 KiB of it.
	const some = 12
	for len(policies)+len(clusterPolicies) > 0 {
		cluster := scenario.Cluster()
		cluster.Policies = append(world.Village().Policies, policies[:min(some, len(policies))]...)
		cluster.ClusterPolicies = clusterPolicies[:min(some, len(clusterPolicies))]
		policies, clusterPolicies = policies[min(some, len(policies)):], clusterPolicies[len(cluster.ClusterPolicies):]
		sameByText(t, n, m, cluster, len(policies)%(2*some) < some)
	}
}

// sameByText loads the cluster's rules as text in n and by the driver in m, compares, and removes both.
func sameByText(t *testing.T, n, m *testnet.Node, cluster policy.Model, strict bool) {
	t.Helper()
	rules, _ := policy.NewCompiler("node-1").Update(cluster)
	spec := villageSpec(t)
	spec.Rules, spec.Strict = rules, strict
	cfg := nftables.Config{LogGroup: 3, Shared: true} // nft would list who owns it
	text, err := nftables.Text(cfg, spec)
	require.NoError(t, err)
	cmd := n.Command(t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))

	cfg.NetNS = m.NetNS()
	driver := newDriver(t, cfg)
	apply(t, driver, spec)
	want, _ := ruleset(t, m)
	got, _ := ruleset(t, n)
	plain := func(text string) []string {
		return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool {
			return strings.Contains(line, "@nh,") || strings.Contains(line, "addr ") || strings.Contains(line, "meta nfproto") || strings.Contains(line, "hoplimit")
		})
	}
	assert.ElementsMatch(t, plain(want), plain(got))
	assert.Equal(t, strings.Count(want, "\n"), strings.Count(got, "\n"))

	_, err = driver.Teardown(t.Context())
	require.NoError(t, err)
	require.NoError(t, n.Command(t.Context(), "nft", "flush", "ruleset").Run())
}

func TestTextRefuses(t *testing.T) {
	_, err := nftables.Text(nftables.Config{Owner: "?"}, nftables.Spec{})
	require.Error(t, err)
	_, err = nftables.Text(nftables.Config{}, nftables.Spec{Bridges: []string{""}})
	require.Error(t, err)
	text, err := nftables.Text(nftables.Config{}, nftables.Spec{})
	require.NoError(t, err)
	assert.Empty(t, text)
}

// TestBothProtocolsShareARule where nothing else tells them apart, and what nft takes allows it.
func TestBothProtocolsShareARule(t *testing.T) {
	for _, test := range []struct {
		name   string
		strict bool
		ports  []policy.Port
		want   []string
	}{
		{"one port", false, []policy.Port{{Number: 53}, {Number: 53, Protocol: policy.UDP}}, []string{"th dport 53 meta l4proto @tcp-udp"}},
		{"a list", false, []policy.Port{{Number: 53}, {Number: 80}, {Number: 53, Protocol: policy.UDP}, {Number: 80, Protocol: policy.UDP}},
			[]string{"th dport @s-53.80 meta l4proto @tcp-udp"}},
		{"all", false, []policy.Port{{Protocol: policy.TCP}, {Protocol: policy.UDP}}, []string{"meta l4proto @tcp-udp"}},
		{"another", false, []policy.Port{{Number: 53}, {Number: 53, Protocol: policy.UDP}, {Number: 53, Protocol: policy.SCTP}},
			[]string{"th dport 53 meta l4proto @tcp-udp", "meta l4proto sctp th dport 53"}},
		{"ports differ", false, []policy.Port{{Number: 53}, {Number: 54, Protocol: policy.UDP}},
			[]string{"meta l4proto tcp th dport 53", "meta l4proto udp th dport 54"}},
		{"strict", true, []policy.Port{{Number: 53}, {Number: 53, Protocol: policy.UDP}},
			[]string{"meta l4proto tcp ct reply proto-src 53", "meta l4proto udp ct reply proto-src 53"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := world.Village()
			m.Policies = m.Policies[:1]
			m.Policies[0].Ingress = []policy.Rule{{Ports: test.ports}}
			text, err := nftables.Text(nftables.Config{}, nftables.Spec{Rules: compiled(t, m, "node-1"), Strict: test.strict})
			require.NoError(t, err)
			var got []string
			for line := range strings.Lines(text) {
				if rule, _, ok := strings.Cut(strings.TrimSpace(line), " counter accept"); ok {
					got = append(got, rule)
				}
			}
			assert.Equal(t, slices.Concat(test.want, test.want), got, "in each family")
		})
	}
}
