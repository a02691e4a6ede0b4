package flock_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/flock"
)

func open(t *testing.T, path string) *os.File {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestLockShutsOthersOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	inside, most := 0, 0
	var mu sync.Mutex // the race detector knows nothing of flock
	count := func(d int) {
		mu.Lock()
		defer mu.Unlock()
		inside += d
		most = max(most, inside)
	}
	var wg sync.WaitGroup
	for range 8 {
		f := open(t, path)
		wg.Go(func() {
			for range 20 {
				if !assert.NoError(t, flock.Lock(t.Context(), f)) {
					return
				}
				count(1)
				count(-1)
				flock.Unlock(f)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 1, most)
}

func TestWaitingEndsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	holder, waiter := open(t, path), open(t, path)
	require.NoError(t, flock.Lock(t.Context(), holder))
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() { result <- flock.Lock(ctx, waiter) }()
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)

	require.NoError(t, holder.Close(), "a closed file holds no lock")
	require.NoError(t, flock.Lock(t.Context(), waiter))
}
