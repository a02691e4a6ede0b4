package cri_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const image = "registry.test/podtool:1"

// build builds a command without cgo, from the module in dir.
func build(t *testing.T, dir, command, to string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", to, command)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

// plugins is a directory with our plugin by all its names, and nothing else.
func plugins(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build(t, "../../examples", "./cmd/podweft-cni", filepath.Join(dir, "podweft-cni"))
	for _, name := range []string{"flannel", "portmap", "loopback"} {
		require.NoError(t, os.Symlink("podweft-cni", filepath.Join(dir, name)))
	}
	return dir
}

// rootfs is a directory with podtool alone.
func rootfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build(t, ".", "./podtool", filepath.Join(dir, "podtool"))
	return dir
}

// archive writes an image of one file as `docker save` would.
func archive(t *testing.T) string {
	t.Helper()
	program, err := os.ReadFile(filepath.Join(rootfs(t), "podtool"))
	require.NoError(t, err)
	layer := pack(t, map[string][]byte{"podtool": program})
	config := encode(t, map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/podtool"}, "Cmd": []string{"pause"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer)}},
	})
	name := sum(config) + ".json"
	all := pack(t, map[string][]byte{
		"layer.tar": layer, name: config,
		"manifest.json": encode(t, []any{map[string]any{"Config": name, "RepoTags": []string{image}, "Layers": []string{"layer.tar"}}}),
	})
	path := filepath.Join(t.TempDir(), "image.tar")
	require.NoError(t, os.WriteFile(path, all, 0o600))
	return path
}

func pack(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}))
		_, err := w.Write(content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	return raw
}
