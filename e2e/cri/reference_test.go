package cri_test

import (
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/cnitest"
)

// TestReference runs the checklist on Debian's reference plugins: what package cnitest's documentation says of them is so.
func TestReference(t *testing.T) {
	need(t, "/usr/lib/cni/bridge")
	for _, dir := range []string{"/run", "/var/lib/cni"} { // where they keep locks, addresses and results
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, unix.Mount("reference", dir, "tmpfs", 0, ""))
		t.Cleanup(func() { assert.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	}
	before, err := netlink.LinkList()
	require.NoError(t, err)
	t.Cleanup(func() { // what those rules have found out
		after, err := netlink.LinkList()
		for errors.Is(err, netlink.ErrDumpInterrupted) { // links of pods that are gone go too
			after, err = netlink.LinkList()
		}
		require.NoError(t, err)
		for _, l := range after[len(before):] {
			_ = netlink.LinkDel(l) // the other end of a pair goes with the first
		}
	})
	results, err := cnitest.Run(t.Context(), cnitest.Config{Dir: "/usr/lib/cni", List: []byte(`{"cniVersion": "1.0.0", "name": "reference", "plugins": [
		{"type": "bridge", "bridge": "reference0", "isGateway": true, "ipam": {"type": "host-local", "subnet": "10.9.0.0/28"}}]}`)})
	require.NoError(t, err)
	var failed []string
	for _, r := range results {
		if r.Err != nil {
			failed = append(failed, r.ID)
		}
		t.Log(r)
	}
	assert.ElementsMatch(t, []string{"E1", "E5", "D3"}, failed)
}
