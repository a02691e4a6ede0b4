package calico_test

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/testnet"
)

// TestCrossSubnet: pods of a rack reach each other without a tunnel, and those of the other rack through one; each family, and the
// world outside.
func TestCrossSubnet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	var agents []*calico.Agent
	var pods []*pod
	for i, n := range w.Nodes() {
		agent, _ := start(t, w.config(t, n, pools(calico.CrossSubnet)))
		agents = append(agents, agent)
		pods = append(pods, w.add(t, n, "pod"+string(rune('a'+i))))
	}
	for i, from := range pods {
		for j, to := range pods {
			if i != j {
				reaches(t, from.Node, to.addrs...)
			}
		}
		reaches(t, from.Node, w.Outside.V4, w.Outside.V6)
		reaches(t, w.Nodes()[i], pods[3-i].addrs...)
	}
	s := waitFor(t, agents[0], "routes", func(s calico.Status) bool { return len(s.Routes) >= 6 })
	for _, r := range s.Routes {
		want := map[string]string{"node2": "direct", "node3": "vxlan", "node4": "vxlan"}[r.Node]
		assert.Equal(t, want, r.Way, r.String())
	}
	assert.Zero(t, s.Failing(), "%+v", s.Parts)
	assert.Equal(t, 1450-20, s.MTU)

	for _, p := range pods {
		assert.Equal(t, s.MTU, mtuOf(t, p), p.Name)
	}
	// A packet of exactly the pods' MTU passes on both ways, whole.
	for _, to := range []*pod{pods[1], pods[2]} {
		for _, a := range to.addrs {
			_, err := pods[0].Echo(t.Context(), a, testnet.Echo{Size: s.MTU, DontFragment: true})
			require.NoError(t, err, a)
		}
	}
	for _, v4 := range []bool{true, false} {
		assert.Equal(t, "icmp", passes(t, w, pods[0], pods[1], v4))
		assert.Equal(t, "vxlan", passes(t, w, pods[0], pods[2], v4))
	}
}

// TestIPv6Underlay: nodes that have IPv6 alone carry pods of both families: IPv4 in the tunnel, within a rack too.
func TestIPv6Underlay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	nodes := w.Nodes()[:3] // the third is in the other rack
	var agents []*calico.Agent
	var pods []*pod
	for i, n := range nodes {
		without4(t, n)
		agent, _ := start(t, w.config(t, n, pools(calico.CrossSubnet)))
		agents = append(agents, agent)
		pods = append(pods, w.add(t, n, "pod"+string(rune('a'+i))))
	}
	for _, from := range pods {
		for _, to := range pods {
			if from != to {
				reaches(t, from.Node, to.addrs...)
			}
		}
	}
	s := waitFor(t, agents[0], "routes", func(s calico.Status) bool { return len(s.Routes) == 4 })
	for _, r := range s.Routes {
		want := "vxlan"
		if r.Node == "node2" && r.Prefix.Addr().Is6() {
			want = "direct"
		}
		assert.Equal(t, want, r.Way, r.String())
		assert.True(t, r.NextHop.Is6(), r.String())
	}
	assert.Equal(t, 1500-70, s.MTU)
	for _, to := range pods[1:] {
		for _, a := range to.addrs {
			_, err := pods[0].Echo(t.Context(), a, testnet.Echo{Size: s.MTU, DontFragment: true})
			require.NoError(t, err, a)
		}
	}
}

// damaged is a store in which somebody has put what is no block.
type damaged struct {
	block.Store
	mended atomic.Bool
}

// Blocks implements block.Store.
func (d *damaged) Blocks(ctx context.Context, p netip.Prefix) ([]block.Block, error) {
	if !d.mended.Load() {
		return nil, &podweft.FieldError{Field: "blocks/10.244.0.0-26", Problem: "does not have a block"}
	}
	return d.Store.Blocks(ctx, p)
}

// TestDamagedBlock: an agent that starts waits until somebody has mended what somebody wrote.
func TestDamagedBlock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	cfg := w.config(t, w.Nodes()[0], pools(calico.CrossSubnet))
	store := &damaged{Store: cfg.Blocks}
	cfg.Blocks = store
	agent, err := calico.New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(ctx) }()
	s := waitFor(t, agent, "what it waits for", func(s calico.Status) bool { return s.Problem != "" })
	assert.Contains(t, s.Problem, "waiting for blocks: ")
	assert.Contains(t, s.Problem, "blocks/10.244.0.0-26: does not have a block")
	store.mended.Store(true)
	waitFor(t, agent, "readiness", func(s calico.Status) bool { return s.Ready && s.Problem == "" })
	cancel()
	require.NoError(t, <-ended)
}

// without4 takes a node's IPv4 address from it.
func without4(t testing.TB, n *testnet.Node) {
	t.Helper()
	require.NoError(t, n.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		return h.AddrDel(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: n.V4.AsSlice(), Mask: net.CIDRMask(24, 32)}})
	}))
}

// mtuOf is that of the pod's link: packets larger than the way takes must not begin.
func mtuOf(t testing.TB, p *pod) int {
	t.Helper()
	links, err := p.Links()
	require.NoError(t, err)
	i := slices.IndexFunc(links, func(l testnet.Link) bool { return l.Name == "eth0" })
	require.NotEqual(t, -1, i, "%+v", links)
	return links[i].MTU
}

// passes says what goes over the wire when one pod pings another, over IPv4 or over IPv6. Each family has a tunnel over itself.
func passes(t testing.TB, w *world, from, to *pod, v4 bool) string {
	t.Helper()
	c, err := from.host.Capture("eth0")
	require.NoError(t, err)
	defer c.Close()
	dst := to.addrs[slices.IndexFunc(to.addrs, func(a netip.Addr) bool { return a.Is4() == v4 })]
	etherType, protocol, ports, icmp := []byte{0x08, 0x00}, 23, 34, byte(1) // where in a frame they are
	if !v4 {
		etherType, protocol, ports, icmp = []byte{0x86, 0xdd}, 20, 54, 58
	}
	// Of ICMPv6 only an echo request (RFC 4443, 4.1) from the pod: neighbours are looked for in it too.
	echo := func(frame []byte) bool { return frame[protocol] == icmp && (v4 || frame[ports] == 128) }
	for until := time.Now().Add(patience); time.Now().Before(until); {
		_, err := from.Ping(t.Context(), dst)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		p, err := c.Await(ctx, func(p testnet.Packet) bool {
			return p.Sent && len(p.Frame) > ports+4 && bytes.Equal(p.Frame[12:14], etherType) && (echo(p.Frame) || p.Frame[protocol] == 17)
		})
		cancel()
		if err != nil {
			continue
		}
		if echo(p.Frame) {
			return "icmp"
		}
		if port := int(p.Frame[ports+2])<<8 | int(p.Frame[ports+3]); port == calico.DefaultPort {
			return "vxlan"
		}
	}
	require.Fail(t, "nothing was seen to pass")
	return ""
}

// TestTwoOfOneName: two machines that go by one name have the same blocks. Both agents name the other machine.
func TestTwoOfOneName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	one, two := w.Nodes()[0], w.Nodes()[1]
	all := pools(calico.CrossSubnet)
	first, _ := start(t, w.config(t, one, all))
	cfg := w.config(t, two, all)
	cfg.Node = one.Name
	second, _ := start(t, cfg)
	for agent, other := range map[*calico.Agent]*testnet.Node{first: two, second: one} {
		waitFor(t, agent, "a word of the other machine", func(s calico.Status) bool {
			return slices.ContainsFunc(s.Problems, func(p string) bool {
				return strings.Contains(p, "another machine, at "+other.V6.String()+", goes by this node's name")
			})
		})
	}
}

// TestUnreadableAddresses: where the node's own addresses cannot be read, its status says so, and does not just count none.
func TestUnreadableAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	n := w.Nodes()[0]
	cfg := w.config(t, n, pools(calico.CrossSubnet))
	agent, _ := start(t, cfg)
	w.add(t, n, "pod")
	s := agent.Status(t.Context())
	require.NotZero(t, s.Blocks[0].Used)
	require.Empty(t, s.Problems)

	files, err := filepath.Glob(filepath.Join(cfg.StateDir, "blocks-*"))
	require.NoError(t, err)
	for _, file := range files {
		require.NoError(t, os.WriteFile(file, []byte("not what it was"), 0o600))
	}
	s = agent.Status(t.Context())
	assert.NotEmpty(t, s.Blocks)
	require.Len(t, s.Problems, 1)
	assert.Contains(t, s.Problems[0], "which addresses are held is not known: ")
	assert.Contains(t, s.Problems[0], cfg.StateDir)
}
