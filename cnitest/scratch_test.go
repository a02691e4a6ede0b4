package cnitest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestScratchOfTheDeadIsRemoved: a run that is killed leaves its directory; the next removes it, and no other.
func TestScratchOfTheDeadIsRemoved(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	held, err := newScratch()
	require.NoError(t, err)
	defer held.remove()
	dead := filepath.Join(os.TempDir(), "cnitest-4711")
	young := filepath.Join(os.TempDir(), "cnitest-4712")
	for _, dir := range []string{dead, young} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "results"), 0o700))
	}
	long := time.Now().Add(-time.Hour)
	for _, dir := range []string{dead, held.path} {
		require.NoError(t, os.Chtimes(dir, long, long))
	}
	next, err := newScratch()
	require.NoError(t, err)
	assert.NoDirExists(t, dead)
	assert.DirExists(t, young, "its run may be about to take its lock")
	assert.DirExists(t, held.path)
	next.remove()
	assert.NoDirExists(t, next.path)
}
