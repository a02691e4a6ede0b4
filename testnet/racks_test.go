package testnet_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
)

// TestRacks: everybody reaches everybody, in a rack, across the router and outside, and nobody else's addresses.
func TestRacks(t *testing.T) {
	r := testnet.NewRacks(t, testnet.RacksConfig{})
	nodes := r.Nodes()
	require.Len(t, nodes, 4)
	assert.Equal(t, "node3", r.Racks[1][0].Name)
	assert.Equal(t, netip.MustParseAddr("198.51.100.1"), r.Racks[1][0].V4)
	for _, from := range append(nodes, r.Outside) {
		for _, to := range append(nodes, r.Outside) {
			for _, a := range to.Addrs() {
				_, err := from.Ping(t.Context(), a)
				require.NoError(t, err, "%s to %s of %s", from.Name, a, to.Name)
			}
		}
	}
	rack1, err := r.Router.Capture("rack1")
	require.NoError(t, err)
	defer rack1.Close()
	_, err = nodes[0].Ping(t.Context(), nodes[1].V4)
	require.NoError(t, err)
	forwarded, err := rack1.Count(func(p testnet.Packet) bool { return p.Sent })
	require.NoError(t, err)
	assert.Zero(t, forwarded, "within a rack the router sends nothing")
}

func TestRacksSayWhatIsWrong(t *testing.T) {
	_, err := testnet.BuildRacks(testnet.RacksConfig{Nodes: 201})
	var field *podweft.FieldError
	require.ErrorAs(t, err, &field)
	assert.Equal(t, "Nodes", field.Field)
}
