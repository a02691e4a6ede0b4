package local_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/node/local"
)

// BenchmarkAttach is what a plugin waits for when the agent has nothing to do: dial, ask, answer.
func BenchmarkAttach(b *testing.B) {
	path := socket(b)
	serve(b, local.ServerConfig{Path: path, Handler: agent{}})
	c, rec := local.NewClient(path), full("a")
	for b.Loop() {
		require.NoError(b, c.Attach(b.Context(), rec))
	}
}

// BenchmarkDetach is 1,000 at once.
func BenchmarkDetach(b *testing.B) {
	path := socket(b)
	serve(b, local.ServerConfig{Path: path, Handler: agent{}})
	var keys []local.Key
	for i := range 1000 {
		keys = append(keys, full(fmt.Sprintf("%064x", i)).Key())
	}
	c := local.NewClient(path)
	for b.Loop() {
		require.NoError(b, c.Detach(b.Context(), keys...))
	}
}

// BenchmarkRecords is one plugin's part, and the agent's when it starts on a node with 250 pods.
func BenchmarkRecords(b *testing.B) {
	dir, err := os.MkdirTemp("/dev/shm", "attachments") // in memory, as /run is
	if err != nil {
		dir = b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	r := records(b, dir, "")
	for i := range 250 {
		require.NoError(b, r.Put(full(fmt.Sprintf("%064x", i))))
	}
	b.Run("put", func(b *testing.B) {
		rec := full("one-more")
		for b.Loop() {
			require.NoError(b, r.Put(rec))
		}
	})
	b.Run("all again", func(b *testing.B) {
		time.Sleep(100 * time.Millisecond) // until the files' times are to be trusted
		again := local.NewReader(r)
		for b.Loop() {
			all, _, err := again.All("")
			require.NoError(b, err)
			require.NotEmpty(b, all)
		}
	})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			all, _, err := r.All("")
			require.NoError(b, err)
			require.NotEmpty(b, all)
		}
	})
}
