package dirwatch_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/dirwatch"
)

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	changed, stop, err := dirwatch.Watch(dir, func(name string) bool { return name == "draft" })
	require.NoError(t, err)
	defer stop()
	file, draft := filepath.Join(dir, "file"), filepath.Join(dir, "draft")

	hint := func(what string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatal("no hint after", what)
		}
	}
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	hint("a write")
	require.NoError(t, os.Rename(file, file+"2"))
	hint("a rename")
	for len(changed) > 0 { // a rename is two events
		<-changed
	}
	require.NoError(t, os.WriteFile(draft, nil, 0o600))
	require.NoError(t, os.Remove(draft))
	select {
	case <-changed: // of the rename, late
	case <-time.After(20 * time.Millisecond):
	}
	require.NoError(t, os.Remove(file+"2"))
	hint("a removal")
	stop()
	for len(changed) > 0 { // what was hinted may have been the rename still
		<-changed
	}
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.Empty(t, changed)
}

func TestWatchNothing(t *testing.T) {
	changed, stop, err := dirwatch.Watch(filepath.Join(t.TempDir(), "missing"), nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NotNil(t, changed)
	stop()
}

// Where there is nothing to listen to, there are calls all the same.
func TestRunLooksNowAndThen(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	dirwatch.Run(ctx, filepath.Join(t.TempDir(), "missing"), nil, func() {
		if calls++; calls == 2 {
			cancel()
		}
	})
	require.Equal(t, 2, calls)
}

func TestRunTellsOfChanges(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	calls := 0
	dirwatch.Run(ctx, dir, nil, func() {
		switch calls++; calls {
		case 1:
			require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
		case 2:
			cancel()
		}
	})
	require.ErrorIs(t, ctx.Err(), context.Canceled)
}
