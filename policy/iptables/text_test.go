package iptables_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/iptables"
	"github.com/podweft/podweft/testnet"
)

var update = flag.Bool("update", false, "rewrite testdata")

// TestGolden is what a person reads who asks for rules, both families.
func TestGolden(t *testing.T) {
	tests := []struct {
		name string
		cfg  iptables.Config
		spec func(t *testing.T) iptables.Spec
	}{
		{"village", iptables.Config{}, func(t *testing.T) iptables.Spec { return villageSpec(t) }},
		{"audit", iptables.Config{Owner: "another", LogGroup: 7}, func(t *testing.T) iptables.Spec {
			spec := villageSpec(t)
			spec.Audit = true
			return spec
		}},
		{"tiers", iptables.Config{}, func(t *testing.T) iptables.Spec { return iptables.Spec{Rules: compiled(t, tiers(), "node-1")} }},
		{"peers", iptables.Config{}, func(t *testing.T) iptables.Spec { return iptables.Spec{Rules: compiled(t, peers(), "node-1")} }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := iptables.Text(test.cfg, test.spec(t))
			require.NoError(t, err)
			path := filepath.Join("testdata", test.name+".txt")
			if *update {
				require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, string(want), got)
		})
	}
}

// tiers is the village with cluster policies around its policy: who is not a client is passed on, denied or accepted.
func tiers() policy.Model {
	m := world.Village()
	everybody := policy.Peer{Namespaces: &policy.Selector{}}
	m.ClusterPolicies = []policy.ClusterPolicy{
		{Name: "first", Tier: policy.Admin, Priority: 1, Ingress: []policy.ClusterRule{
			{Action: policy.Pass, Peers: []policy.Peer{{Namespaces: &policy.Selector{}, Pods: new(world.App("client"))}}},
			{Action: policy.Deny, Peers: []policy.Peer{everybody}, Ports: []policy.Port{{Number: 22}}},
		}},
		{Name: "last", Tier: policy.Baseline, Egress: []policy.ClusterRule{
			{Action: policy.Accept, Peers: []policy.Peer{{Block: &policy.Block{CIDR: netip.MustParsePrefix("0.0.0.0/0")}}}, Ports: []policy.Port{{Protocol: policy.UDP, Number: 53}}},
			{Action: policy.Deny, Peers: []policy.Peer{everybody}},
		}},
	}
	return m
}

// peers is the village with a policy of many kinds of peers and ports: blocks with holes, all addresses, names, more ports than one
// rule has room for, and a policy whose name reads like a rule.
func peers() policy.Model {
	m := world.Village()
	prefix := netip.MustParsePrefix
	m.Pods[2].Ports = []policy.NamedPort{{Name: "http", Protocol: policy.TCP, Number: 8080}, {Name: "http", Protocol: policy.UDP, Number: 8081}}
	ports := []policy.Port{{Protocol: policy.SCTP}, {Name: "http"}}
	for i := range uint16(9) {
		ports = append(ports, policy.Port{Protocol: policy.UDP, Number: 1000 + 10*i, End: 1001 + 10*i})
	}
	m.Policies = append(m.Policies, policy.Policy{
		Namespace: "default", Name: `it's "quoted" --match-set foo y`, Pods: world.App("client"), Types: []policy.Direction{policy.Egress},
		Egress: []policy.Rule{
			{Peers: []policy.Peer{{Block: &policy.Block{CIDR: prefix("203.0.113.0/24"), Except: []netip.Prefix{prefix("203.0.113.64/26")}}}}},
			{Peers: []policy.Peer{{Block: &policy.Block{CIDR: prefix("::/0")}}}},
			{Ports: ports},
		},
	})
	return m
}

// TestText: what people are shown is what the programs take, and what they then make of it is what the driver would have made: it
// finds nothing to do.
func TestText(t *testing.T) {
	var all []policy.Model
	for i, s := range scenario.All() {
		const some = 12 // in one cluster
		if i%some == 0 {
			all = append(all, scenario.Cluster())
		}
		m := &all[len(all)-1]
		for j, p := range s.Put.Policies {
			p.Name = fmt.Sprintf("%s-%d-%d", p.Name, i, j)
			m.Policies = append(m.Policies, p)
		}
		for j, p := range s.Put.ClusterPolicies {
			p.Name = fmt.Sprintf("%s-%d-%d", p.Name, i, j)
			m.ClusterPolicies = append(m.ClusterPolicies, p)
		}
	}
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		cfg.LogGroup = 3
		for _, m := range all {
			n := testnet.NewNode(t, "node")
			rules, _ := policy.NewCompiler("node-1").Update(m) // some policies make no sense
			spec := villageSpec(t)
			spec.Rules = rules
			text, err := iptables.Text(cfg, spec)
			require.NoError(t, err)
			load(t, n, cfg, text)
			inSync(t, newDriver(t, n, cfg), spec)
		}
	})
}

// load gives the parts of a text to the programs whose names stand before them.
func load(t testing.TB, n *testnet.Node, cfg iptables.Config, text string) {
	t.Helper()
	for part := range strings.SplitSeq(text, "# ") {
		command, script, _ := strings.Cut(part, "\n")
		words := strings.Fields(strings.Replace(command, "tables-", fmt.Sprintf("tables-%s-", cfg.Variant), 1))
		if len(words) > 0 {
			output(t, n, []byte(script), words[0], words[1:]...)
		}
	}
}

func TestTextRefuses(t *testing.T) {
	_, err := iptables.Text(iptables.Config{Owner: "?"}, iptables.Spec{})
	require.Error(t, err)
	_, err = iptables.Text(iptables.Config{}, iptables.Spec{Bridges: []string{""}})
	require.Error(t, err)
	text, err := iptables.Text(iptables.Config{}, iptables.Spec{})
	require.NoError(t, err)
	assert.Empty(t, text)
}
