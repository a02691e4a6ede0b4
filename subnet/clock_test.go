package subnet_test

import (
	"context"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/memory"
)

// set is a Store whose leases came before somebody set the clock: what it says of time is right by the clock that only goes forward,
// and wrong by the one on the wall.
type set struct {
	*counting
	by time.Duration
}

func (s set) Acquire(ctx context.Context, c subnet.Claim) (*subnet.Lease, error) {
	l, err := s.counting.Acquire(ctx, c)
	return s.shifted(l), err
}

func (s set) Renew(ctx context.Context, l *subnet.Lease) (*subnet.Lease, error) {
	l, err := s.counting.Renew(ctx, l)
	return s.shifted(l), err
}

func (s set) shifted(l *subnet.Lease) *subnet.Lease {
	if l != nil {
		l.Expires = onWall(l.Expires, s.by)
	}
	return l
}

// onWall is t with another time on the wall, and the same one besides. There is no other way to have such a time without setting the
// machine's clock: in a bubble of synctest times have but one.
func onWall(t time.Time, by time.Duration) time.Time {
	seconds := by / time.Second
	*(*uint64)(unsafe.Pointer(&t)) += uint64(seconds) << 30 // time.Time.wall: 33 bits of seconds above 30 of nanoseconds
	return t
}

// TestClockSet: a lease is renewed in its time, neither later nor all the time, whatever time somebody sets on the wall.
func TestClockSet(t *testing.T) {
	const ttl, renewals = 2 * time.Second, 3
	for _, by := range []time.Duration{-10 * 365 * 24 * time.Hour, -ttl, ttl, 10 * 365 * 24 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			probe := time.Now()
			require.InDelta(t, by.Seconds(), onWall(probe, by).Round(0).Sub(probe.Round(0)).Seconds(), 1, "this Go keeps times otherwise")
			require.Zero(t, onWall(probe, by).Sub(probe), "this Go keeps times otherwise")

			s := set{&counting{Store: memory.New(network(t, small))}, by}
			h, err := subnet.NewHold(subnet.HoldConfig{Store: s, Claim: subnet.Claim{Node: "a", TTL: ttl}})
			require.NoError(t, err)
			begun := time.Now()
			l, err := h.Acquire(t.Context())
			require.NoError(t, err)
			stop := run(t, h)
			for s.renewals.Load() < renewals {
				require.Less(t, time.Since(begun), 20*ttl, "not renewed")
				time.Sleep(10 * time.Millisecond)
			}
			assert.GreaterOrEqual(t, time.Since(begun), renewals*ttl/4, "renewed all the time")
			require.NoError(t, stop())
			assert.Equal(t, l.Prefixes, h.Lease().Prefixes)
		})
	}
}
