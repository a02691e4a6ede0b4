package calico_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/file"
	"github.com/podweft/podweft/roster"
	rosterfile "github.com/podweft/podweft/roster/file"
	"github.com/podweft/podweft/testnet"
)

// TestDeadNode: the node that collects dies for good. Another one collects what it had, and it is nobody's peer any more. When it comes
// back after all it is a node as any other.
func TestDeadNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	var agents []*process
	for _, n := range w.Nodes()[:3] {
		agents = append(agents, w.launch(t, n, "--grace=10s", "--ipv4-pool-vxlan=CrossSubnet", "--ipv6-pool-vxlan=CrossSubnet"))
	}
	whole := func(s calico.Status) bool { return len(s.Routes) == 4 && s.BGP.Established == 2 }
	for _, a := range agents {
		a.wait(t, "the others' blocks", whole)
	}
	agents[0].kill(t)
	alone := func(s calico.Status) bool {
		return len(s.BGP.Peers) == 1 && s.BGP.Established == 1 && len(s.Routes) == 2
	}
	for until := time.Now().Add(2 * patience); ; time.Sleep(time.Second) { // half a minute until it counts as dead, and the grace
		if s, err := agents[1].status(); err == nil && alone(s) || time.Now().After(until) {
			break
		}
	}
	for _, a := range agents[1:] {
		a.wait(t, "the dead one's end", alone)
		assert.Contains(t, a.do(t, "ipam", "show"), a.node.Name)
		assert.NotContains(t, a.do(t, "ipam", "show"), agents[0].node.Name)
	}
	agents[0].start(t)
	for _, a := range agents {
		a.wait(t, "its return", whole)
	}
	assert.Contains(t, agents[1].do(t, "ipam", "check"), "6 blocks of 3 nodes")
}

// TestForget: an operator says who is gone, on a machine that is no node, and only he can where most nodes are silent.
func TestForget(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	flags := []string{"--backend=vxlan", "--grace=10s", "--ipv4-pool-vxlan=Always", "--ipv6-pool-vxlan=Always"}
	one, two := w.launch(t, w.Nodes()[0], flags...), w.launch(t, w.Nodes()[1], flags...)
	nodes, err := rosterfile.New(filepath.Join(w.dir, "nodes"))
	require.NoError(t, err)
	blocks, err := file.New(filepath.Join(w.dir, "blocks"))
	require.NoError(t, err)
	for i := range 3 {
		name := fmt.Sprint("old", i)
		require.NoError(t, nodes.Join(t.Context(), roster.Node{Name: name}, time.Nanosecond))
		c, err := block.New(block.Config{Store: blocks, Node: name, Pools: []block.Pool{{Prefix: netip.MustParsePrefix("10.244.0.0/16")}}})
		require.NoError(t, err)
		_, err = c.Claim(t.Context(), netip.Addr{})
		require.NoError(t, err)
	}
	s := one.wait(t, "what keeps it from collecting", func(s calico.Status) bool { return s.Problem != "" })
	assert.Contains(t, s.Problem, "most nodes are silent")
	assert.Contains(t, s.Problem, "podweft-calico forget NODE")

	forget := func(words ...string) (string, error) {
		args := append([]string{"--node-name=" + one.node.Name, "--store-dir=" + w.dir, "forget"}, words...)
		out, err := command(context.Background(), w.Router, args...).CombinedOutput()
		return string(out), err
	}
	for _, c := range []struct{ node, want string }{
		{one.node.Name, "is this one"}, {"nobody", "nobody knows"}, {"", "is missing"}, {two.node.Name, "counts as alive"},
	} {
		out, err := forget(c.node)
		require.Error(t, err, out)
		assert.Contains(t, out, c.want)
	}
	out, err := forget("old1")
	require.NoError(t, err, out)
	assert.Regexp(t, `^- node old1\n- block 10\.244\.\S+ of old1\n$`, out)
	one.wait(t, "work to go on", func(s calico.Status) bool { return s.Problem == "" && len(s.Routes) == 2 })

	// Of a node that lives after all nothing is lost but its blocks: it is back within a heartbeat, and has others.
	before := two.wait(t, "its blocks", func(s calico.Status) bool { return len(s.Blocks) == 2 }).Blocks
	out, err = forget(two.node.Name, "--force")
	require.NoError(t, err, out)
	assert.Contains(t, out, "- node node2\n- block ")
	c, err := block.New(block.Config{Store: blocks, Node: one.node.Name, Pools: []block.Pool{{Prefix: netip.MustParsePrefix("10.244.0.0/16")}}})
	require.NoError(t, err)
	_, err = c.Claim(t.Context(), before[0].Prefix.Addr())
	again := errors.Is(err, block.ErrTaken) // node two has seen its loss in this moment, and has the same block anew
	if !again {
		require.NoError(t, err, "it is free")
	}
	two.wait(t, "blocks", func(s calico.Status) bool {
		return len(s.Blocks) == 2 && (again || s.Blocks[0].Prefix != before[0].Prefix)
	})
	one.wait(t, "its return", func(s calico.Status) bool { return len(s.Routes) == 2 })
	for _, p := range []*process{one, two} {
		assert.Contains(t, p.do(t, "ipam", "check"), "addresses held on this one\n")
	}
}

// TestLostAddress: the address of a node's link is another's, and there is none to have instead. The link goes without, the node goes on
// with all else, and it has an address as soon as there is one.
func TestLostAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	pool := calico.Pool{Name: "two blocks", Prefix: netip.MustParsePrefix("10.244.0.0/25"), VXLAN: calico.Always}
	var agents []*calico.Agent
	for _, n := range w.Nodes() {
		agent, _ := start(t, w.config(t, n, []calico.Pool{pool}))
		agents = append(agents, agent)
	}
	one, two := w.Nodes()[0], w.Nodes()[1]
	of := func(s calico.Status) bool { return len(s.Blocks) == 1 && len(s.Routes) == 1 }
	mine := waitFor(t, agents[0], "its block and the other's", of).Blocks[0].Prefix
	addresses := func() []netip.Prefix {
		links, err := one.Links()
		require.NoError(t, err)
		i := slices.IndexFunc(links, func(l testnet.Link) bool { return l.Kind == "vxlan" })
		require.NotEqual(t, -1, i, "%+v", links)
		return slices.DeleteFunc(links[i].Addrs, func(p netip.Prefix) bool { return !pool.Prefix.Overlaps(p) })
	}
	require.Len(t, addresses(), 1)

	blocks, err := file.New(filepath.Join(w.dir, "blocks"))
	require.NoError(t, err)
	c, err := block.New(block.Config{Store: blocks, Node: two.Name, Pools: []block.Pool{{Prefix: pool.Prefix}}})
	require.NoError(t, err)
	eventually(t, func() error {
		_, err := block.Free(t.Context(), blocks, one.Name)
		require.NoError(t, err)
		_, err = c.Claim(t.Context(), mine.Addr()) // which its node may have seen lost, and have again, in this moment
		return err
	})
	s := waitFor(t, agents[0], "what it lacks", func(s calico.Status) bool { return s.Problem != "" && len(s.Routes) == 2 })
	assert.Contains(t, s.Problem, "address of the vxlan link")
	assert.Empty(t, s.Blocks)
	assert.Eventually(t, func() bool { return len(addresses()) == 0 }, patience, 10*time.Millisecond)

	require.NoError(t, c.Return(t.Context(), mine))
	s = waitFor(t, agents[0], "a block again", func(s calico.Status) bool { return s.Problem == "" && of(s) })
	assert.Equal(t, mine, s.Blocks[0].Prefix)
	assert.Eventually(t, func() bool { return len(addresses()) == 1 }, patience, 10*time.Millisecond)
}
