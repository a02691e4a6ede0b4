package file_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/roster/file"
	"github.com/podweft/podweft/roster/rostertest"
)

func open(t testing.TB, dir string) *file.Store {
	s, err := file.New(dir)
	require.NoError(t, err)
	return s
}

func TestStore(t *testing.T) {
	var mu sync.Mutex
	dirs := map[roster.Store]string{}
	in := func(t *testing.T, dir string) roster.Store {
		s := open(t, dir)
		mu.Lock()
		defer mu.Unlock()
		dirs[s] = dir
		return s
	}
	rostertest.Run(t, rostertest.Config{
		New:     func(t *testing.T) roster.Store { return in(t, t.TempDir()) },
		Another: func(t *testing.T, s roster.Store) roster.Store { return in(t, dirs[s]) },
	})
}

// written is a directory with a node in it, and the text that says so.
func written(t *testing.T) (s *file.Store, path, text string) {
	dir := t.TempDir()
	s = open(t, dir)
	require.NoError(t, s.Join(t.Context(), roster.Node{Name: "a", AS: 7}, time.Hour))
	path = filepath.Join(dir, "nodes.json")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	return s, path, string(raw)
}

func replace(t *testing.T, path, text, old, replacement string) string {
	require.Contains(t, text, old)
	text = strings.Replace(text, old, replacement, 1)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return text
}

// After a reboot everybody is known and nobody is alive.
func TestReboot(t *testing.T) {
	s, path, text := written(t)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	replace(t, path, text, strings.TrimSpace(string(boot)), "another")
	nodes, err := s.Nodes(t.Context())
	require.NoError(t, err)
	require.Len(t, nodes, 1)
	assert.False(t, nodes[0].Alive)
	assert.EqualValues(t, 7, nodes[0].AS)
	require.NoError(t, s.Join(t.Context(), roster.Node{Name: "b"}, time.Hour))
	nodes, err = s.Nodes(t.Context())
	require.NoError(t, err)
	require.Len(t, nodes, 2)
	assert.False(t, nodes[0].Alive)
	assert.True(t, nodes[1].Alive)
}

func TestEditedFileIsRefused(t *testing.T) {
	s, path, text := written(t)
	tests := []struct{ name, old, new, want string }{
		{"empty", text, "", "unexpected end of JSON input"},
		{"another version", `"version": 1`, `"version": 2`, "format version 2: this program knows version 1"},
		{"of the future", `"written": 1`, `"written": 99`, "is of the future"},
		{"no name", `"name": "a"`, `"name": ""`, "Name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bad := replace(t, path, text, tt.old, tt.new)
			_, err := s.Nodes(t.Context())
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, s.Join(t.Context(), roster.Node{Name: "b"}, time.Hour), tt.want)
			now, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, bad, string(now), "it is left as it is")
		})
	}
}
