package calico_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/testnet"
)

// process is podweft-calico in a node's namespace, where BGP can be spoken.
type process struct {
	w    *world
	node *testnet.Node
	args []string

	cmd *exec.Cmd
	log *lockedBuffer
}

// lockedBuffer is a buffer for a program's output.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// flags are those of a node's agent.
func (w *world) flags(n *testnet.Node, more ...string) []string {
	state := filepath.Join(w.dir, n.Name)
	return append([]string{
		"--node-name=" + n.Name, "--store-dir=" + w.dir, "--state-dir=" + state, "--cni-conf=" + filepath.Join(state, "net.d", "10-podweft.conflist"),
		"--ip=" + n.V4.String(), "--ipv4-pool-cidr=10.244.0.0/16", "--ipv6-pool-cidr=fd00:244::/64", "--iptables-forward-rules=false",
	}, more...)
}

// command is podweft-calico in a node.
func command(ctx context.Context, n *testnet.Node, args ...string) *exec.Cmd {
	cmd := n.Command(ctx, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), commandVar+"=1", "GORACE=exitcode=0 atexit_sleep_ms=0") // for a race of the BGP engine's own: see module bgp's tests
	return cmd
}

// beside runs a program until the test ends, and shows what it said if the test has failed.
func beside(t testing.TB, name string, cmd *exec.Cmd) {
	t.Helper()
	log := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		end(cmd)
		if t.Failed() {
			t.Logf("%s:\n%s", name, log)
		}
	})
}

// launch starts an agent and waits until pods can come. It is killed at the end of the test if it lives still.
func (w *world) launch(t testing.TB, n *testnet.Node, more ...string) *process {
	t.Helper()
	p := &process{w: w, node: n, args: w.flags(n, more...)}
	p.start(t)
	t.Cleanup(func() { p.kill(t) })
	p.wait(t, "readiness", func(s calico.Status) bool { return s.Ready })
	return p
}

func (p *process) start(t testing.TB) {
	t.Helper()
	p.log = &lockedBuffer{}
	p.cmd = command(context.Background(), p.node, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	require.NoError(t, p.cmd.Start())
}

// kill is kill -9; it returns when the process is gone.
func (p *process) kill(t testing.TB) {
	t.Helper()
	if p.cmd != nil {
		require.NoError(t, p.cmd.Process.Kill())
		_ = p.cmd.Wait() // which says that it was killed
		p.cmd = nil
		if said := p.log.String(); strings.Contains(said, "WARNING: DATA RACE") {
			fmt.Fprint(os.Stderr, said) // as it is, for CI to find
		}
	}
}

// status asks the agent by the command.
func (p *process) status() (s calico.Status, err error) {
	out, err := command(context.Background(), p.node, append(p.args, "status", "--json")...).Output()
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	return s, err
}

// wait asks until the answer will do.
func (p *process) wait(t testing.TB, what string, enough func(calico.Status) bool) calico.Status {
	t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		s, err := p.status()
		if err == nil && enough(s) {
			return s
		}
		if time.Now().After(until) {
			require.Fail(t, "waited in vain for "+what, "%s: %v %+v\n%s", p.node.Name, err, s, p.log)
		}
	}
}

// do runs a command of podweft-calico in the node and returns what it prints.
func (p *process) do(t testing.TB, words ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := command(t.Context(), p.node, append(p.args, words...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s: %s", words, &stderr)
	return string(out)
}
