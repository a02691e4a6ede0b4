package cniplugin_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/testnet"
)

// agentProgram is the name by which the test binary is an agent, of the node that it is started on and the state in its argument.
const agentProgram = "podweft-agent"

// openGate has the agent asked by each ADD.
type openGate struct{}

// Attach implements cniplugin.Gate.
func (openGate) Attach(context.Context, local.Record) error { return nil }

// Detach implements cniplugin.Gate.
func (openGate) Detach(...local.Key) {}

// Restore implements cniplugin.Gate.
func (openGate) Restore(...local.Record) {}

func runAgent(stateDir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	a, err := cniplugin.NewAgent(cniplugin.AgentConfig{StateDir: stateDir, Gate: openGate{}})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// agentProcess starts an agent that can be killed.
func (n *node) agentProcess(t *testing.T, program string) (cmd *exec.Cmd, said *bytes.Buffer, started bool) {
	t.Helper()
	said = &bytes.Buffer{}
	cmd = n.ns.Command(context.WithoutCancel(t.Context()), program, n.dir)
	cmd.Stdout, cmd.Stderr = said, said
	return cmd, said, assert.NoError(t, cmd.Start())
}

// listened waits until an agent listens, or nobody wants to know any more.
func (n *node) listened(over <-chan struct{}) {
	for {
		c, err := net.Dial("unix", n.dir+"/agent.sock")
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-over:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// killing has agents come to the node and be killed at any moment, until stop is called, which says how many were.
func (n *node) killing(t *testing.T) (stop func() (killed int)) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), agentProgram)
	require.NoError(t, os.Symlink(self, program))
	over := make(chan struct{})
	killed := make(chan int, 1)
	go func() {
		count := 0
		defer func() { killed <- count }()
		for {
			cmd, said, started := n.agentProcess(t, program)
			if !started {
				return
			}
			if rand.IntN(4) > 0 { // the others are killed while they start
				n.listened(over)
			}
			select {
			case <-over:
			case <-time.After(rand.N(150 * time.Millisecond * time.Duration(1+count/8))): // at last long enough for any machine
			}
			_ = cmd.Process.Kill()
			var ended *exec.ExitError
			if assert.ErrorAs(t, cmd.Wait(), &ended) {
				assert.Equal(t, syscall.SIGKILL, ended.Sys().(syscall.WaitStatus).Signal(), "it has ended by itself: %s", said)
			}
			count++
			select {
			case <-over:
				return
			case <-time.After(rand.N(20 * time.Millisecond)): // and some to be started again
			}
		}
	}()
	stop = sync.OnceValue(func() int {
		close(over)
		return <-killed
	})
	t.Cleanup(func() { stop() })
	return stop
}

// TestAttachWhileTheAgentIsKilled makes a hundred calls at once while agents, processes of their own, are killed at any moment. An ADD
// either succeeds or leaves nothing and succeeds when a runtime tries again; a DEL succeeds. Where pods start without an agent no ADD fails.
func TestAttachWhileTheAgentIsKilled(t *testing.T) {
	const many, withPorts = 100, 20 // forgetting what went through a host port is most of a DEL
	n := newNode(t)
	var pods []*testnet.Node
	for i := range many {
		pods = append(pods, testnet.NewNode(t, fmt.Sprintf("pod-%d", i)))
	}
	records, err := local.Open(n.dir+"/attachments", n.boot)
	require.NoError(t, err)
	holders := func() (all []string) {
		pool, err := ipam.Open(ipam.Config{Path: filepath.Join(n.dir, "ipam", "pods"), BootID: n.boot})
		if !assert.NoError(t, err) {
			return nil
		}
		defer pool.Close()
		held, err := pool.All(t.Context())
		assert.NoError(t, err)
		for _, h := range held {
			all = append(all, h.Owner.Container)
		}
		return all
	}
	var refused atomic.Int32
	attach := func(pod *testnet.Node, conf map[string]any) (r reply) {
		for end := time.Now().Add(4 * patience); ; {
			if r = n.call(t, "podweft-cni", "ADD", conf, about(pod)...); r.code == 0 || !assert.True(t, time.Now().Before(end), r) {
				return r
			}
			refused.Add(1)
			assert.Equal(t, cniplugin.CodeTryAgain, r.Code, r)
			_, err := records.Get(local.Key{Network: "pods", Container: pod.Name, Interface: "eth0"})
			assert.ErrorIs(t, err, local.ErrNoRecord)
			assert.NotContains(t, holders(), pod.Name)
			links, err := pod.Links()
			assert.NoError(t, err)
			assert.Len(t, links, 1, "lo and nothing else")
			if again := n.call(t, "podweft-cni", "DEL", conf, about(pod)...); !assert.Zero(t, again.code, again) {
				return r
			}
			time.Sleep(rand.N(50 * time.Millisecond)) // runtimes wait longer
		}
	}
	all := func(do func(i int, pod *testnet.Node) reply) []reply {
		replies := make([]reply, many)
		var wg sync.WaitGroup
		for i, pod := range pods {
			wg.Go(func() { replies[i] = do(i, pod) })
		}
		wg.Wait()
		for i, r := range replies {
			require.Zero(t, r.code, "pod %d: %s", i, r)
		}
		return replies
	}
	stop := n.killing(t)
	for _, required := range []bool{false, true} {
		addresses := map[string]bool{}
		for _, r := range all(func(i int, pod *testnet.Node) reply {
			conf := n.conf(map[string]any{"requireAgent": required})
			if i < withPorts {
				maps.Copy(conf, withPort(8000+i))
			}
			return attach(pod, conf)
		}) {
			assert.False(t, addresses[r.IPs[0].Address], "%s twice", r.IPs[0].Address)
			addresses[r.IPs[0].Address] = true
		}
		assert.Equal(t, withPorts, n.hostPorts(t))
		if !required {
			assert.Zero(t, refused.Load())
		}
		all(func(_ int, pod *testnet.Node) reply {
			return n.call(t, "podweft-cni", "DEL", n.conf(nil), about(pod)...)
		})
	}
	t.Logf("%d agents were killed, %d calls refused", stop(), refused.Load())

	n.agent(t) // sees to what those were killed in the middle of
	n.links(t, "lo", "cni0")
	for end := time.Now().Add(patience); n.hostPorts(t) > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	assert.Zero(t, n.hostPorts(t))
	assert.Empty(t, holders())
	for _, dir := range []string{"attachments", "hostports"} {
		left, err := os.ReadDir(filepath.Join(n.dir, dir))
		require.NoError(t, err)
		assert.Empty(t, slices.DeleteFunc(left, func(e os.DirEntry) bool { return e.Name()[0] == '.' }), dir)
	}
}
