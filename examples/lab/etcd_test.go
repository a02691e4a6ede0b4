package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestProcesses: agents that are processes are killed by hand, which no pod notices, and started again.
func TestProcesses(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("the lab builds its agents: ", err)
	}
	before := hostState(t)
	p := newProgram(t, "--store", "etcd", "--keep", "--pods", "1")
	p.cmd.Stdin = strings.NewReader(strings.Join([]string{
		"echo; echo '[agents]'; lab agents",
		"kill -9 $(lab agents | sed -n 's/^node1  *\\([0-9]*\\) .*/\\1/p')",
		"until lab agents | grep 'node1.*does not run' >/dev/null; do sleep 0.1; done",
		"echo '[killed]'; lab ping pod1a pod3a; echo status $?",
		"echo '[start]'; lab start node1; echo status $?",
		"echo '[again]'; lab ping pod1a pod3a; lab agents",
		"echo '[twice]'; lab start node1 2>&1; echo status $?",
		"echo '[unknown]'; lab start node9 2>&1; echo status $?",
		"kill -INT $PPID; sleep 60", // Ctrl-C
	}, "\n"))
	require.Equal(t, exitInterrupted, p.run(t), "%s%s", &p.stdout, &p.stderr)
	parts := sections(p.stdout.String())
	for name, want := range map[string][]string{
		"":        {"each agent a process of its own", "`podweft-flannel plan`", "+ link flannel.1", "put it back", "✓ 18 of 18 pings answered"},
		"agents":  {"node1 ", "node3 ", "ready, 2 peers"},
		"killed":  {"✓ 10.244.", "✓ fd00:244:", "status 0"},
		"start":   {"✓ ready: process ", "status 0"},
		"again":   {"✓ 10.244.", "✓ fd00:244:", "node1 "},
		"twice":   {"runs already", "status 1"},
		"unknown": {`there is no node or pod "node9"`, "status 2"},
	} {
		for _, w := range want {
			assert.Contains(t, parts[name], w, name)
		}
	}
	assert.NotContains(t, parts["again"], "does not run")
	assert.Contains(t, p.stderr.String(), "interrupted")
	p.nothingLeft(t)
	assert.Equal(t, before, hostState(t), "the host is unchanged")
}
