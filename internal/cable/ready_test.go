package cable

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

// What somebody took away while a port was being attached is not waited for: the ports behind it would wait too.
func TestNobodyWaitsForWhatIsGone(t *testing.T) {
	n := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1}).Nodes[0]
	conn, err := nl.Dial(n.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	s := Space{Conn: conn, Path: n.NetNS()}
	eth0, err := conn.Link("eth0")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience/2)
	defer cancel()

	require.NoError(t, s.Reachable(ctx, eth0.Index, n.V6))
	watch := sabotage.Start(t, n)
	require.ErrorIs(t, s.Reachable(ctx, eth0.Index, netip.MustParseAddr("fd00::1")), ErrMissing)
	require.NoError(t, n.SetDown("eth0"))
	_, err = s.Operational(ctx, "eth0")
	require.ErrorIs(t, err, ErrMissing)
	assert.ErrorContains(t, err, "await carrier of link eth0: is missing: the link was taken down")
	assert.Less(t, watch.Stop(), patience/10)
}
