package flannel

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/testnet"
)

// TestCleanupGoesOn: no part of it keeps the others from being tried.
func TestCleanupGoesOn(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		return path
	}
	o := &Options{
		Owner: "not an owner of tables", NetNS: testnet.NewNode(t, "host").NetNS(),
		SubnetFile: file("subnet.env"), StateFile: file("lease.json"), cni: cniOptions{list: file("conflist")},
	}
	err := o.cleanup(t.Context(), io.Discard)
	for _, part := range []string{"masquerade: ", "forward: "} {
		require.ErrorContains(t, err, part)
	}
	assert.NoFileExists(t, o.SubnetFile)
	assert.NoFileExists(t, o.StateFile)
	assert.FileExists(t, o.cni.list, "who installed it is not known")
	o.cni.source = "/etc/kube-flannel/cni-conf.json"
	require.Error(t, o.cleanup(t.Context(), io.Discard))
	assert.NoFileExists(t, o.cni.list)
}
