package cnitest_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/cnitest"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "simple" {
		os.Exit(simple())
	}
	testnet.Main(m)
}

// liar says yes to everything and does nothing.
const liar = `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}' ;;
ADD) echo '{"cniVersion":"1.1.0"}' ;;
esac
`

// TestBrokenPluginIsFound: a checklist that everybody passes is worth nothing.
func TestBrokenPluginIsFound(t *testing.T) {
	testnet.Require(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "liar"), []byte(liar), 0o700))
	results, err := cnitest.Run(context.Background(), cnitest.Config{
		Dir: dir, List: []byte(`{"cniVersion":"1.1.0","name":"lies","plugins":[{"type":"liar","ipam":{"type":"host-local"}}]}`),
	})
	require.NoError(t, err)
	broken := map[string]bool{}
	for _, r := range results {
		broken[r.ID] = r.Err != nil
	}
	for _, id := range []string{"V2", "E1", "E2", "E3", "E4", "E5", "A1", "A2", "A4", "A6", "C1", "C2", "C3", "S1", "G1", "G3", "L3"} {
		assert.True(t, broken[id], id)
	}
	for _, id := range []string{"V1", "A5", "D2"} {
		assert.False(t, broken[id], id)
	}
}

func TestValidate(t *testing.T) {
	_, err := cnitest.Run(t.Context(), cnitest.Config{List: []byte("{")})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.ErrorContains(t, err, "Dir: is missing")
	assert.ErrorContains(t, err, "List: is no network configuration list")
}
