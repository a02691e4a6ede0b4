package flannel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	plugin, bin := filepath.Join(dir, "image", "flannel"), filepath.Join(dir, "bin")
	require.NoError(t, os.MkdirAll(filepath.Dir(plugin), 0o755))
	require.NoError(t, os.WriteFile(plugin, []byte("one"), 0o755))
	require.NoError(t, os.MkdirAll(bin, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(bin, "portmap"), []byte("the node's own"), 0o755))
	c := cniOptions{plugin: plugin, binDir: bin}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(bin, name))
		require.NoError(t, err)
		return string(text)
	}

	require.NoError(t, c.install())
	assert.Equal(t, "one", read("flannel"))
	assert.Equal(t, "one", read("loopback"))
	assert.Equal(t, "the node's own", read("portmap"))
	info, err := os.Stat(filepath.Join(bin, "flannel"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o755), info.Mode(), "runtimes execute it")

	require.NoError(t, os.WriteFile(plugin, []byte("two"), 0o755))
	require.NoError(t, c.install())
	assert.Equal(t, "two", read("loopback"), "an upgrade")
	left, err := filepath.Glob(filepath.Join(bin, ".*"))
	require.NoError(t, err)
	assert.Empty(t, left)

	c.plugin = filepath.Join(dir, "none")
	assert.ErrorContains(t, c.install(), "no such file")
}

func TestCopy(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "cni-conf.json"), filepath.Join(dir, "net.d", "10-flannel.conflist")
	require.NoError(t, os.WriteFile(from, []byte("{}"), 0o644))
	require.NoError(t, os.Mkdir(filepath.Dir(to), 0o755))
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		made   string
		says   string
	}{
		{"as kube-flannel.yml does", []string{"-f", from, to}, 0, to, ""},
		{"again", []string{"-f", from, to}, 0, to, ""},
		{"into a directory", []string{from, filepath.Dir(to)}, 0, filepath.Join(filepath.Dir(to), "cni-conf.json"), ""},
		{"nothing", []string{"-f", from + "x", to}, 1, "", "no such file"},
		{"a directory", []string{dir, to}, 1, "", "is not a file"},
		{"one name", []string{from}, 2, "", "one source and one destination"},
		{"what it cannot", []string{"-r", dir, to}, 2, "", "not defined"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log strings.Builder
			assert.Equal(t, tt.status, Copy(tt.args, &log), log.String())
			assert.Contains(t, log.String(), tt.says)
			if tt.made != "" {
				text, err := os.ReadFile(tt.made)
				require.NoError(t, err)
				assert.Equal(t, "{}", string(text))
			}
		})
	}
}
