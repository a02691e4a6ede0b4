package podweft

import (
	"math/rand/v2"
	"time"
)

// backoff counts the failures of one thing and says when it is tried again.
type backoff struct {
	attempts int
	from     time.Time // a pass that runs anyway takes it along from here on
	next     time.Time // no later than here, the loop comes for it
}

// fail counts one more failure of what was tried at the one time and failed at the other, unless that was before from:
// nobody was meant to try. The wait is shortened by the given share of what jitter may take.
func (b *backoff) fail(tried, failed time.Time, share float64, c *LoopConfig) {
	if tried.Before(b.from) {
		return
	}
	b.attempts++
	delay := c.delay(b.attempts)
	b.from = failed.Add(shorten(delay, 1))
	b.next = failed.Add(shorten(delay, share))
}

// delay is the longest time between the given attempt (the first is 1) and the next.
func (c *LoopConfig) delay(attempts int) time.Duration {
	d := c.RetryMin
	for range attempts - 1 {
		if d > c.RetryMax/2 {
			return c.RetryMax
		}
		d *= 2
	}
	return d
}

// shorten takes a share, from 0 to 1, of a quarter from d.
func shorten(d time.Duration, share float64) time.Duration {
	return d - time.Duration(share*float64(d/4))
}

// jitter is a share by chance, so that nodes that failed together do not come back in step.
func jitter() float64 { return rand.Float64() }
