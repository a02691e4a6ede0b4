package subnet

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff is how long to wait between tries: twice as long each time, and never quite as long as the next node, so that a
// thousand of them do not come back to a store in one moment.
type backoff struct {
	least, most time.Duration
	step        time.Duration
}

func newBackoff(least, most time.Duration) *backoff {
	return &backoff{least: least, most: max(least, most), step: least}
}

// wait waits between half and all of the present step and reports whether ctx let it.
func (b *backoff) wait(ctx context.Context) bool {
	timer := time.NewTimer(jitter(b.step/2, b.step))
	defer timer.Stop()
	b.step = min(2*b.step, b.most)
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (b *backoff) reset() { b.step = b.least }

// jitter is a random time from low to high.
func jitter(low, high time.Duration) time.Duration { return low + rand.N(high-low+1) }

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}
