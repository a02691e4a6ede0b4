package cniplugin_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/ipam/block/memory"
	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/testnet"
)

// warden is a Gate that lets nobody pass until it is told to.
type warden struct {
	mu   sync.Mutex
	open bool
	seen []local.Record
	left []local.Key
}

func (w *warden) Attach(_ context.Context, rec local.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, rec)
	if !w.open {
		return local.ErrTryAgain
	}
	return nil
}

func (w *warden) Detach(keys ...local.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left = append(w.left, keys...)
}

// TestGate: an ADD returns when the gate lets the pod go, and leaves nothing behind when it does not.
func TestGate(t *testing.T) {
	n := newNode(t)
	w := &warden{}
	agent, err := cniplugin.NewAgent(cniplugin.AgentConfig{
		StateDir: n.dir, NetNS: n.ns.NetNS(), BootID: n.boot, Allocator: n.blocks(t, memory.New(), "node-1"), Gate: w,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	conf := n.conf(map[string]any{"type": "ptp", "ipam": map[string]any{"type": "podweft-agent"}})
	pod := testnet.NewNode(t, "a")

	refused := n.call(t, "ptp", "ADD", conf, about(pod)...)
	assert.Equal(t, cniplugin.CodeTryAgain, refused.Code, refused)
	links, err := pod.Links()
	require.NoError(t, err)
	assert.Len(t, links, 1, "lo alone")

	w.mu.Lock()
	w.open = true
	w.mu.Unlock()
	added := n.add(t, pod, conf)
	w.mu.Lock()
	require.Len(t, w.seen, 2)
	assert.Equal(t, added.IPs[0].Address, w.seen[1].Addresses[0].String())
	before := len(w.left)
	w.mu.Unlock()
	require.Zero(t, n.call(t, "ptp", "DEL", conf, about(pod)...).code)
	w.mu.Lock()
	defer w.mu.Unlock()
	assert.Greater(t, len(w.left), before)
}
