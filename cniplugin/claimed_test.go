package cniplugin_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/memory"
	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/ptp"
	"github.com/podweft/podweft/testnet"
)

// blocks give the node's pods addresses of a small pool of each family, as a node of a routed network has them.
func (n *node) blocks(t testing.TB, store block.Store, name string) *block.Allocator {
	t.Helper()
	cfg := block.AllocatorConfig{
		IPAM: ipam.Config{Path: filepath.Join(n.dir, "claimed")}, Gateways: []netip.Addr{ptp.Gateway4, ptp.Gateway6},
	}
	for _, p := range []block.Pool{
		{Prefix: netip.MustParsePrefix("10.250.0.0/30"), BlockBits: 31},
		{Prefix: netip.MustParsePrefix("fd00:250::/120"), BlockBits: 122},
	} {
		c, err := block.New(block.Config{Store: store, Node: name, Pools: []block.Pool{p}})
		require.NoError(t, err)
		cfg.Claimers = append(cfg.Claimers, c)
	}
	a, err := block.NewAllocator(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	return a
}

// agentWith runs an agent that gives addresses, until stop is called or the test ends.
func (n *node) agentWith(t testing.TB, from cniplugin.Allocator, every time.Duration) (stop func()) {
	t.Helper()
	return n.agent(t, cniplugin.AgentConfig{Allocator: from, CollectEvery: every})
}

// TestAgentGivesAddresses: of blocks that the node has claimed.
func TestAgentGivesAddresses(t *testing.T) {
	n := newNode(t)
	n.forward(t)
	conf := n.conf(map[string]any{"type": "ptp", "mtu": 1400, "ipam": map[string]any{"type": "podweft-agent"}})
	a, b, c := testnet.NewNode(t, "a"), testnet.NewNode(t, "b"), testnet.NewNode(t, "c")

	alone := n.call(t, "ptp", "ADD", conf, about(a)...)
	assert.Equal(t, cniplugin.CodeTryAgain, alone.Code, alone)
	assert.Contains(t, alone.Msg, "and none is listening at "+n.dir+"/agent.sock: is it running?")
	assert.Equal(t, cniplugin.CodeNotReady, n.call(t, "ptp", "STATUS", conf).Code)
	links, err := a.Links()
	require.NoError(t, err)
	assert.Len(t, links, 1, "lo alone")

	from := n.blocks(t, memory.New(), "node-1")
	stop := n.agentWith(t, from, 0)
	require.Zero(t, n.call(t, "ptp", "STATUS", conf).code)
	first := n.add(t, a, conf)
	require.Len(t, first.IPs, 2)
	assert.Equal(t, []string{"169.254.1.1", "fe80::1"}, []string{first.IPs[0].Gateway, first.IPs[1].Gateway})
	pool := netip.MustParsePrefix("10.250.0.0/30")
	assert.True(t, pool.Contains(netip.MustParsePrefix(first.IPs[0].Address).Addr()), first.IPs[0].Address)
	second := n.add(t, b, conf)
	for _, ip := range second.IPs {
		_, err := a.Ping(t.Context(), netip.MustParsePrefix(ip.Address).Addr())
		require.NoError(t, err, ip.Address)
	}
	wanting := n.call(t, "ptp", "ADD", conf, about(c, "CNI_ARGS=IgnoreUnknown=1;IP=10.9.9.9")...)
	assert.NotZero(t, wanting.code, wanting)

	stop() // addresses are held meanwhile
	n.agentWith(t, from, 0)
	checked := n.conf(map[string]any{"type": "ptp", "mtu": 1400, "ipam": conf["ipam"]})
	checked["prevResult"] = result(first)
	require.Zero(t, n.call(t, "ptp", "CHECK", checked, about(a)...).code)
	n.add(t, c, conf)
	d := testnet.NewNode(t, "d")
	n.add(t, d, conf)
	full := n.call(t, "ptp", "ADD", conf, about(testnet.NewNode(t, "e"))...)
	assert.Equal(t, cniplugin.CodeExhausted, full.Code, full)
	require.Zero(t, n.call(t, "ptp", "DEL", conf, about(a)...).code)
	heir := n.add(t, testnet.NewNode(t, "heir"), conf)
	assert.Equal(t, first.IPs[0].Address, heir.IPs[0].Address, "the only one that is free")
}

// TestAgentComes: the pods of a node that is starting are started at once with its agent.
func TestAgentComes(t *testing.T) {
	for _, tt := range []struct {
		name string
		conf map[string]any
	}{
		{"addresses", map[string]any{"type": "ptp", "ipam": map[string]any{"type": "podweft-agent"}}},
		{"requireAgent", map[string]any{"type": "ptp", "requireAgent": true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			pod := testnet.NewNode(t, "pod")
			n.wait = time.Hour
			assert.Zero(t, n.call(t, "ptp", "DEL", n.conf(tt.conf), about(pod)...).code, "nothing is waited for")
			came := make(chan reply)
			go func() { came <- n.call(t, "ptp", "ADD", n.conf(tt.conf), about(pod)...) }()
			select {
			case r := <-came:
				t.Errorf("nothing was waited for: %s", r)
				return
			case <-time.After(50 * time.Millisecond):
			}
			n.agentWith(t, n.blocks(t, memory.New(), "node-1"), 0)
			r := <-came
			require.Zero(t, r.code, r)
		})
	}
}

// TestAgentCollectsAddresses: of a plugin that was killed after its claim, and of a pod that went while no agent ran.
func TestAgentCollectsAddresses(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"type": "ptp", "ipam": map[string]any{"type": "podweft-agent"}})
	from := n.blocks(t, memory.New(), "node-1")
	stop := n.agentWith(t, from, 0)
	a, b := testnet.NewNode(t, "a"), testnet.NewNode(t, "b")
	n.add(t, a, conf)
	kept := n.add(t, b, conf)
	_, err := local.NewClient(n.dir+"/agent.sock").Claim(t.Context(), local.Claim{
		Key: local.Key{Network: "pods", Container: "killed", Interface: "eth0"},
	})
	require.NoError(t, err)
	stop()
	require.Zero(t, n.call(t, "ptp", "DEL", conf, about(a)...).code, "an agent that is away holds nobody up")

	n.agentWith(t, from, 5*time.Millisecond)
	holders := func() (all []string) {
		_, err := from.Collect(t.Context(), func(_ context.Context, held []ipam.Allocation) ([]ipam.Owner, error) {
			for _, h := range held {
				all = append(all, h.Owner.Container)
			}
			return nil, nil
		})
		require.NoError(t, err)
		return all
	}
	var have []string
	for end := time.Now().Add(patience); time.Now().Before(end) && len(have) != 1; time.Sleep(5 * time.Millisecond) {
		have = holders()
	}
	assert.Equal(t, []string{"b"}, have)
	checked := n.conf(map[string]any{"type": "ptp", "ipam": conf["ipam"], "prevResult": result(kept)})
	require.Zero(t, n.call(t, "ptp", "CHECK", checked, about(b)...).code)
}

// TestDELByTheAllocatorOfItsADD: whoever gave the addresses takes them back, whomever the configuration names by then, and also where
// an ADD was killed before it had recorded anything.
func TestDELByTheAllocatorOfItsADD(t *testing.T) {
	n := newNode(t)
	const wanted = "CNI_ARGS=IP=10.244.1.9"
	own := n.conf(map[string]any{"mode": "ptp"})
	claimed := n.conf(map[string]any{"mode": "ptp", "ipam": map[string]any{"type": "podweft-agent"}})
	call := func(command, container string, conf any, more ...string) {
		t.Helper()
		r := n.call(t, "podweft-cni", command, conf, about(testnet.NewNode(t, container), more...)...)
		require.Zero(t, r.code, r)
	}
	forget := func() { // as one that was killed
		require.NoError(t, os.RemoveAll(filepath.Join(n.dir, "attachments")))
	}
	from := n.blocks(t, memory.New(), "node-1")
	holders := func() (all []string) {
		_, err := from.Collect(t.Context(), func(_ context.Context, held []ipam.Allocation) ([]ipam.Owner, error) {
			for _, h := range held {
				all = append(all, h.Owner.Container)
			}
			return nil, nil
		})
		require.NoError(t, err)
		return all
	}
	run := func(name string) {
		t.Run(name, func(t *testing.T) {
			call("ADD", "own", own, wanted)
			call("DEL", "own", claimed)
			call("ADD", "killed", own, wanted)
			forget()
			call("DEL", "killed", claimed)
			call("ADD", "dead", own, wanted)
			require.Zero(t, n.call(t, "podweft-cni", "GC", claimed).code)
			call("ADD", "lost", own, wanted)
			forget()
			require.Zero(t, n.call(t, "podweft-cni", "GC", claimed).code)
			call("ADD", "heir", own, wanted)
			call("DEL", "heir", own)
		})
	}
	run("alone")
	n.agentWith(t, from, time.Hour)
	run("with an agent")
	call("ADD", "claimed", claimed)
	require.Equal(t, []string{"claimed"}, holders())
	call("DEL", "claimed", own)
	assert.Empty(t, holders())
	call("ADD", "claimed", claimed)
	require.Zero(t, n.call(t, "podweft-cni", "GC", own).code)
	assert.Empty(t, holders())
}

// TestAgentHearsOfManyHostPorts: an agent is asked about a pod of any number of them, and listens to a megabyte at most.
func TestAgentHearsOfManyHostPorts(t *testing.T) {
	n := newNode(t)
	n.agentWith(t, n.blocks(t, memory.New(), "node-1"), time.Hour)
	var ports []any
	for i := range 12_000 {
		ports = append(ports, map[string]any{"hostPort": 20_000 + i, "containerPort": 20_000 + i, "protocol": "tcp"})
	}
	pod := testnet.NewNode(t, "pod")
	conf := n.conf(map[string]any{"mode": "ptp", "requireAgent": true, "ipam": map[string]any{"type": "podweft-agent"}})
	conf["runtimeConfig"] = map[string]any{"portMappings": ports}
	n.add(t, pod, conf)
	assert.Equal(t, len(ports), n.hostPorts(t))
	r := n.call(t, "podweft-cni", "DEL", conf, about(pod)...)
	require.Zero(t, r.code, r)
	assert.Zero(t, n.hostPorts(t))
}
