package xtables_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/xtables"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

func TestInUse(t *testing.T) {
	if _, err := exec.LookPath(string(xtables.IPv6)); err != nil {
		if os.Getenv("PODWEFT_REQUIRE_KERNEL") == "1" {
			require.NoError(t, err, "apt install iptables")
		}
		t.Skip(err)
	}
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock")) // an ordinary user may not open the host's
	n := testnet.NewNode(t, "host")
	for _, family := range []xtables.Family{xtables.IPv4, xtables.IPv6} {
		used, err := xtables.InUse(n.NetNS(), family, "filter")
		require.NoError(t, err)
		require.False(t, used, "nobody has asked for it")
		_, err = xtables.Run(t.Context(), n.NetNS(), family, "-A FORWARD -j ACCEPT")
		require.NoError(t, err)
		used, err = xtables.InUse(n.NetNS(), family, "filter")
		require.NoError(t, err)
		assert.True(t, used)
		used, err = xtables.InUse(n.NetNS(), family, "nat")
		require.NoError(t, err)
		assert.False(t, used)
		text, err := xtables.Run(t.Context(), n.NetNS(), family, "-S FORWARD")
		require.NoError(t, err)
		assert.Equal(t, "-P FORWARD ACCEPT\n-A FORWARD -j ACCEPT\n", text)
		_, err = xtables.Run(t.Context(), n.NetNS(), family, "-A NOWHERE -j ACCEPT")
		require.ErrorContains(t, err, string(family)+" -A NOWHERE")
	}
	t.Setenv("PATH", t.TempDir())
	_, err := xtables.Run(t.Context(), n.NetNS(), xtables.IPv4, "-S")
	require.ErrorIs(t, err, xtables.ErrNoProgram)
}
