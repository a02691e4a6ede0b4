package ptp_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/ptp"
)

func TestLimits(t *testing.T) {
	h := newHost(t, ptp.Config{})
	pod := newMachine(t, "pod")
	p := port(dual, pod, 1)
	p.Ingress, p.Egress = ptp.Limit{Rate: 8_000_000}, ptp.Limit{Rate: 16_000_000, Burst: 1_000_000}
	at := h.attach(t, p)
	right := func() {
		t.Helper()
		toward, err := h.nl.TokenBucket(t.Context(), at.Host.Index)
		require.NoError(t, err)
		from, err := pod.nl.TokenBucket(t.Context(), at.Pod.Index)
		require.NoError(t, err)
		assert.Equal(t, []uint64{1_000_000, 2_000_000}, []uint64{toward.Rate, from.Rate})
	}
	right()
	require.NoError(t, h.pods.Check(t.Context(), p))

	h.change(t, func(b *nl.Batch) { b.SetTokenBucket(at.Host.Index, nl.TokenBucket{Rate: 7, Burst: 2000, Queue: 2000}) })
	err := h.pods.Check(t.Context(), p)
	require.ErrorIs(t, err, ptp.ErrMissing)
	assert.ErrorContains(t, err, "check rate 8000000bit of link veth")
	d, err := ptp.NewDriver(ptp.Config{NetNS: h.NetNS()})
	require.NoError(t, err)
	defer d.Close()
	plan, err := d.Apply(t.Context(), ptp.Spec{Ports: []ptp.Port{p}})
	require.NoError(t, err)
	assert.Contains(t, plan.String(), "rate 8000000bit of link veth")
	right()

	p.Egress.Burst = 1 // bit
	_, err = h.pods.Attach(t.Context(), p)
	assert.ErrorContains(t, err, "Port.Egress.Burst: 1 is less than a byte: use bits, or leave it out")
}
