package bridge_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

func TestDetach(t *testing.T) {
	h := newHost(t, bridge.Config{})
	pod, _ := h.attachNew(t, dual, 1)
	other, p := h.attachNew(t, dual, 2)
	same := bridge.Port{Container: pod.Name}
	require.NoError(t, h.attacher(t, bridge.Config{}).Detach(t.Context(), same), "any attacher can")
	assert.Equal(t, []string{"lo"}, pod.linkNames(t))
	assert.Len(t, h.linkNames(t), 3, "lo, the bridge, the other port")
	require.NoError(t, h.pods.Detach(t.Context(), same), "again")
	require.NoError(t, h.pods.Detach(t.Context(), bridge.Port{Container: "never attached"}))
	other.ping(t, dual.Gateways[0].Addr())

	require.NoError(t, h.pods.Detach(t.Context(), p))
	require.NoError(t, h.pods.Teardown(t.Context()))
	assert.Equal(t, []string{"lo"}, h.linkNames(t))
	require.NoError(t, h.pods.Teardown(t.Context()), "again")
}

func TestDetachAfterTheNamespaceHasGone(t *testing.T) {
	h := newHost(t, bridge.Config{})
	gone, err := testnet.BuildNode("gone")
	require.NoError(t, err)
	p := port(dual, &machine{Node: gone}, 1)
	h.attach(t, dual, p)
	require.NoError(t, gone.Close())
	require.NoError(t, h.pods.Detach(t.Context(), p))
	require.Eventually(t, func() bool { return len(h.linkNames(t)) == 2 }, patience, 5*time.Millisecond, "lo and the bridge")
}

func TestDetachLeavesWhatIsNotOurs(t *testing.T) {
	h := newHost(t, bridge.Config{})
	h.veth(t, "mine", h.machine, "twin")
	_, p := h.attachNew(t, dual, 1)
	p.HostName = "mine"
	err := h.pods.Detach(t.Context(), p)
	require.ErrorIs(t, err, podweft.ErrConflict)
	assert.EqualError(t, err, `port pod-1/eth0: delete link mine: another program's object is in the way: link mine, index 3, veth, alias "a person's"`)
	assert.Contains(t, h.linkNames(t), "mine")
}

func TestTeardown(t *testing.T) {
	h := newHost(t, bridge.Config{})
	var pods []*machine
	for i := range 8 {
		pod, _ := h.attachNew(t, dual, i+1)
		pods = append(pods, pod)
	}
	other := dual
	other.Name = "cni1"
	other.Gateways = prefixes("10.9.0.1/24")
	h.attachNew(t, other, 9)
	h.veth(t, "mine", h.machine, "twin")
	h.change(t, func(b *nl.Batch) {
		b.AddBridge(nl.Link{Name: "br-mine", Alias: "podweft:podweft-but-not-quite"})
		b.AddBridge(nl.Link{Name: "br-bare"})
	})

	require.NoError(t, h.pods.Teardown(t.Context()))
	assert.ElementsMatch(t, []string{"lo", "mine", "twin", "br-mine", "br-bare"}, h.linkNames(t))
	for _, pod := range pods {
		assert.Equal(t, []string{"lo"}, pod.linkNames(t))
	}
}

func TestDetachValidates(t *testing.T) {
	h := newHost(t, bridge.Config{})
	err := h.pods.Detach(t.Context(), bridge.Port{Name: "a/b"})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.EqualError(t, err, "Port.Container: is missing: say whose port it is: a container's ID, a pod's name\n"+
		`Port.Name: "a/b" is not a name for a link: use at most 15 letters, digits, dashes and dots`)
}

// Rounds of the same, as a runtime makes them: nothing accumulates.
func TestAttachDetachRounds(t *testing.T) {
	h := newHost(t, bridge.Config{})
	h.attachNew(t, dual, 1)
	before := h.state(t)
	for i := range 5 {
		pod := newMachine(t, fmt.Sprintf("round-%d", i))
		p := port(dual, pod, 2)
		h.attach(t, dual, p)
		for _, g := range dual.Gateways {
			pod.ping(t, g.Addr())
		}
		h.ping(t, p.Addresses[0].Addr()) // the address had another pod a moment ago
		require.NoError(t, h.pods.Detach(t.Context(), p))
	}
	assert.Equal(t, before, h.state(t))
}

func TestRetire(t *testing.T) {
	h := newHost(t, bridge.Config{})
	pod, p := h.attachNew(t, dual, 1)
	other, q := h.attachNew(t, dual, 2)
	end := h.hostEnd(t, p)
	require.NoError(t, h.pods.Retire(t.Context(), bridge.Port{Container: pod.Name}))
	assert.Len(t, h.linkNames(t), 4, "lo, the bridge, the other port, the retired one")
	assert.NotContains(t, h.linkNames(t), end, "its name is free")
	other.silent(t, p.Addresses[0].Addr())
	other.ping(t, dual.Gateways[0].Addr())
	left, err := h.pods.Ports(t.Context())
	require.NoError(t, err)
	require.Len(t, left, 1)
	assert.Equal(t, other.Name, left[0].Container)
	require.NoError(t, h.pods.Retire(t.Context(), bridge.Port{Container: pod.Name}), "again")
	require.NoError(t, h.pods.Detach(t.Context(), bridge.Port{Container: pod.Name, NetNS: pod.NetNS()}), "or otherwise")

	h.attach(t, dual, p)
	for _, g := range dual.Gateways {
		pod.ping(t, g.Addr())
	}
	assert.Len(t, h.linkNames(t), 4, "the retired pair was in the way of a new one")
	assert.Equal(t, []string{"lo", "eth0"}, pod.linkNames(t))

	require.NoError(t, h.pods.Retire(t.Context(), p))
	require.NoError(t, h.pods.Retire(t.Context(), q))
	require.NoError(t, h.attacher(t, bridge.Config{Owner: "another"}).Sweep(t.Context()))
	assert.Len(t, h.linkNames(t), 4, "another owner's graveyard")
	require.NoError(t, h.attacher(t, bridge.Config{}).Sweep(t.Context()), "any attacher of the owner can")
	assert.Len(t, h.linkNames(t), 2, "lo, the bridge")
	assert.Equal(t, []string{"lo"}, pod.linkNames(t))
	require.NoError(t, h.pods.Sweep(t.Context()), "again")

	h.attach(t, dual, p)
	require.NoError(t, h.pods.Retire(t.Context(), p))
	require.NoError(t, h.pods.Teardown(t.Context()))
	assert.Equal(t, []string{"lo"}, h.linkNames(t))
}

func TestRetireLeavesWhatIsNotOurs(t *testing.T) {
	h := newHost(t, bridge.Config{})
	h.veth(t, "mine", h.machine, "twin")
	_, p := h.attachNew(t, dual, 1)
	p.HostName = "mine"
	require.ErrorIs(t, h.pods.Retire(t.Context(), p), podweft.ErrConflict)
	assert.Contains(t, h.linkNames(t), "mine")
}
