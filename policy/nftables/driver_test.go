package nftables_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/testnet"
)

var ours = nft.Table{Family: nft.INet, Name: "podweft-policy"}

func villageSpec(t testing.TB) nftables.Spec {
	return nftables.Spec{Rules: compiled(t, world.Village(), "node-1"), Closed: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}
}

func TestPlan(t *testing.T) {
	n := testnet.NewNode(t, "node")
	d := newDriver(t, nftables.Config{NetNS: n.NetNS()})
	plan, err := d.Plan(t.Context(), villageSpec(t))
	require.NoError(t, err)
	text := plan.String()
	for _, line := range []string{
		"+ table inet podweft-policy\n",
		"+ chain inet podweft-policy policies { type filter hook postrouting priority 95; policy accept; }\n",
		"+ rule inet podweft-policy policies ct state == established accept comment \"replies, and what follows\"\n",
		"+ rule inet podweft-policy ingress-pods4 ip daddr vmap @ingress4 comment \"pods' own rules\"\n",
		" th dport @s-80.8000-8010 counter accept comment \"policy default/web ingress[0]\"\n",
		" counter drop comment \"isolated by policy default/web\"\n",
	} {
		assert.Contains(t, text, line)
	}
	info, err := someone(t, n).Tables(t.Context(), nft.INet)
	require.NoError(t, err)
	assert.Empty(t, info, "a plan writes nothing")
	assert.Equal(t, text, apply(t, d, villageSpec(t)).String(), "and is what Apply does")
	inSync(t, d, villageSpec(t))
	assert.Empty(t, apply(t, d, villageSpec(t)))
}

// TestRestart: another driver, as after a restart, finds everything in order, also if its table is to be its own and is not.
func TestRestart(t *testing.T) {
	n := testnet.NewNode(t, "node")
	first := newDriver(t, nftables.Config{NetNS: n.NetNS(), Shared: true})
	apply(t, first, villageSpec(t))
	require.NoError(t, first.Close())
	before, err := someone(t, n).Generation(t.Context())
	require.NoError(t, err)
	again := newDriver(t, nftables.Config{NetNS: n.NetNS()})
	assert.Empty(t, apply(t, again, villageSpec(t)))
	after, err := someone(t, n).Generation(t.Context())
	require.NoError(t, err)
	assert.Equal(t, before, after, "nothing was written")
	assert.Zero(t, tableOf(t, n).Flags)
	apply(t, again, nftables.Spec{})
	apply(t, again, villageSpec(t))
	assert.Equal(t, ownFlags(t, n), tableOf(t, n).Flags)
}

// TestSetsInUseComeFirst: the kernel finds a set by going through all that were made before.
func TestSetsInUseComeFirst(t *testing.T) {
	n := testnet.NewNode(t, "node")
	d := newDriver(t, nftables.Config{NetNS: n.NetNS()})
	for _, peer := range []string{"client", "other"} { // by name one of them would be the first either way
		t.Run(peer, func(t *testing.T) {
			m := world.Village()
			m.Policies[0].Ingress = []policy.Rule{{Peers: []policy.Peer{{Pods: new(world.App("client"))}, {Pods: new(world.App("other"))}}}}
			for i := range 3 {
				p := m.Policies[0]
				p.Name = fmt.Sprintf("web-%d", i)
				p.Ingress = []policy.Rule{{Peers: []policy.Peer{{Pods: new(world.App(peer))}}}}
				m.Policies = append(m.Policies, p)
			}
			spec := nftables.Spec{Rules: compiled(t, m, "node-1")}
			apply(t, d, nftables.Spec{})
			apply(t, d, spec)
			text, err := nftables.Text(nftables.Config{}, spec)
			require.NoError(t, err)
			sets, err := someone(t, n).Sets(t.Context(), ours)
			require.NoError(t, err)
			var uses []int
			for _, s := range sets {
				if s.Name[1] == '-' { // the others are there whatever the rules are
					uses = append(uses, strings.Count(text, "@"+s.Name+" "))
				}
			}
			assert.Equal(t, []int{4, 4, 1, 1}, uses)
		})
	}
}

func TestTeardown(t *testing.T) {
	n := testnet.NewNode(t, "node")
	mine := newDriver(t, nftables.Config{NetNS: n.NetNS()})
	theirs := newDriver(t, nftables.Config{NetNS: n.NetNS(), Owner: "another"})
	apply(t, mine, villageSpec(t))
	apply(t, theirs, villageSpec(t))
	plan, err := mine.Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "- table inet podweft-policy\n", plan.String())
	left, err := someone(t, n).Tables(t.Context(), nft.INet)
	require.NoError(t, err)
	require.Len(t, left, 1)
	assert.Equal(t, "podweft-another-policy", left[0].Name)
	inSync(t, theirs, villageSpec(t))
}

func TestLoopRepairs(t *testing.T) {
	start := nft.Chain{Table: ours, Name: "policies"}
	verdicts := nft.Set{Table: ours, Name: "ingress4", Key: nft.IPv4Addr, Data: nft.Verdict}
	web := nft.Element{Key: string([]byte{10, 244, 1, 10})}
	node := nft.Set{Table: ours, Name: "node4", Key: nft.IPv4Addr}
	tests := []struct {
		name string
		deed func(b *nft.Batch)
	}{
		{"table deleted", func(b *nft.Batch) { b.DeleteTable(ours) }},
		{"rules flushed", func(b *nft.Batch) { b.FlushChain(start) }},
		{"pod's verdict deleted", func(b *nft.Batch) { b.DeleteElements(verdicts, web) }},
		{"address let in", func(b *nft.Batch) { b.AddElements(node, nft.Element{Key: string([]byte{10, 244, 1, 12})}) }},
		{"chain of theirs", func(b *nft.Batch) { b.AddChain(nft.Chain{Table: ours, Name: "theirs"}) }},
		{"set of another kind", func(b *nft.Batch) {
			b.DeleteTable(ours)
			b.AddTable(ours, 0)
			b.AddSet(nft.Set{Table: ours, Name: "ingress4", Key: nft.IPv6Addr})
		}},
		{"table asleep", func(b *nft.Batch) { b.AddTable(ours, nft.Dormant) }},
	}
	n := testnet.NewNode(t, "node")
	loop := running(t, newDriver(t, nftables.Config{NetNS: n.NetNS(), Shared: true}))
	spec := villageSpec(t)
	set(t, loop, spec)
	watcher, them := newDriver(t, nftables.Config{NetNS: n.NetNS()}), someone(t, n)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			commit(t, them, test.deed)
			broken := time.Now()
			require.Eventually(t, func() bool {
				plan, err := watcher.Plan(t.Context(), spec)
				return err == nil && len(plan) == 0
			}, patience, time.Millisecond)
			t.Logf("back after %s", time.Since(broken))
		})
	}
	t.Run("ruleset flushed", func(t *testing.T) {
		if _, ok := ruleset(t, n); !ok {
			t.Skip("the nft program is not installed")
		}
		out, err := n.Command(t.Context(), "nft", "flush", "ruleset").CombinedOutput()
		require.NoError(t, err, string(out))
		require.Eventually(t, func() bool {
			plan, err := watcher.Plan(t.Context(), spec)
			return err == nil && len(plan) == 0
		}, patience, time.Millisecond)
	})
}

// TestOwnWritesAreNoHint: a loop reads the table once, and from then on writes what has changed.
func TestOwnWritesAreNoHint(t *testing.T) {
	n := testnet.NewNode(t, "node")
	d := newDriver(t, nftables.Config{NetNS: n.NetNS()})
	loop := running(t, d)
	compiler := policy.NewCompiler("node-1")
	rules, err := compiler.Update(world.Village())
	require.NoError(t, err)
	set(t, loop, nftables.Spec{Rules: rules})
	read := func() uint64 {
		stats, err := d.Stats(t.Context(), nftables.Spec{})
		require.NoError(t, err)
		return stats.Listings
	}
	before := read()
	pod := world.Village().Pods[2]
	for i := range 20 {
		pod.Labels = map[string]string{"app": [...]string{"client", "other"}[i%2]}
		rules, err := compiler.Update(policy.Model{Pods: []policy.Pod{pod}})
		require.NoError(t, err)
		set(t, loop, nftables.Spec{Rules: rules})
	}
	assert.Equal(t, before, read())
}

// TestPodsAreElements: a pod that comes, goes or changes its labels is elements and nothing else, in one transaction, where its
// policies are those of others that are there.
func TestPodsAreElements(t *testing.T) {
	m := world.Village()
	relabelled, replica := m.Pods[2], m.Pods[0]
	relabelled.Labels = map[string]string{"app": "client"}
	replica.Name, replica.Addresses = "web-2", []netip.Addr{netip.MustParseAddr("10.244.1.13"), netip.MustParseAddr("fd00::d")}
	tests := []struct {
		name     string
		put      policy.Model
		gone     []policy.ID
		elements int
	}{
		{"label", policy.Model{Pods: []policy.Pod{relabelled}}, nil, 2},
		{"pod comes", policy.Model{Pods: []policy.Pod{replica}}, nil, 2 * 3}, // of each family two verdicts, and itself
		{"pod goes", policy.Model{}, []policy.ID{replica.ID()}, 2 * 3},
		{"label again", policy.Model{Pods: []policy.Pod{m.Pods[2]}}, nil, 2},
	}
	n := testnet.NewNode(t, "node")
	loop := running(t, newDriver(t, nftables.Config{NetNS: n.NetNS()}))
	compiler := policy.NewCompiler("node-1")
	rules, err := compiler.Update(m)
	require.NoError(t, err)
	set(t, loop, nftables.Spec{Rules: rules})
	reader, them := newDriver(t, nftables.Config{NetNS: n.NetNS()}), someone(t, n)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rules, err := compiler.Update(test.put, test.gone...)
			require.NoError(t, err)
			plan, err := reader.Plan(t.Context(), nftables.Spec{Rules: rules})
			require.NoError(t, err)
			plan = slices.DeleteFunc(plan, func(c podweft.Change) bool { return errors.Is(c.Err, podweft.ErrConflict) }) // whose it is
			assert.Len(t, plan, test.elements)
			for _, c := range plan {
				assert.IsType(t, nft.SetElement{}, c.Object, c.String())
			}
			before, err := them.Generation(t.Context())
			require.NoError(t, err)
			set(t, loop, nftables.Spec{Rules: rules})
			after, err := them.Generation(t.Context())
			require.NoError(t, err)
			assert.Equal(t, before+1, after, "one transaction")
			inSync(t, reader, nftables.Spec{Rules: rules})
		})
	}
}

func TestConflict(t *testing.T) {
	n := testnet.NewNode(t, "node")
	owner := someone(t, n)
	commit(t, owner, func(b *nft.Batch) { b.AddTable(ours, nft.Owned) })
	d := newDriver(t, nftables.Config{NetNS: n.NetNS()})
	plan, err := d.Apply(t.Context(), villageSpec(t))
	require.ErrorIs(t, err, podweft.ErrConflict)
	require.Len(t, plan, 1)
	var of *podweft.OpError
	require.ErrorAs(t, err, &of)
	assert.Equal(t, ours, of.Object)
}

func TestValidate(t *testing.T) {
	everywhere := compiled(t, world.Village(), "")
	tests := []struct {
		name string
		spec nftables.Spec
		want string
	}{
		{"zero", nftables.Spec{}, ""},
		{"host bits", nftables.Spec{Closed: []netip.Prefix{netip.MustParsePrefix("10.244.1.1/24")}}, ""},
		{"no prefix", nftables.Spec{Closed: make([]netip.Prefix, 1)}, "Closed[0]: is not a prefix: write one like 10.244.1.0/24"},
		{"mapped", nftables.Spec{Closed: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}},
			"Closed[0]: ::ffff:10.0.0.0/104 is IPv4 written as IPv6: write it as IPv4: that is how its packets travel"},
		{"bridge", nftables.Spec{Bridges: []string{"cni0", "a-name-that-is-too-long"}},
			`Bridges[1]: "a-name-that-is-too-long" is not a link's name: write one like cni0`},
		{"two nodes", nftables.Spec{Rules: everywhere}, "Rules: are for pods of node-1 and node-2: compile them for this node: NewCompiler(name)"},
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
	_, err := nftables.New(nftables.Config{Owner: "a b"})
	require.ErrorIs(t, err, podweft.ErrInvalid)
}

// TestLongPortLists: a list of ports that is no name for a set is a set all the same, and goes with the last policy that has it.
func TestLongPortLists(t *testing.T) {
	m := world.Village()
	var ports []policy.Port
	for i := range 60 {
		ports = append(ports, policy.Port{Number: uint16(10_000 + 2*i)})
	}
	m.Policies[0].Ingress[0].Ports = ports
	second := m.Policies[0]
	second.Name = "second"
	n := testnet.NewNode(t, "node")
	d := newDriver(t, nftables.Config{NetNS: n.NetNS()})
	loop := running(t, d)
	compiler := policy.NewCompiler("node-1")
	lists := func(put policy.Model, gone ...policy.ID) (count int) {
		rules, err := compiler.Update(put, gone...)
		require.NoError(t, err)
		spec := nftables.Spec{Rules: rules}
		set(t, loop, spec)
		inSync(t, d, spec)
		sets, err := someone(t, n).Sets(t.Context(), ours)
		require.NoError(t, err)
		for _, s := range sets {
			if strings.HasPrefix(s.Name, "s-") {
				count++
			}
		}
		return count
	}
	assert.Equal(t, 1, lists(m))
	assert.Equal(t, 1, lists(policy.Model{Policies: []policy.Policy{second}}))
	assert.Equal(t, 1, lists(policy.Model{}, m.Policies[0].ID()))
	second.Ingress = []policy.Rule{{Ports: []policy.Port{{Number: 1}, {Number: 3}}}}
	assert.Equal(t, 1, lists(policy.Model{Policies: []policy.Policy{second}}))
	assert.Equal(t, 0, lists(policy.Model{}, second.ID()))
}

func ExampleSpec_Validate() {
	err := nftables.Spec{Bridges: []string{""}}.Validate()
	fmt.Println(err)
	// Output: Bridges[0]: "" is not a link's name: write one like cni0
}
