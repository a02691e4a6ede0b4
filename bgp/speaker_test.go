package bgp_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bgp"
)

func TestTwoSpeakersLearnEachOthersBlocks(t *testing.T) {
	r := newRow(t, 2, nil)
	r.mesh(t)
	for i, s := range r {
		own, other := i+1, 2-i
		snap := waitFor(t, s, "both families", has(v4Block(other), v6Block(other)))
		want := []bgp.Path{
			{Prefix: v4Block(other), NextHop: hops(other).V4, Peer: at(other)},
			{Prefix: v6Block(other), NextHop: hops(other).V6, Peer: at(other)},
		}
		assert.Equal(t, want, snap.Paths, "of speaker %d", own)
	}
	require.Eventually(t, func() bool { return r[0].Status().Established() == 1 }, patience, 10*time.Millisecond)
	status := r[0].Status()
	require.NoError(t, status.Err)
	p := status.Peers[0]
	assert.Equal(t, "node2", p.Name)
	assert.Equal(t, uint32(64512), p.AS)
	assert.Equal(t, hops(2).V4, p.RouterID)
	assert.EqualValues(t, 2, p.Received)
	assert.EqualValues(t, 2, p.Accepted)
	assert.EqualValues(t, 2, p.Advertised)
	assert.WithinDuration(t, time.Now(), p.Since, patience)
	assert.NotZero(t, p.UpdatesIn)
}
