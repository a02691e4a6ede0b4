package cniplugin_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/ipam/block/memory"
	"github.com/podweft/podweft/testnet"
)

// TestMasqueradeIsKept: an ADD looks no closer than it must, and still makes what somebody has taken away.
func TestMasqueradeIsKept(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"ipMasq": true})
	table := nft.Table{Family: nft.INet, Name: "podweft-pods-nat"}
	them, err := nft.Open(n.ns.NetNS())
	require.NoError(t, err)
	defer them.Close()
	whole := func() {
		t.Helper()
		rules, err := them.Rules(t.Context(), table)
		require.NoError(t, err)
		assert.Len(t, rules, 3)
	}
	pod := testnet.NewNode(t, "first")
	checked := n.conf(map[string]any{"ipMasq": true, "prevResult": result(n.add(t, pod, conf))})
	whole()
	n.add(t, testnet.NewNode(t, "second"), conf)
	whole()
	var b nft.Batch
	b.DeleteTable(table)
	require.Zero(t, n.call(t, "podweft-cni", "CHECK", checked, about(pod)...).code)
	require.NoError(t, them.Commit(t.Context(), &b))
	r := n.call(t, "podweft-cni", "CHECK", checked, about(pod)...)
	assert.Equal(t, cniplugin.CodeMissing, r.Code, r)
	assert.Contains(t, r.Details, "masquerading lacks table inet podweft-pods-nat")
	n.add(t, testnet.NewNode(t, "third"), conf)
	whole()
	require.Zero(t, n.call(t, "podweft-cni", "CHECK", checked, about(pod)...).code)

	wider := n.conf(map[string]any{"ipMasq": true, "ipam": map[string]any{"routes": []any{map[string]any{"dst": "10.99.0.0/16"}}}})
	n.add(t, testnet.NewNode(t, "fourth"), wider)
	exempt, err := them.Elements(t.Context(), nft.Set{Table: table, Name: "exempt4", Key: nft.IPv4Addr, Interval: true})
	require.NoError(t, err)
	assert.Len(t, exempt, 3, "the cluster with the pods within, what is routed to it now, multicast")
}

// masqueraded are the prefixes of pods that leave with the node's address.
func (n *node) masqueraded(t *testing.T) (all []string) {
	t.Helper()
	c, err := nft.Open(n.ns.NetNS())
	require.NoError(t, err)
	defer c.Close()
	table := nft.Table{Family: nft.INet, Name: "podweft-pods-nat"}
	elements, err := c.Elements(t.Context(), nft.Set{Table: table, Name: "pods4", Key: nft.IPv4Addr, Interval: true})
	require.NoError(t, err)
	for _, e := range elements {
		from, ok := netip.AddrFromSlice([]byte(e.Key))
		require.True(t, ok)
		all = append(all, from.String())
	}
	slices.Sort(all)
	return all
}

// TestMasqueradeOfSeveralRanges: the pods of one range keep theirs when a pod of another comes.
func TestMasqueradeOfSeveralRanges(t *testing.T) {
	n := newNode(t)
	ranges := func(texts ...string) (set []any) {
		for _, text := range texts {
			set = append(set, map[string]any{"subnet": text})
		}
		return set
	}
	conf := n.conf(map[string]any{"ipMasq": true, "ipam": map[string]any{"ranges": []any{ranges("10.1.0.0/30", "10.2.0.0/30")}}})
	one, two := testnet.NewNode(t, "first"), testnet.NewNode(t, "second")
	first, second := n.add(t, one, conf), n.add(t, two, conf)
	assert.Equal(t, "10.1.0.2/30", first.IPs[0].Address)
	assert.Equal(t, "10.2.0.2/30", second.IPs[0].Address)
	assert.Equal(t, []string{"10.1.0.0", "10.2.0.0"}, n.masqueraded(t))
	for pod, gateway := range map[*testnet.Node]string{one: "10.1.0.1", two: "10.2.0.1"} { // each keeps its own
		_, err := pod.Ping(t.Context(), netip.MustParseAddr(gateway))
		require.NoError(t, err, gateway)
	}

	// The runtime names ranges for one pod alone.
	conf["runtimeConfig"] = map[string]any{"ipRanges": []any{ranges("10.3.0.0/29")}}
	conf["ipam"] = nil
	n.add(t, testnet.NewNode(t, "third"), conf)
	assert.Equal(t, []string{"10.1.0.0", "10.2.0.0", "10.3.0.0"}, n.masqueraded(t))
}

// TestMasqueradeOfSingleAddresses: pods that have no range in common are masqueraded as long as they live.
func TestMasqueradeOfSingleAddresses(t *testing.T) {
	n := newNode(t)
	n.forward(t)
	n.agentWith(t, n.blocks(t, memory.New(), "node-1"), 0)
	conf := n.conf(map[string]any{"type": "ptp", "ipMasq": true, "ipam": map[string]any{"type": "podweft-agent"}})
	pods := []*testnet.Node{testnet.NewNode(t, "a"), testnet.NewNode(t, "b"), testnet.NewNode(t, "c")}
	var want []string
	for _, pod := range pods {
		want = append(want, netip.MustParsePrefix(n.add(t, pod, conf).IPs[0].Address).Addr().String())
		slices.Sort(want)
		assert.Equal(t, want, n.masqueraded(t))
	}
}
