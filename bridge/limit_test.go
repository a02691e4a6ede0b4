package bridge_test

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/nl"
)

const (
	megabit = 1_000_000
	sent    = 1 << 20 // bytes: at 8 Mbit/s a second's worth, of which an eighth passes at once
)

func TestLimits(t *testing.T) {
	limit := bridge.Limit{Rate: 8 * megabit}
	tests := []struct {
		name            string
		ingress, egress bridge.Limit
		address         int
	}{
		{"what reaches the pod", limit, bridge.Limit{}, 0},
		{"what it sends, over IPv6", bridge.Limit{}, limit, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, bridge.Config{})
			pod := newMachine(t, "pod")
			p := port(dual, pod, 1)
			p.Ingress, p.Egress = test.ingress, test.egress
			at := h.attach(t, dual, p)
			assert.Equal(t, test.ingress.Rate/8, h.rate(t, at.Host.Index))
			assert.Equal(t, test.egress.Rate/8, pod.rate(t, at.Pod.Index))
			require.NoError(t, h.pods.Check(t.Context(), dual, p))

			from, to, server := h.machine, pod, p.Addresses[test.address].Addr()
			if test.ingress == (bridge.Limit{}) {
				from, to, server = pod, h.machine, dual.Gateways[test.address].Addr()
			}
			// A busy machine takes longer, never less.
			assert.Greater(t, stream(t, from, to, server), 400*time.Millisecond)
		})
	}
}

func (m *machine) rate(t *testing.T, link int) uint64 {
	t.Helper()
	bucket, err := m.nl.TokenBucket(t.Context(), link)
	require.NoError(t, err)
	return bucket.Rate
}

// stream sends a megabyte and returns how long it was under way.
func stream(t *testing.T, from, to *machine, server netip.Addr) time.Duration {
	t.Helper()
	var l net.Listener
	require.NoError(t, to.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(server, 0).String())
		return err
	}))
	defer l.Close()
	start := time.Now()
	failed := make(chan error, 1)
	go func() {
		failed <- from.Do(func() error {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(make([]byte, sent))
			return err
		})
	}()
	c, err := l.Accept()
	require.NoError(t, err)
	defer c.Close()
	n, err := io.Copy(io.Discard, c)
	require.NoError(t, err)
	require.NoError(t, <-failed)
	require.EqualValues(t, sent, n)
	return time.Since(start)
}

func TestLimitsAreKept(t *testing.T) {
	h := newHost(t, bridge.Config{})
	pod := newMachine(t, "pod")
	p := port(dual, pod, 1)
	p.Ingress, p.Egress = bridge.Limit{Rate: 50_000 * megabit, Burst: 8 << 20}, bridge.Limit{Rate: megabit}
	at := h.attach(t, dual, p)
	spoil := func() {
		h.change(t, func(b *nl.Batch) { b.SetTokenBucket(at.Host.Index, nl.TokenBucket{Rate: 7, Burst: 2000, Queue: 2000}) })
		pod.change(t, func(b *nl.Batch) { b.SetTokenBucket(at.Pod.Index, nl.TokenBucket{Rate: 7, Burst: 2000, Queue: 2000}) })
	}
	right := func() {
		t.Helper()
		assert.EqualValues(t, 50_000*megabit/8, h.rate(t, at.Host.Index), "more than 32 bits hold")
		assert.EqualValues(t, megabit/8, pod.rate(t, at.Pod.Index))
	}
	right()
	spoil()
	err := h.pods.Check(t.Context(), dual, p)
	require.ErrorIs(t, err, bridge.ErrMissing)
	assert.ErrorContains(t, err, "check rate 50000000000bit of link veth")
	assert.ErrorContains(t, err, "check rate 1000000bit of link eth0: is missing")
	h.attach(t, dual, p)
	right()

	spoil()
	d, err := bridge.NewDriver(bridge.Config{NetNS: h.NetNS()})
	require.NoError(t, err)
	defer d.Close()
	spec := bridge.Spec{Bridge: dual, Ports: []bridge.Port{p}}
	plan, err := d.Apply(t.Context(), spec)
	require.NoError(t, err)
	assert.Contains(t, plan.String(), "set rate 1000000bit of link eth0")
	right()
	plan, err = d.Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Empty(t, plan)

	spec.Ports[0].Ingress.Burst *= 2
	plan, err = d.Apply(t.Context(), spec)
	require.NoError(t, err)
	assert.Contains(t, plan.String(), "set rate 50000000000bit of link veth", "another burst")
	plan, err = d.Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Empty(t, plan)

	p.Ingress, p.Egress = bridge.Limit{}, bridge.Limit{}
	require.NoError(t, h.pods.Check(t.Context(), dual, p), "a limit that nobody asked for is somebody else's")
	h.attach(t, dual, p)
	right()
}

func TestLimitsThatMakeNoSense(t *testing.T) {
	p := bridge.Port{
		Container: "c", NetNS: "/run/netns/c", Ingress: bridge.Limit{Rate: 7}, Egress: bridge.Limit{Rate: megabit, Burst: 1 << 36},
	}
	err := p.Validate()
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.ErrorContains(t, err, "Port.Ingress.Rate: 7 is less than a byte per second")
	assert.ErrorContains(t, err, "Port.Egress.Burst: 68719476736 is more than the kernel can count")
}
