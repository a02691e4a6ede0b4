package iptables_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/iptables"
	"github.com/podweft/podweft/testnet"
)

func TestPlan(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		n := testnet.NewNode(t, "node")
		d := newDriver(t, n, cfg)
		assert.Equal(t, cfg.Variant, d.Variant())
		plan, err := d.Plan(t.Context(), villageSpec(t))
		require.NoError(t, err)
		text := plan.String()
		for _, line := range []string{
			" hash:ip  # pods app=client in namespace default: 1\n",
			"+ chain ip mangle pwubbu-ingress\n",
			`+ rule ip mangle POSTROUTING -m comment --comment "podweft policies" -j pwubbu-policies  # before all others`,
			` -m multiport --dports 80,8000:8010 -m comment --comment "policy default/web ingress[0]" -j RETURN`,
			` -m comment --comment "isolated by policy default/web" -j DROP`,
		} {
			assert.Contains(t, text, line)
		}
		assert.Empty(t, output(t, n, nil, "ipset", "list", "-n"), "a plan writes nothing")
		assert.NotContains(t, saved(t, n, cfg), "pw")
		assert.Equal(t, text, apply(t, d, villageSpec(t)).String(), "and is what Apply does")
		inSync(t, d, villageSpec(t))
		assert.Empty(t, apply(t, d, villageSpec(t)))
	})
}

// saved is the rules of both families, without what they have counted.
func saved(t testing.TB, n *testnet.Node, cfg iptables.Config) string {
	t.Helper()
	var b strings.Builder
	for _, tool := range []string{"iptables", "ip6tables"} {
		for line := range strings.Lines(output(t, n, nil, fmt.Sprintf("%s-%s-save", tool, cfg.Variant), "-t", "mangle")) {
			if strings.HasPrefix(line, "-A ") {
				b.WriteString(line)
			}
		}
	}
	return b.String()
}

// TestRestart: another driver, as after a restart, finds everything in order.
func TestRestart(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		n := testnet.NewNode(t, "node")
		first := newDriver(t, n, cfg)
		apply(t, first, villageSpec(t))
		require.NoError(t, first.Close())
		assert.Empty(t, apply(t, newDriver(t, n, cfg), villageSpec(t)))
	})
}

// TestTeardown leaves what is another's: another owner's, and everybody else's.
func TestTeardown(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		n := testnet.NewNode(t, "node")
		script := "*mangle\n:pwnobody - [0:0]\n:FOREIGN - [0:0]\n-A FOREIGN -j RETURN\n-A POSTROUTING -j FOREIGN\nCOMMIT\n"
		output(t, n, []byte(script), fmt.Sprintf("iptables-%s-restore", cfg.Variant), "--noflush")
		output(t, n, nil, "ipset", "create", "foreign", "hash:ip")
		before := saved(t, n, cfg)
		mine := newDriver(t, n, cfg)
		cfg.Owner = "another"
		theirs := newDriver(t, n, cfg)
		apply(t, mine, villageSpec(t))
		apply(t, theirs, villageSpec(t))
		inSync(t, mine, villageSpec(t))
		_, err := mine.Teardown(t.Context())
		require.NoError(t, err)
		inSync(t, mine, iptables.Spec{})
		inSync(t, theirs, villageSpec(t))
		_, err = theirs.Teardown(t.Context())
		require.NoError(t, err)
		assert.Equal(t, before, saved(t, n, cfg))
		assert.Equal(t, "foreign\n", output(t, n, nil, "ipset", "list", "-n"))
	})
}

// TestRepairs: whatever others do to rules and sets of ours, an Apply that reads them puts them right.
func TestRepairs(t *testing.T) {
	tests := []struct {
		name string
		deed string // a command; iptables is the variant's
	}{
		{"jump deleted", "iptables -t mangle -F POSTROUTING"},
		{"rule before ours", "iptables -t mangle -I POSTROUTING -j ACCEPT"},
		{"jump twice", "iptables -t mangle -A POSTROUTING -j pwubbu-policies"},
		{"rules deleted", "iptables -t mangle -F pwubbu-ingress"},
		{"rule added", "ip6tables -t mangle -I pwubbu-policies -j ACCEPT"},
		{"chain of theirs", "ip6tables -t mangle -N pwubbu-theirs"},
		{"address let in", "ipset add pwubbu4a-node 10.244.1.12"},
		{"pods forgotten", "ipset flush pwubbu6a-ingress"},
		{"set of theirs", "ipset create pwubbu4a-theirs hash:ip"},
	}
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		n := testnet.NewNode(t, "node")
		d := newDriver(t, n, cfg)
		spec := villageSpec(t)
		apply(t, d, spec)
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				words := strings.Fields(strings.Replace(test.deed, "tables -t", fmt.Sprintf("tables-%s -t", cfg.Variant), 1))
				output(t, n, nil, words[0], words[1:]...)
				plan, err := d.Plan(t.Context(), spec)
				require.NoError(t, err)
				require.NotEmpty(t, plan)
				apply(t, d, spec)
				inSync(t, d, spec)
			})
		}
		assert.Contains(t, saved(t, n, cfg), "\n-A POSTROUTING -j ACCEPT\n", "what others have there stays, behind ours")
	})
}

// TestLoopRepairs: the nft variant's rules are put right at once, the legacy variant's after a while.
func TestLoopRepairs(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		n := testnet.NewNode(t, "node")
		loop := running(t, newDriver(t, n, cfg))
		spec := villageSpec(t)
		set(t, loop, spec)
		watcher := newDriver(t, n, cfg)
		output(t, n, nil, fmt.Sprintf("iptables-%s", cfg.Variant), "-t", "mangle", "-F", "POSTROUTING")
		broken := time.Now()
		require.Eventually(t, func() bool {
			plan, err := watcher.Plan(t.Context(), spec)
			return err == nil && len(plan) == 0
		}, patience, 10*time.Millisecond)
		t.Logf("back after %s", time.Since(broken))
	})
}

// TestChanges: what a change comes to in the kernel: elements where nothing but a pod moves, and a set anew where a packet could see
// the change half done.
func TestChanges(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		n := testnet.NewNode(t, "node")
		d := newDriver(t, n, cfg)
		compiler := policy.NewCompiler("node-1")
		change := func(put policy.Model, gone ...policy.ID) string {
			t.Helper()
			rules, err := compiler.Update(put, gone...)
			require.NoError(t, err)
			spec := iptables.Spec{Rules: rules}
			plan := apply(t, d, spec).String()
			inSync(t, d, spec)
			return plan
		}
		m := world.Village()
		change(m)
		other := m.Pods[2]
		other.Labels = map[string]string{"app": "client"}
		assert.Regexp(t, `^\+ element pwubbu4ap\w{22} 10.244.1.12  # pods app=client in namespace default
\+ element pwubbu6ap\w{22} fd00::c  # pods app=client in namespace default
$`, change(policy.Model{Pods: []policy.Pod{other}}))
		more := other
		more.Name, more.Addresses = "more", []netip.Addr{netip.MustParseAddr("10.244.1.13")}
		assert.Regexp(t, `^~ set pwubbu4bp\w{22}  # pods app=client in namespace default: 2
- element pwubbu6ap\w{22} fd00::c  # pods app=client in namespace default
$`, change(policy.Model{Pods: []policy.Pod{more}}, other.ID()), "one pod comes and another goes")
		assert.Empty(t, change(policy.Model{}))
		assert.Regexp(t, `^- element pwubbu4bp\w{22} 10.244.1.13  # .*\n$`, change(policy.Model{}, more.ID()))
		second := m.Pods[0]
		second.Name, second.Addresses = "web-2", []netip.Addr{netip.MustParseAddr("10.244.1.14")}
		assert.Regexp(t, `^\+ element pwubbu4ak\w{22} 10.244.1.14  # pods of a class in ingress
\+ element pwubbu4a-ingress 10.244.1.14  # pods that policies speak of in ingress
$`, change(policy.Model{Pods: []policy.Pod{second}}))
		first := m.Policies[0]
		first.Ingress = []policy.Rule{{Ports: []policy.Port{{Number: 443}}}}
		text := change(policy.Model{Policies: []policy.Policy{first}})
		assert.Contains(t, text, "--dports 443")
		assert.Contains(t, text, "- set pwubbu4bp", "nobody asks for clients any more")
		text = change(policy.Model{}, first.ID())
		assert.Contains(t, text, "- chain ip6 mangle pwubbu")
	})
}

// TestRefused: what the programs refuse is said of everything that was to be done, and the rules are as they were.
func TestRefused(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		n := testnet.NewNode(t, "node")
		d := newDriver(t, n, cfg)
		apply(t, d, iptables.Spec{Rules: compiled(t, policy.Model{}, "node-1")})
		output(t, n, nil, "ipset", "create", "list", "list:set")
		output(t, n, nil, "ipset", "create", "pwubbu4a-ingress", "hash:net") // another's, and in use: it cannot be made anew
		output(t, n, nil, "ipset", "add", "list", "pwubbu4a-ingress")
		plan, err := d.Apply(t.Context(), villageSpec(t))
		var of *podweft.OpError
		require.ErrorAs(t, err, &of)
		assert.Contains(t, err.Error(), "run ipset: ")
		assert.Contains(t, err.Error(), `("destroy pwubbu4a-ingress")`)
		for _, c := range plan {
			assert.Equal(t, strings.Contains(c.Object.String(), "pwubbu4") || strings.Contains(c.Object.String(), " ip mangle"), c.Err != nil, c.String())
		}
		got := saved(t, n, cfg)
		assert.Equal(t, 1, strings.Count(got, "-j pwubbu-policies"), "IPv6 goes on by itself")
		output(t, n, nil, "ipset", "destroy", "list")
		apply(t, d, villageSpec(t))
		inSync(t, d, villageSpec(t))
	})
}

// TestInUse: a set that nothing of ours leads to any more, and that another's keeps, is all that is not done.
func TestInUse(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg iptables.Config) {
		n := testnet.NewNode(t, "node")
		d := newDriver(t, n, cfg)
		apply(t, d, villageSpec(t))
		output(t, n, nil, "ipset", "create", "list", "list:set")
		output(t, n, nil, "ipset", "add", "list", "pwubbu4a-ingress")
		plan, err := d.Teardown(t.Context())
		require.ErrorContains(t, err, `("destroy pwubbu4a-ingress")`)
		for _, c := range plan {
			assert.Equal(t, strings.HasPrefix(c.Object.String(), "set pwubbu4"), c.Err != nil, c.String())
		}
		assert.NotContains(t, saved(t, n, cfg), "pwubbu")
		output(t, n, nil, "ipset", "destroy", "list")
		apply(t, d, iptables.Spec{})
		inSync(t, d, iptables.Spec{})
	})
}

func TestValidate(t *testing.T) {
	everywhere := compiled(t, world.Village(), "")
	tests := []struct {
		name string
		spec iptables.Spec
		want string
	}{
		{"zero", iptables.Spec{}, ""},
		{"host bits", iptables.Spec{Closed: []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24")}}, ""},
		{"no prefix", iptables.Spec{Closed: make([]netip.Prefix, 1)}, "Closed[0]: is not a prefix: write one like 10.244.1.0/24"},
		{"bridge", iptables.Spec{Bridges: []string{"a-name-that-is-too-long"}},
			`Bridges[0]: "a-name-that-is-too-long" is not a link's name: write one like cni0`},
		{"two nodes", iptables.Spec{Rules: everywhere}, "Rules: are for pods of node-1 and node-2: compile them for this node: NewCompiler(name)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.spec.Validate()
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.Equal(t, test.want, err.Error())
		})
	}
	_, err := iptables.New(iptables.Config{Owner: "a b", Variant: "nftables"})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.Contains(t, err.Error(), "Owner: a b cannot be")
	assert.Contains(t, err.Error(), `Variant: "nftables" is not a variant of iptables`)
}
