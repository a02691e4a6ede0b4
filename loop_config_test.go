package podweft

import (
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestLoopConfigDefaults(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name string
		cfg  LoopConfig
		want LoopConfig
	}{
		{"zero", LoopConfig{},
			LoopConfig{Coalesce: 5 * ms, RetryMin: 100 * ms, RetryMax: 30 * time.Second, Resync: 5 * time.Minute}},
		{"everything given", LoopConfig{Coalesce: 1, RetryMin: 2, RetryMax: 3, Resync: 4},
			LoopConfig{Coalesce: 1, RetryMin: 2, RetryMax: 3, Resync: 4}},
		{"no rest, no resync", LoopConfig{Coalesce: -1, Resync: -1},
			LoopConfig{Coalesce: -1, RetryMin: 100 * ms, RetryMax: 30 * time.Second, Resync: -1}},
		{"a long RetryMin takes RetryMax along", LoopConfig{RetryMin: time.Hour},
			LoopConfig{Coalesce: 5 * ms, RetryMin: time.Hour, RetryMax: time.Hour, Resync: 5 * time.Minute}},
		{"a short RetryMax takes RetryMin along", LoopConfig{RetryMax: ms},
			LoopConfig{Coalesce: 5 * ms, RetryMin: ms, RetryMax: ms, Resync: 5 * time.Minute}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.cfg.withDefaults()
			assert.False(t, got.Logger.Enabled(t.Context(), slog.LevelError), "silent unless asked")
			got.Logger = nil
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestBackoffDelay(t *testing.T) {
	tests := []struct {
		name     string
		min, max time.Duration
		attempts int
		want     time.Duration
	}{
		{"first", 100, 1000, 1, 100},
		{"second", 100, 1000, 2, 200},
		{"fourth", 100, 1000, 4, 800},
		{"the most", 100, 1000, 5, 1000},
		{"and no more", 100, 1000, 1 << 30, 1000},
		{"no overflow", 1, math.MaxInt64, 1 << 20, math.MaxInt64},
		{"constant", 100, 100, 7, 100},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := LoopConfig{RetryMin: tt.min, RetryMax: tt.max}
			assert.Equal(t, tt.want, cfg.delay(tt.attempts))
		})
	}
}
