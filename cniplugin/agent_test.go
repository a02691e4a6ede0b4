package cniplugin_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/testnet"
)

const patience = 30 * time.Second

// agent runs one for the node, of the configuration that beside its node and state is given, until stop is called or the test ends.
func (n *node) agent(t testing.TB, with ...cniplugin.AgentConfig) (stop func()) {
	t.Helper()
	var cfg cniplugin.AgentConfig
	if len(with) > 0 {
		cfg = with[0]
	}
	cfg.StateDir, cfg.NetNS, cfg.BootID = n.dir, n.ns.NetNS(), n.boot
	a, err := cniplugin.NewAgent(cfg)
	require.NoError(t, err)
	return start(t, a.Run)
}

// start runs something until stop is called or the test ends.
func start(t testing.TB, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

// links waits until the node has these links.
func (n *node) links(t testing.TB, want ...string) {
	t.Helper()
	var have []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if have = n.linkNames(t); assert.ObjectsAreEqual(want, have) {
			return
		}
	}
	assert.Equal(t, want, have)
}

// hostPorts is how many ports of the node lead to pods of the network.
func (n *node) hostPorts(t testing.TB) int {
	t.Helper()
	c, err := nft.Open(n.ns.NetNS())
	require.NoError(t, err)
	defer c.Close()
	port := nft.Concat(nft.InetProto, nft.InetService)
	all, err := c.Elements(t.Context(), nft.Set{
		Table: nft.Table{Family: nft.INet, Name: "podweft-pods-hostports"}, Name: "ports4", Key: port, Data: nft.Concat(nft.IPv4Addr, nft.InetService),
	})
	require.NoError(t, err)
	return len(all)
}

func withPort(host int) map[string]any {
	return map[string]any{"runtimeConfig": map[string]any{"portMappings": []any{
		map[string]any{"hostPort": host, "containerPort": 80, "protocol": "tcp"},
	}}}
}

func TestAgentDetaches(t *testing.T) {
	n := newNode(t)
	n.agent(t)
	for round := range 3 {
		pod := testnet.NewNode(t, fmt.Sprintf("pod-%d", round))
		other := testnet.NewNode(t, fmt.Sprintf("other-%d", round))
		n.add(t, pod, n.conf(withPort(8080)))
		n.add(t, other, n.conf(withPort(8081)))
		assert.Equal(t, 2, n.hostPorts(t))
		r := n.call(t, "podweft-cni", "DEL", n.conf(nil), about(pod)...)
		require.Zero(t, r.code, r)
		assert.Equal(t, 1, n.hostPorts(t), "whoever wants the port next finds it closed")
		r = n.call(t, "podweft-cni", "DEL", n.conf(nil), about(pod)...)
		require.Zero(t, r.code, r)
		n.add(t, pod, n.conf(withPort(8080))) // at once, whether its links are gone by now or not
		for _, p := range []*testnet.Node{pod, other} {
			r = n.call(t, "podweft-cni", "DEL", n.conf(nil), about(p)...)
			require.Zero(t, r.code, r)
		}
	}
	n.links(t, "lo", "cni0")
	assert.Zero(t, n.hostPorts(t))
}

func TestAgentPutsHostPortsBack(t *testing.T) {
	n := newNode(t)
	n.add(t, testnet.NewNode(t, "before"), n.conf(withPort(8080)))
	n.agent(t)
	n.add(t, testnet.NewNode(t, "after"), n.conf(withPort(8081)))
	c, err := nft.Open(n.ns.NetNS())
	require.NoError(t, err)
	defer c.Close()
	table := nft.Table{Family: nft.INet, Name: "podweft-pods-hostports"}
	ports, err := nat.NewPorts(nat.Config{Owner: "pods", NetNS: n.ns.NetNS()})
	require.NoError(t, err)
	defer ports.Close()
	for range 3 {
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			rules, err := c.Rules(t.Context(), table)
			if err == nil && len(rules) > 0 && n.hostPorts(t) == 2 {
				break
			}
			require.True(t, time.Now().Before(end), "%v, %d rules", err, len(rules))
		}
		var b nft.Batch
		b.DeleteTable(table)
		require.NoError(t, c.Commit(t.Context(), &b))
	}
}

// TestEveryDetachWaits: the call after a plugin that was killed finds no record any more, and yet the host port is closed when it
// returns.
func TestEveryDetachWaits(t *testing.T) {
	n := newNode(t)
	n.agent(t)
	pod := testnet.NewNode(t, "pod")
	key := local.Key{Network: "pods", Container: pod.Name, Interface: "eth0"}
	for range 20 {
		n.add(t, pod, n.conf(withPort(8080)))
		closed := make(chan bool, 4)
		for range cap(closed) {
			go func() {
				ok := false
				defer func() { closed <- ok }()
				err := local.NewClient(n.dir+"/agent.sock").Detach(t.Context(), key)
				ok = assert.NoError(t, err) && assert.Zero(t, n.hostPorts(t))
			}()
		}
		for range cap(closed) {
			require.True(t, <-closed)
		}
		r := n.call(t, "podweft-cni", "DEL", n.conf(nil), about(pod)...)
		require.Zero(t, r.code, r)
	}
}

// TestAgentThatWasKilled: its socket is there and nobody listens. The plugin does all by itself.
func TestAgentThatWasKilled(t *testing.T) {
	n := newNode(t)
	pod := testnet.NewNode(t, "pod")
	n.add(t, pod, n.conf(withPort(8080)))
	deadSocket(t, n.dir+"/agent.sock")
	r := n.call(t, "podweft-cni", "DEL", n.conf(nil), about(pod)...)
	require.Zero(t, r.code, r)
	assert.Equal(t, []string{"lo", "cni0"}, n.linkNames(t))
	assert.Zero(t, n.hostPorts(t))
}

// halfway is an agent that fails when it has removed the record of a pod's host ports.
type halfway struct {
	local.Handler
	ports *local.Records
}

// Detach implements local.Handler.
func (h halfway) Detach(_ context.Context, keys []local.Key) error {
	for _, k := range keys {
		if err := h.ports.Remove(k); err != nil {
			return err
		}
	}
	return assert.AnError
}

// TestAgentThatFailsHalfway: the plugin closes the host ports itself, though their record is gone.
func TestAgentThatFailsHalfway(t *testing.T) {
	n := newNode(t)
	pod := testnet.NewNode(t, "pod")
	n.add(t, pod, n.conf(withPort(8080)))
	require.Equal(t, 1, n.hostPorts(t))
	ports, err := local.Open(n.dir+"/hostports", n.boot)
	require.NoError(t, err)
	server, err := local.Listen(local.ServerConfig{Path: n.dir + "/agent.sock", Handler: halfway{ports: ports}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	r := n.call(t, "podweft-cni", "DEL", n.conf(nil), about(pod)...)
	assert.Zero(t, r.code, r)
	assert.Zero(t, n.hostPorts(t))
	n.links(t, "lo", "cni0")
	cancel()
	require.NoError(t, <-done)
}

// TestAgentFindsWhatIsLeft: one that starts sweeps what was retired while none ran, and leaves pods that live alone.
func TestAgentFindsWhatIsLeft(t *testing.T) {
	n := newNode(t)
	pod, other := testnet.NewNode(t, "pod"), testnet.NewNode(t, "other")
	n.add(t, pod, n.conf(nil))
	n.add(t, other, n.conf(withPort(8080)))
	pods, err := bridge.New(bridge.Config{Owner: "pods", NetNS: n.ns.NetNS()})
	require.NoError(t, err)
	defer pods.Close()
	require.NoError(t, pods.Retire(t.Context(), bridge.Port{Container: pod.Name}))
	require.Len(t, n.linkNames(t), 4)
	stop := n.agent(t)
	for end := time.Now().Add(patience); len(n.linkNames(t)) != 3; time.Sleep(5 * time.Millisecond) {
		require.True(t, time.Now().Before(end), n.linkNames(t))
	}
	stop()
	assert.Len(t, n.linkNames(t), 3)
	assert.Equal(t, 1, n.hostPorts(t))
}

// TestAgentHangsUp: it is ended in the middle of an ADD, which asks whoever comes next the same, or goes on as if there had been
// nobody to ask.
func TestAgentHangsUp(t *testing.T) {
	for _, tt := range []struct {
		name          string
		before, after bool // the next agent comes: before the first is gone, or after
		changes       map[string]any
	}{
		{name: "the next is there", before: true},
		{name: "nobody follows"},
		{name: "the next is waited for", after: true, changes: map[string]any{"requireAgent": true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			n.wait = time.Hour
			pod := testnet.NewNode(t, "pod")
			begun := make(chan struct{})
			begin := sync.OnceFunc(func() { close(begun) }) // it may be asked again while it ends
			server, err := local.Listen(local.ServerConfig{Path: n.dir + "/agent.sock", Handler: doorman{attach: func(ctx context.Context) error {
				begin()
				<-ctx.Done()
				return ctx.Err()
			}}})
			require.NoError(t, err)
			stop := start(t, server.Run)
			came := make(chan reply)
			go func() { came <- n.call(t, "podweft-cni", "ADD", n.conf(tt.changes), about(pod)...) }()
			<-begun
			var asked atomic.Int32
			follow := func() {
				next, err := local.Listen(local.ServerConfig{Path: n.dir + "/agent.sock", Handler: doorman{attach: func(context.Context) error {
					asked.Add(1)
					return nil
				}}})
				require.NoError(t, err)
				start(t, next.Run)
			}
			if tt.before {
				follow()
			}
			stop()
			if tt.after {
				follow()
			}
			r := <-came
			require.Zero(t, r.code, r)
			assert.Equal(t, tt.before || tt.after, asked.Load() == 1)
		})
	}
}

// TestAgentAdmitsAll: an agent that has nothing to wait for is not asked by an ADD, unless that is to fail without an agent.
func TestAgentAdmitsAll(t *testing.T) {
	n := newNode(t)
	var asked atomic.Int32
	server, err := local.Listen(local.ServerConfig{Path: n.dir + "/agent.sock", AdmitsAll: true, Handler: doorman{attach: func(context.Context) error {
		asked.Add(1)
		return nil
	}}})
	require.NoError(t, err)
	start(t, server.Run)
	for i, tt := range []struct {
		changes map[string]any
		asks    int32
	}{
		{nil, 0},
		{map[string]any{"requireAgent": true}, 1},
	} {
		asked.Store(0)
		n.add(t, testnet.NewNode(t, fmt.Sprintf("pod-%d", i)), n.conf(tt.changes))
		assert.Equal(t, tt.asks, asked.Load())
	}
}

// TestAgentSaysThatItAdmitsAll: one without a gate does. With one, TestGate would fail.
func TestAgentSaysThatItAdmitsAll(t *testing.T) {
	n := newNode(t)
	n.agent(t)
	assert.True(t, local.NewClient(n.dir+"/agent.sock").AdmitsAll())
}

// doorman is an agent that is asked to let pods in.
type doorman struct {
	local.Handler
	attach func(context.Context) error
}

// Attach implements local.Handler.
func (d doorman) Attach(ctx context.Context, _ local.Record) error { return d.attach(ctx) }

// TestAttachWhileTheAgentRestarts makes a hundred calls at once while agents come and go, of which none notices any.
func TestAttachWhileTheAgentRestarts(t *testing.T) {
	const many = 100
	n := newNode(t)
	var pods []*testnet.Node
	for i := range many {
		pods = append(pods, testnet.NewNode(t, fmt.Sprintf("pod-%d", i)))
	}
	over := make(chan struct{})
	var agents sync.WaitGroup
	agents.Go(func() {
		for {
			stop := n.agent(t)
			select {
			case <-over:
				stop()
				return
			case <-time.After(100 * time.Millisecond):
				stop()
			}
		}
	})
	all := func(command string, conf func(i int) map[string]any) []reply {
		replies := make([]reply, many)
		var wg sync.WaitGroup
		for i, pod := range pods {
			wg.Go(func() { replies[i] = n.call(t, "podweft-cni", command, conf(i), about(pod)...) })
		}
		wg.Wait()
		return replies
	}
	addresses := map[string]bool{}
	for i, r := range all("ADD", func(i int) map[string]any { return n.conf(withPort(8000 + i)) }) {
		require.Zero(t, r.code, "pod %d: %s", i, r)
		assert.False(t, addresses[r.IPs[0].Address], "%s twice", r.IPs[0].Address)
		addresses[r.IPs[0].Address] = true
	}
	assert.Equal(t, many, n.hostPorts(t))
	for i, r := range all("DEL", func(int) map[string]any { return n.conf(nil) }) {
		require.Zero(t, r.code, "pod %d: %s", i, r)
	}
	close(over)
	agents.Wait()
	n.agent(t) // sees to what those were ended in the middle of
	n.links(t, "lo", "cni0")
	for end := time.Now().Add(patience); n.hostPorts(t) > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	assert.Zero(t, n.hostPorts(t))
}
