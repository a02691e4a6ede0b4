package main

import (
	"bufio"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestShell(t *testing.T) {
	before := hostState(t)
	p := newProgram(t, "--keep", "--tenants", "2")
	p.cmd.Stdin = strings.NewReader(strings.Join([]string{
		"echo; echo '[table]'; lab",
		"echo '[ping]'; lab ping pod1a pod3b; echo status $?",
		"echo '[outside]'; lab ping node2 outside",
		"echo '[address]'; lab ping pod1a 203.0.113.1",
		"echo '[lost]'; lab ping pod1a 203.0.113.77 2>&1; echo status $?",
		"echo '[trace]'; lab trace pod1a pod2a 6; echo status $?",
		"echo '[near]'; lab trace pod1a pod1b; echo status $?",
		"echo '[exec]'; lab exec pod2b sh -c 'cat /proc/net/dev; exit 7'; echo status $?",
		"echo '[inner]'; lab exec node1 lab ping node1 pod1a; echo status $?",
		"echo '[names]'; grep pod2b /etc/hosts",
		"echo '[unknown]'; lab exec pod9z true 2>&1; echo status $?",
		"echo '[missing]'; lab exec pod1a no-such-program 2>&1; echo status $?",
		"echo '[itself]'; lab trace pod1a pod1a 2>&1; echo status $?",
		"echo '[tenant]'; lab ping blue1a blue2b; echo status $?",
		"echo '[tenants]'; lab trace red1a red2a 2>&1; echo status $?",
		"echo '[end]'; false",
	}, "\n"))
	require.Equal(t, exitGood, p.run(t), "%s%s", &p.stdout, &p.stderr)
	parts := sections(p.stdout.String())
	wants := map[string][]string{
		"table":   {"NODE", "node3", "pod3b", "TENANT", "blue3b"},
		"ping":    {"✓ 10.244.", "✓ fd00:244:", "status 0"},
		"outside": {"✓ 203.0.113.1 ", "✓ 2001:db8:ffff::1 "},
		"address": {"✓ 203.0.113.1 answered"},
		"lost":    {"✗ 203.0.113.77 no answer", "lab: ping 203.0.113.77 from pod1a", "status 1"},
		"trace":   {"dev flannel-v6.1", "dst 2001:db8::2 self permanent", "[2001:db8::2]:8472, VNI 1", "status 0"},
		"near":    {"no gateway is needed", "status 0"},
		"exec":    {"eth0:", "status 7"},
		"inner":   {"✓", "status 0"},
		"names":   {"10.244.", "fd00:244:"},
		"unknown": {`there is no node or pod "pod9z"`, "status 2"},
		"missing": {"executable file not found", "status 1"},
		"tenant":  {"✓ 10.100.2.3 answered", "✓ fd00:100:0:2::3 answered", "status 0"},
		"tenants": {"red1a is a tenant's", "status 2"},
		"itself":  {"goes nowhere", "status 2"},
	}
	for name, want := range wants {
		for _, w := range want {
			assert.Contains(t, parts[name], w, name)
		}
	}
	assert.NotContains(t, parts["exec"], "flannel")
	p.nothingLeft(t)
	assert.Equal(t, before, hostState(t), "the host is unchanged")
}

// sections are what stands below each line like "[name]".
func sections(text string) map[string]string {
	all := map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		if head, ok := strings.CutPrefix(strings.TrimSpace(line), "["); ok && strings.HasSuffix(head, "]") {
			name = strings.TrimSuffix(head, "]")
			continue
		}
		all[name] += line
	}
	return all
}

func TestBreakingIsRepaired(t *testing.T) {
	p := newProgram(t, "--keep")
	p.cmd.Stdin = strings.NewReader(strings.Join([]string{
		"lab exec node1 env " + roleVar + "=" + saboteur + " $PODWEFT_LAB_BIN/lab && echo broken",
		// Whatever is lost meanwhile, everything comes back: in a moment, if the machine has nothing else to do.
		"for i in $(seq 300); do lab ping pod1a pod3b >/dev/null 2>&1 && break; sleep 0.1; done",
		"echo '[back]'; lab ping pod1a pod3b; echo status $?",
	}, "\n"))
	require.Equal(t, exitGood, p.run(t), "%s%s", &p.stdout, &p.stderr)
	back := sections(p.stdout.String())["back"]
	assert.Contains(t, p.stdout.String(), "broken")
	assert.Contains(t, back, "✓ 10.244.")
	assert.Contains(t, back, "✓ fd00:244:")
	assert.Contains(t, back, "status 0")
}

func TestInterrupt(t *testing.T) {
	tests := []struct {
		name   string
		signal syscall.Signal
		args   []string
		after  string // a line that begins so
		shell  bool
	}{
		{name: "on tour", signal: syscall.SIGINT, args: []string{"--nodes", "20", "--pods", "5"}, after: "4. Pods"},
		{name: "in the shell", signal: syscall.SIGINT, args: []string{"--keep"}, after: "The cluster stays up", shell: true},
		{name: "terminated", signal: syscall.SIGTERM, args: []string{"--keep"}, after: "The cluster stays up", shell: true},
		{name: "hung up", signal: syscall.SIGHUP, args: []string{"--keep"}, after: "The cluster stays up", shell: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newProgram(t, tt.args...)
			p.cmd.Stdout = nil
			out, err := p.cmd.StdoutPipe()
			require.NoError(t, err)
			if tt.shell {
				in, err := p.cmd.StdinPipe() // nothing is typed
				require.NoError(t, err)
				defer in.Close()
			}
			require.NoError(t, p.cmd.Start())
			seen := false
			for lines := bufio.NewScanner(out); !seen && lines.Scan(); {
				seen = strings.HasPrefix(lines.Text(), tt.after)
			}
			if seen {
				require.NoError(t, p.cmd.Process.Signal(tt.signal))
			}
			began := time.Now()
			drained := make(chan struct{})
			go func() {
				defer close(drained)
				_, _ = bufio.NewReader(out).WriteTo(discard{})
			}()
			<-drained
			assert.Equal(t, exitInterrupted, p.wait(t), "%s", &p.stderr)
			assert.Less(t, time.Since(began), patience)
			assert.Contains(t, p.stderr.String(), "interrupted")
			p.nothingLeft(t)
		})
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
