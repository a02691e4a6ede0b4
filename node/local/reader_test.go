package local_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/node/local"
)

// TestReader puts, replaces, damages and removes records, now fast and now slowly: a Reader says what is there.
func TestReader(t *testing.T) {
	dir := t.TempDir()
	r := records(t, dir, "boot-1")
	again := local.NewReader(r)
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		rec := full(fmt.Sprint("pod-", random.IntN(8)))
		if random.IntN(3) == 0 {
			rec.Network = "storage"
		}
		path := filepath.Join(dir, rec.Network+":"+rec.Container+":eth0")
		switch random.IntN(6) {
		case 0:
			require.NoError(t, r.Remove(rec.Key()))
		case 1:
			require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
		case 2:
			time.Sleep(20 * time.Millisecond)
		default:
			rec.HostName = fmt.Sprint("veth", random.IntN(10)) // of the same length
			require.NoError(t, r.Put(rec))
		}
		for _, network := range []string{"", "cbr0", "none"} {
			want, wrong, err := r.All(network)
			require.NoError(t, err)
			got, problems, err := again.All(network)
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.Len(t, problems, len(wrong))
		}
	}
}

// TestReaderRemembers: a file that has lain for a while is not read again.
func TestReaderRemembers(t *testing.T) {
	dir := t.TempDir()
	r := records(t, dir, "boot-1")
	require.NoError(t, r.Put(full("a")))
	again := local.NewReader(r)
	time.Sleep(100 * time.Millisecond)
	first, _, err := again.All("")
	require.NoError(t, err)
	path := filepath.Join(dir, "cbr0:a:eth0")
	before, err := os.Stat(path)
	require.NoError(t, err)
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, make([]byte, len(raw)), 0o600)) // who writes into a record, and hides it
	require.NoError(t, os.Chtimes(path, before.ModTime(), before.ModTime()))
	second, problems, err := again.All("")
	require.NoError(t, err)
	assert.Empty(t, problems)
	assert.Equal(t, first, second)
}

// TestReaderForgetsErrors: what keeps a file from being read may pass while the file stays as it is.
func TestReaderForgetsErrors(t *testing.T) {
	dir := t.TempDir()
	r := records(t, dir, "boot-1")
	require.NoError(t, r.Put(full("a")))
	again := local.NewReader(r)
	path := filepath.Join(dir, "cbr0:a:eth0")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	past := time.Now().Add(-time.Hour)
	for _, text := range [][]byte{make([]byte, len(raw)), raw} { // to a Reader they are one file
		require.NoError(t, os.WriteFile(path, text, 0o600))
		require.NoError(t, os.Chtimes(path, past, past))
		_, _, err = again.All("")
		require.NoError(t, err)
	}
	all, problems, err := again.All("")
	require.NoError(t, err)
	assert.Empty(t, problems)
	assert.Equal(t, []string{full("a").Key().String()}, names(all))
}
