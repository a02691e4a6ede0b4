package podweft

import (
	"log/slog"
	"time"
)

// LoopConfig says when a [Loop] works. The zero value is good.
type LoopConfig struct {
	// Logger takes a warning for each pass that failed as a whole, each time Watch breaks, and whenever other objects
	// than before are failing (not for the same ones again). Nil is silent. Drivers log what they change themselves.
	Logger *slog.Logger

	// Coalesce is the shortest rest between two passes. The first hint or Set after a rest goes at once; those that
	// come sooner wait for its end and share one pass. It runs from the end of a pass, not from its start, so that
	// a pass that takes longer than Coalesce cannot keep the loop busy without a break. Zero is 5 ms; negative is
	// no rest.
	Coalesce time.Duration

	// RetryMin is the wait before the second try of an object that failed; each further wait is twice as long, up to
	// RetryMax. The same holds for a pass that failed as a whole and for a Watch that broke. Zeros are 100 ms and
	// 30 s. Each wait is shortened by up to a quarter, at random, so that nodes do not march in step. After a pass
	// that failed as a whole, hints and Sets too wait for three quarters of RetryMin.
	RetryMin, RetryMax time.Duration

	// Resync is how long the driver may go without reading the whole kernel, shortened by up to a quarter at random.
	// Zero is 5 minutes; negative is for ever.
	Resync time.Duration

	// OnPass, if it is there, is called after each pass with the loop's Status, for metrics and for people who want
	// to see it work. The next pass waits until it returns.
	OnPass func(Status)
}

func (c LoopConfig) withDefaults() LoopConfig {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Coalesce == 0 {
		c.Coalesce = 5 * time.Millisecond
	}
	if c.RetryMin <= 0 {
		c.RetryMin = 100 * time.Millisecond
	}
	if c.RetryMax <= 0 {
		c.RetryMax = max(30*time.Second, c.RetryMin)
	}
	c.RetryMin = min(c.RetryMin, c.RetryMax)
	if c.Resync == 0 {
		c.Resync = 5 * time.Minute
	}
	return c
}
