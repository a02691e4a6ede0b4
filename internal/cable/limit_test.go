package cable

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

func TestBucket(t *testing.T) {
	tests := []struct {
		name  string
		limit Limit
		want  nl.TokenBucket
	}{
		{"the burst of slow ones", Limit{Rate: 8e6}, nl.TokenBucket{Rate: 1e6, Burst: 1 << 17, Queue: 1<<17 + 25_000}},
		{"of fast ones", Limit{Rate: 8e9}, nl.TokenBucket{Rate: 1e9, Burst: 1e7, Queue: 35_000_000}},
		{"given", Limit{Rate: 8e6, Burst: 80_000}, nl.TokenBucket{Rate: 1e6, Burst: 10_000, Queue: 35_000}},
		{"what containerd gives", Limit{Rate: 8e6, Burst: 1<<35 - 8}, nl.TokenBucket{Rate: 1e6, Burst: 1<<32 - 1, Queue: 1<<32 - 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var f Fields
			f.Limit("Limit", tt.limit)
			assert.NoError(t, f.Err())
			assert.Equal(t, tt.want, tt.limit.bucket())
		})
	}
}

func TestLimitWithoutTokenBuckets(t *testing.T) {
	steps := SetLimit(nl.Link{Name: "eth0"}, Limit{Rate: 8000})
	err := steps[0].explain(unix.ENOENT)
	assert.ErrorIs(t, err, podweft.ErrNotSupported)
	assert.ErrorIs(t, err, unix.ENOENT)
	assert.ErrorContains(t, err, "set rate 8000bit of link eth0")
}
