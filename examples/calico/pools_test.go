package calico_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/testnet"
)

// TestPoolsOfNodes: a node claims blocks of the pools that select it by its labels, and of no others. Pods of nodes of different pools
// reach each other; to the world outside those of a pool with NAT are their node, and those of one without are themselves.
func TestPoolsOfNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	zone := func(name, network string, nat bool) calico.Pool {
		nodes, err := calico.ParseSelector("zone == '" + name + "'")
		require.NoError(t, err)
		return calico.Pool{Name: name, Prefix: netip.MustParsePrefix(network), Nodes: nodes, NAT: nat}
	}
	pools := []calico.Pool{
		zone("a", "10.244.0.0/16", true), zone("a", "fd00:244::/64", true),
		zone("b", "10.245.0.0/16", false), zone("b", "fd00:245::/64", false),
	}
	pods := map[string]*pod{}
	for i, name := range []string{"a", "b"} {
		n := w.Racks.Racks[0][i]
		cfg := w.config(t, n, pools)
		cfg.Labels = map[string]string{"zone": name}
		agent, _ := start(t, cfg)
		p := w.add(t, n, "pod"+name)
		require.Len(t, p.addrs, 2)
		for j, a := range p.addrs {
			assert.True(t, pools[2*i+j].Prefix.Contains(a), "%s in %s", a, name)
		}
		blocks := agent.Status(t.Context()).Blocks
		require.Len(t, blocks, 2)
		for _, b := range blocks {
			assert.Equal(t, name, b.Pool, "%s", b.Prefix)
		}
		pods[name] = p
	}
	reaches(t, pods["a"].Node, pods["b"].addrs...)
	reaches(t, pods["b"].Node, pods["a"].addrs...)
	for i, out := range []netip.Addr{w.Outside.V4, w.Outside.V6} {
		assert.Equal(t, pods["a"].host.Addrs()[i].String(), seenAs(t, w, pods["a"], out).String())
		assert.Equal(t, pods["b"].addrs[i].String(), seenAs(t, w, pods["b"], out).String())
	}
}

// TestBlocksOfOneAddress: a block may be a single address, so that its route and the pod's are one. Pods are reached from their node, from
// a node beside it and from one behind the router; of a pod that is gone packets are dropped at its node, and its address can be had anew.
func TestBlocksOfOneAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	pools := pools(calico.CrossSubnet)
	pools[0].BlockBits, pools[1].BlockBits = 32, 128
	nodes := w.Nodes()[:3] // the third is in the other rack
	var agents []*calico.Agent
	var pods []*pod
	for i, n := range nodes {
		agent, _ := start(t, w.config(t, n, pools))
		agents = append(agents, agent)
		pods = append(pods, w.add(t, n, fmt.Sprint("pod", i)), w.add(t, n, fmt.Sprint("other", i)))
	}
	for _, from := range pods {
		for _, to := range pods {
			if from != to {
				reaches(t, from.Node, to.addrs...)
			}
		}
	}
	for _, n := range nodes {
		reaches(t, n, pods[0].addrs...)
	}
	for _, a := range agents {
		s := waitFor(t, a, "routes in force", func(s calico.Status) bool { return len(s.Routes) == 2*6 && s.Failing() == 0 }) // two pods and the link
		assert.Empty(t, s.Problems)
	}
	gone := pods[0]
	gone.del(t)
	for _, addr := range gone.addrs {
		require.Eventually(t, func() bool { return dropped(t, gone.host, addr) }, patience, 10*time.Millisecond, addr)
	}
	again := w.add(t, nodes[0], "again")
	for _, from := range pods[1:] {
		reaches(t, from.Node, again.addrs...)
	}
}

// TestSecondFamily: pools of IPv6 come to a node whose link has an address of IPv4 already. The agent starts, the link has one of each, the
// old one among them, and pods of before keep theirs.
func TestSecondFamily(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	both := pools(calico.Always)
	one, two := w.Nodes()[0], w.Nodes()[1]
	_, stop := start(t, w.config(t, one, both[:1]))
	start(t, w.config(t, two, both))
	before := w.add(t, one, "before")
	require.Len(t, before.addrs, 1)
	links := func() (all []netip.Addr) {
		links, err := one.Links()
		require.NoError(t, err)
		for _, l := range links {
			for _, a := range l.Addrs {
				if l.Kind == "vxlan" && slices.ContainsFunc(both, func(p calico.Pool) bool { return p.Prefix.Contains(a.Addr()) }) {
					all = append(all, a.Addr())
				}
			}
		}
		return all
	}
	had := links()
	require.Len(t, had, 1)
	stop()

	agent, _ := start(t, w.config(t, one, both))
	waitFor(t, agent, "blocks of both families", func(s calico.Status) bool { return len(s.Blocks) == 2 && s.Failing() == 0 })
	now := links()
	require.Len(t, now, 2)
	assert.Contains(t, now, had[0])
	after, other := w.add(t, one, "after"), w.add(t, two, "other")
	require.Len(t, after.addrs, 2)
	reaches(t, before.Node, other.addrs[0], after.addrs[0])
	reaches(t, after.Node, other.addrs...)
	reaches(t, one, other.addrs...)
	reaches(t, two, append(after.addrs, before.addrs...)...)
}

// TestSecondFamilyIsFull: a node whose tunnel link cannot have an address of the family that came keeps the one that it has, and works.
func TestSecondFamilyIsFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	both := pools(calico.Always)
	both[1].Prefix = netip.MustParsePrefix("fd00:244::/122") // one block
	one, two := w.Nodes()[0], w.Nodes()[1]
	_, stop := start(t, w.config(t, one, both[:1]))
	last, _ := start(t, w.config(t, two, both))
	waitFor(t, last, "the last block", func(s calico.Status) bool { return len(s.Blocks) >= 2 })
	before := w.add(t, one, "before")
	stop()
	start(t, w.config(t, one, both))
	other := w.add(t, two, "other")
	reaches(t, before.Node, other.addrs[0])
	reaches(t, one, other.addrs[0])
	reaches(t, two, before.addrs...)
}

// dropped reports whether the node has a blackhole for an address.
func dropped(t testing.TB, n *testnet.Node, addr netip.Addr) bool {
	t.Helper()
	family := map[bool]string{true: "-4", false: "-6"}[addr.Is4()]
	out, err := n.Command(t.Context(), "ip", family, "route", "show", "type", "blackhole", "exact", addr.String()).CombinedOutput()
	return err == nil && len(out) > 0
}

// seenAs is the address that an echo request of the pod's has where it comes to the machine outside, at the router: that machine knows
// no way back to pods.
func seenAs(t testing.TB, w *world, p *pod, out netip.Addr) netip.Addr {
	t.Helper()
	c, err := w.Router.Capture("wan")
	require.NoError(t, err)
	defer c.Close()
	from, to, echo := 26, 30, func(f []byte) bool { return f[23] == 1 } // where they are in a frame over IPv4
	if out.Is6() {
		from, to, echo = 22, 38, func(f []byte) bool { return f[20] == 58 && f[54] == 128 } // neighbours are looked for in ICMPv6 too
	}
	for until := time.Now().Add(patience); time.Now().Before(until); {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, _ = p.Ping(ctx, out) // which only some get an answer to
		cancel()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		packet, err := c.Await(ctx, func(p testnet.Packet) bool {
			return p.Sent && len(p.Frame) > 54 && bytes.HasPrefix(p.Frame[to:], out.AsSlice()) && echo(p.Frame)
		})
		cancel()
		if err == nil {
			source, _ := netip.AddrFromSlice(packet.Frame[from:to])
			return source
		}
	}
	require.Fail(t, "nothing was seen to pass")
	return netip.Addr{}
}

// TestDisabledPool: a pool that is disabled gives no pod an address any more, also of the blocks that a node has of it; those that have one
// keep it and are reached. While there is no other pool, pods cannot come to the node, which works on. What is empty is given back.
func TestDisabledPool(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	one, two := w.Nodes()[0], w.Nodes()[1]
	old := pools(calico.CrossSubnet)[:1]
	_, stop := start(t, w.config(t, one, old))
	_, stopTwo := start(t, w.config(t, two, old))
	before, other := w.add(t, one, "before"), w.add(t, two, "other")
	stop()
	stopTwo()

	old[0].Disabled = true
	agent, stop := start(t, w.config(t, one, old))
	start(t, w.config(t, two, old))
	s := waitFor(t, agent, "the block of the other node", func(s calico.Status) bool { return len(s.Routes) == 1 && s.Failing() == 0 })
	require.Len(t, s.Blocks, 1, "it is the node's still")
	reaches(t, before.Node, other.addrs...)
	reaches(t, other.Node, before.addrs...)
	late := &pod{Node: testnet.NewNode(t, "late"), host: one, dir: before.dir}
	out, code := late.call(t, "ADD")
	require.NotZero(t, code, out)
	assert.Contains(t, out, "of the pools of IPv4, v4 is disabled")
	out, code = before.call(t, "ADD")
	assert.NotContains(t, out, "disabled", "code %d: it keeps what it has", code)
	stop()

	next := calico.Pool{Name: "next", Prefix: netip.MustParsePrefix("10.245.0.0/16"), VXLAN: calico.CrossSubnet}
	agent, _ = start(t, w.config(t, one, append(old, next)))
	after := w.add(t, one, "after")
	require.Len(t, after.addrs, 1)
	assert.True(t, next.Prefix.Contains(after.addrs[0]), after.addrs[0])
	reaches(t, after.Node, before.addrs...)
	waitFor(t, agent, "blocks of both", func(s calico.Status) bool { return len(s.Blocks) == 2 })
}
