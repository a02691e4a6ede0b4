package main

import (
	"flag"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseRacked(t *testing.T) {
	assert.True(t, isRacked([]string{"--keep", "--network", "calico"}))
	assert.True(t, isRacked([]string{"-network=calico"}))
	assert.False(t, isRacked([]string{"--network"}))
	assert.False(t, isRacked([]string{"--nodes", "3"}))
	o, err := parseRacked([]string{"--network=calico", "--nodes", "3", "--vxlan=Always", "--routes=store", "--no-color"})
	require.NoError(t, err)
	assert.Equal(t, rackedOptions{nodes: 3, pods: 1, routes: "store", vxlan: "Always"}, o)
	for want, args := range map[string][]string{
		"--nodes: 0 is out of range":           {"--nodes", "0"},
		"--routes: guess is no source":         {"--routes", "guess"},
		"--vxlan: Never is no mode":            {"--vxlan", "Never"},
		`there is no command "x"`:              {"x"},
		"flag provided but not defined: -ipip": {"-ipip"},
	} {
		_, err := parseRacked(args)
		assert.ErrorContains(t, err, want)
	}
	_, err = parseRacked([]string{"--help"})
	require.ErrorIs(t, err, flag.ErrHelp)
}

// TestInStep: the stages that both ways have stand opposite each other.
func TestInStep(t *testing.T) {
	near := []string{stagePod, stagePod, stageNode, stageWire, stageWire, stageNode, stagePod}
	far := []string{stagePod, stageNode, stageTunnel, stageWire, stageRouter, stageRouter, stageWire, stageTunnel, stageNode, stagePod}
	var got []string
	for _, run := range inStep(near, far) {
		got = append(got, run.stage)
		assert.LessOrEqual(t, run.left[0], run.left[1])
	}
	assert.Equal(t, []string{stagePod, stageNode, stageTunnel, stageWire, stageRouter, stageWire, stageTunnel, stageNode, stagePod}, got)
	last := inStep(near, far)[8]
	assert.Equal(t, [2]int{6, 7}, last.left)
	assert.Equal(t, [2]int{9, 10}, last.right)
}

// TestRackedTour builds podweft-calico and takes the whole tour, over BGP.
func TestRackedTour(t *testing.T) {
	agent := filepath.Join(t.TempDir(), "podweft-calico")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", agent, "github.com/podweft/podweft/examples/cmd/podweft-calico").CombinedOutput()
	require.NoError(t, err, string(out))
	before := hostState(t)
	p := newProgram(t, "--network", "calico")
	p.cmd.Env = append(p.cmd.Env, calicoVar+"="+agent)
	require.Zero(t, p.run(t), p.stderr.String()+p.stdout.String())
	for _, want := range []string{
		"2 racks of 2 nodes", "node4", "direct", "vxlan", "4 of 4 BGP sessions of node1 are up",
		"pod4a", "✓ 32 of 32 pings answered", "via 169.254.1.1 dev eth0", "via 192.0.2.2 dev eth0", "dev podweft-vxlan onlink",
		"192.0.2.1 > 198.51.100.2:4789, VNI 4096", "router rack2 ✓", "The first call, from pod4a, is denied", "leaves nothing behind",
	} {
		assert.Contains(t, p.stdout.String(), want)
	}
	assert.NotContains(t, p.stdout.String(), "✗ nothing")
	assert.Equal(t, before, hostState(t))
	p.nothingLeft(t)
}
