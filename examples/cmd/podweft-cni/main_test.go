package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// build builds the program as it is shipped, by a plugin's name.
func build(t *testing.T, path string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

// TestSmall: a node has many pods that start at once, and the program is read for each.
func TestSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "podweft-cni")
	build(t, path)
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Less(t, info.Size(), int64(12e6), "bytes")
	deps, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	for _, never := range []string{"k8s.io/", "go.etcd.io/", "google.golang.org/", "net/http\n"} {
		assert.NotContains(t, string(deps), never)
	}
}

// TestAlone calls the program where no other one is: the directory is all it sees of the node's files.
func TestAlone(t *testing.T) {
	testnet.Require(t)
	root := t.TempDir()
	build(t, filepath.Join(root, "podweft-cni"))
	proc := filepath.Join(root, "proc")
	require.NoError(t, os.Mkdir(proc, 0o700))
	require.NoError(t, unix.Mount("/proc", proc, "", unix.MS_BIND|unix.MS_REC, ""))
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(proc, unix.MNT_DETACH)) })
	node, pod := testnet.NewNode(t, "node"), testnet.NewNode(t, "pod")
	call := func(command string, prev json.RawMessage) []byte {
		t.Helper()
		conf := map[string]any{
			"cniVersion": "1.1.0", "name": "pods", "type": "podweft-cni", "ipMasq": true,
			"ipam":          map[string]any{"ranges": [][]map[string]string{{{"subnet": "10.244.1.0/24"}}, {{"subnet": "fd00:244::/64"}}}},
			"runtimeConfig": map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}},
		}
		if prev != nil {
			conf["prevResult"] = prev
		}
		stdin, err := json.Marshal(conf)
		require.NoError(t, err)
		cmd := exec.CommandContext(t.Context(), "/podweft-cni")
		cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: root}
		cmd.Env = []string{
			"CNI_COMMAND=" + command, "CNI_CONTAINERID=pod", "CNI_IFNAME=eth0", "CNI_NETNS=" + pod.NetNS(), "CNI_PATH=/", "PATH=/",
		}
		cmd.Stdin = bytes.NewReader(stdin)
		var out []byte
		require.NoError(t, node.Do(func() error {
			out, err = cmd.Output()
			return err
		}), command)
		return out
	}
	result := call("ADD", nil)
	links := func() (names []string) {
		all, err := node.Links()
		require.NoError(t, err)
		for _, l := range all {
			names = append(names, l.Name)
		}
		return names
	}
	assert.Contains(t, string(result), "10.244.1.2/24")
	assert.Contains(t, strings.Join(links(), " "), "veth")
	call("CHECK", result)
	call("DEL", result)
	assert.Equal(t, []string{"lo", "cni0"}, links())
}
