package iptables_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy/iptables"
	"github.com/podweft/podweft/testnet"
)

// TestVariant: the driver takes the variant that others use.
func TestVariant(t *testing.T) {
	withPrograms(t)
	hint := []byte("*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n")
	rules := []byte("*filter\n-A FORWARD -j ACCEPT\n-A INPUT -j ACCEPT\nCOMMIT\n")
	tests := []struct {
		name string
		load map[string][]byte // by the program
		want iptables.Variant
	}{
		{"hint to nft", map[string][]byte{"iptables-nft-restore": hint, "iptables-legacy-restore": rules}, iptables.NFT},
		{"hint to legacy", map[string][]byte{"ip6tables-legacy-restore": hint, "ip6tables-nft-restore": rules}, iptables.Legacy},
		{"more rules of legacy", map[string][]byte{"iptables-legacy-restore": rules}, iptables.Legacy},
		{"more rules of nft", map[string][]byte{"iptables-nft-restore": rules}, iptables.NFT},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := testnet.NewNode(t, "node")
			for program, script := range test.load {
				output(t, n, script, program, "--noflush")
			}
			assert.Equal(t, test.want, newDriver(t, n, iptables.Config{}).Variant())
		})
	}
}

// TestPrograms: what is not installed is said by name, and what is there under one name only is asked what it is.
func TestPrograms(t *testing.T) {
	withPrograms(t)
	dir, paths := t.TempDir(), map[string]string{}
	for _, name := range []string{"ipset", "iptables-nft-save", "iptables-nft-restore", "ip6tables-nft-save", "ip6tables-nft-restore"} {
		path, err := exec.LookPath(name)
		require.NoError(t, err)
		paths[name] = path
	}
	install := func(name, as string) {
		t.Helper()
		require.NoError(t, os.Symlink(paths[name], filepath.Join(dir, as)))
	}
	refused := func(cfg iptables.Config, want string) {
		t.Helper()
		_, err := iptables.New(cfg)
		require.ErrorIs(t, err, podweft.ErrNotSupported)
		var of *podweft.OpError
		require.ErrorAs(t, err, &of)
		assert.Contains(t, err.Error(), want)
	}
	t.Setenv("PATH", dir)
	refused(iptables.Config{}, "install ipset")
	install("ipset", "ipset")
	refused(iptables.Config{Variant: iptables.NFT}, "install iptables")
	for _, tool := range []string{"iptables", "ip6tables"} {
		install(tool+"-nft-save", tool+"-save")
		install(tool+"-nft-restore", tool+"-restore")
	}
	refused(iptables.Config{Variant: iptables.Legacy}, "the only iptables here is of the variant nft")
	d, err := iptables.New(iptables.Config{})
	require.NoError(t, err)
	assert.Equal(t, iptables.NFT, d.Variant())
	require.NoError(t, d.Close())
}
