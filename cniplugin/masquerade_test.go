package cniplugin_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/nft"
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
	n.add(t, testnet.NewNode(t, "first"), conf)
	whole()
	n.add(t, testnet.NewNode(t, "second"), conf)
	whole()
	var b nft.Batch
	b.DeleteTable(table)
	require.NoError(t, them.Commit(t.Context(), &b))
	n.add(t, testnet.NewNode(t, "third"), conf)
	whole()

	wider := n.conf(map[string]any{"ipMasq": true, "ipam": map[string]any{"routes": []any{map[string]any{"dst": "10.99.0.0/16"}}}})
	n.add(t, testnet.NewNode(t, "fourth"), wider)
	exempt, err := them.Elements(t.Context(), nft.Set{Table: table, Name: "exempt4", Key: nft.IPv4Addr, Interval: true})
	require.NoError(t, err)
	assert.Len(t, exempt, 3, "the cluster with the pods within, what is routed to it now, multicast")
}
