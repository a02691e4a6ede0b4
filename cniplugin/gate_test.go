package cniplugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/gate"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/testnet"
)

// guarded is a node whose agent knows policies: web may be called by client, and by nobody else.
type guarded struct {
	*node
	gate    *gate.Gate[nftables.Spec]
	plugins string
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{node: newNode(t), plugins: plugins(t)}
	driver, err := nftables.New(nftables.Config{NetNS: g.ns.NetNS()})
	require.NoError(t, err)
	t.Cleanup(func() { driver.Close() })
	loop := podweft.NewLoop(driver, podweft.LoopConfig{})
	start(t, loop.Run)
	g.gate, err = gate.New(gate.Config[nftables.Spec]{Node: "node-1", Loop: loop, Spec: func(rules *policy.Ruleset) nftables.Spec {
		return nftables.Spec{Rules: rules, Closed: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}
	}})
	require.NoError(t, err)
	return g
}

// agent runs one with the gate until stop is called.
func (g *guarded) agent(t *testing.T) (stop func()) {
	t.Helper()
	return g.node.agent(t, cniplugin.AgentConfig{Gate: g.gate})
}

// knows has the cluster tell of pods, whose labels are their names and whose addresses it does not know yet.
func (g *guarded) knows(t *testing.T, names ...string) {
	t.Helper()
	put := policy.Model{
		Namespaces: []policy.Namespace{{Name: "default"}},
		Policies: []policy.Policy{{Namespace: "default", Name: "web", Pods: app("web"), Ingress: []policy.Rule{
			{Peers: []policy.Peer{{Pods: new(app("client"))}}},
		}}},
	}
	for _, name := range names {
		put.Pods = append(put.Pods, policy.Pod{Namespace: "default", Name: name, Node: "node-1", Labels: map[string]string{"app": name}})
	}
	require.NoError(t, g.gate.Update(put))
}

func app(name string) policy.Selector {
	return policy.Selector{MatchLabels: map[string]string{"app": name}}
}

// addProcess attaches the pod by a plugin's process, with this address.
func (g *guarded) addProcess(t *testing.T, pod *testnet.Node, address string, changes map[string]any) (r reply) {
	t.Helper()
	conf := map[string]any{"mode": "ptp", "runtimeConfig": map[string]any{"ips": []string{address}}}
	for key, value := range changes {
		conf[key] = value
	}
	stdin, err := json.Marshal(g.conf(conf))
	if !assert.NoError(t, err) {
		return reply{code: -1}
	}
	cmd := g.ns.Command(t.Context(), filepath.Join(g.plugins, "podweft-cni"))
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append(append(os.Environ(), about(pod)...), bootOfTest+"="+g.boot, "CNI_COMMAND=ADD",
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME="+pod.Name)
	out, err := cmd.Output()
	r.raw = string(out)
	if cmd.ProcessState == nil {
		assert.NoError(t, err)
		return reply{code: -1}
	}
	r.code = cmd.ProcessState.ExitCode()
	assert.NoError(t, json.Unmarshal(out, &r), "%s", out)
	return r
}

// calls pings an address from a pod all the time, and counts the answers.
func calls(t *testing.T, from *testnet.Node, to string) *atomic.Int64 {
	t.Helper()
	var answers atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	var calling sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		calling.Wait()
	})
	calling.Go(func() {
		for ctx.Err() == nil {
			soon, done := context.WithTimeout(ctx, 50*time.Millisecond)
			if _, err := from.Ping(soon, netip.MustParseAddr(to)); err == nil {
				answers.Add(1)
			} else {
				<-soon.Done() // an error may come at once
			}
			done()
		}
	})
	return &answers
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), what)
	}
}

// TestGate: the ADD of a pod that policies select returns when they are in force. Until then nobody reaches it, whoever may later; and
// whoever may not never does.
func TestGate(t *testing.T) {
	g := newGuarded(t)
	g.forward(t)
	stop := g.agent(t)
	g.knows(t, "client", "intruder")
	client, intruder, web, late := testnet.NewNode(t, "client"), testnet.NewNode(t, "intruder"), testnet.NewNode(t, "web"), testnet.NewNode(t, "late")
	for pod, address := range map[*testnet.Node]string{client: "10.244.1.11", intruder: "10.244.1.12"} {
		r := g.addProcess(t, pod, address, nil)
		require.Zero(t, r.code, r)
	}
	friend, foe := calls(t, client, "10.244.1.77"), calls(t, intruder, "10.244.1.77")

	added := make(chan reply, 1)
	go func() { added <- g.addProcess(t, web, "10.244.1.77", nil) }()
	eventually(t, "the pod has its link", func() bool { return len(g.linkNames(t)) == 4 })
	select {
	case r := <-added:
		require.Fail(t, "the ADD has returned", "%s", r)
	case <-time.After(300 * time.Millisecond): // nothing is decided by how long this is
	}
	assert.Zero(t, friend.Load(), "nobody knows its policies yet")
	g.knows(t, "web")
	r := <-added
	require.Zero(t, r.code, r)
	eventually(t, "client reaches web", func() bool { return friend.Load() > 10 })
	assert.Zero(t, foe.Load())

	// Without an agent: what the configuration says, and closed.
	stop()
	r = g.addProcess(t, late, "10.244.1.78", map[string]any{"requireAgent": true})
	assert.EqualValues(t, cniplugin.CodeTryAgain, r.Code, r)
	assert.Len(t, g.linkNames(t), 4, "nothing is left of it")
	toLate := calls(t, client, "10.244.1.78")
	r = g.addProcess(t, late, "10.244.1.78", nil)
	require.Zero(t, r.code, r)
	before := friend.Load()
	eventually(t, "web is as it was", func() bool { return friend.Load() > before+10 })
	assert.Zero(t, toLate.Load(), "nobody has let it in")
	g.agent(t)
	g.knows(t, "late")
	eventually(t, "the agent has found it", func() bool { return toLate.Load() > 0 })
	assert.Zero(t, foe.Load())
}
