package bgp_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/testnet"
)

// racks is a fabric whose nodes have their blocks' first addresses on lo, for pods.
func racks(t testing.TB, nodes int) *testnet.Fabric {
	t.Helper()
	f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: nodes})
	for i, n := range f.Nodes {
		h := handle(t, n)
		lo, err := h.LinkByName("lo")
		require.NoError(t, err)
		for _, pod := range pods(i + 1) {
			a := &netlink.Addr{IPNet: &net.IPNet{IP: pod.AsSlice(), Mask: net.CIDRMask(pod.BitLen(), pod.BitLen())}}
			if pod.Is6() {
				a.Flags = unix.IFA_F_NODAD
			}
			require.NoError(t, h.AddrReplace(lo, a))
		}
	}
	return f
}

func handle(t testing.TB, n *testnet.Node) *netlink.Handle {
	t.Helper()
	var h *netlink.Handle
	require.NoError(t, n.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}))
	t.Cleanup(h.Close)
	return h
}

func pods(i int) []netip.Addr {
	return []netip.Addr{v4Block(i).Addr().Next(), v6Block(i).Addr().Next()}
}

// routes counts the node's routes that neither the kernel nor testnet has made.
func routes(t testing.TB, h *netlink.Handle) int {
	t.Helper()
	list, err := h.RouteListFiltered(unix.AF_UNSPEC, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	require.NoError(t, err)
	n := 0
	for _, r := range list {
		if r.Gw != nil {
			n++
		}
	}
	return n
}

func configOf(t testing.TB, n *testnet.Node) bgp.Config {
	t.Helper()
	return bgp.Config{AS: 64512, NextHop: subnet.Addrs{V4: n.V4, V6: n.V6}, StateFile: filepath.Join(t.TempDir(), "paths.json")}
}

// sessionWith is n as a peer; between two agents, the later one waits for the other to dial.
func sessionWith(n *testnet.Node) bgp.Peer {
	return bgp.Peer{Name: n.Name, Addr: n.V4, Passive: n.Name == "node1"}
}

// reach pings from one node's pods to another's, over both families.
func reach(t testing.TB, f *testnet.Fabric, from, to int) {
	t.Helper()
	for k, pod := range pods(to) {
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, err := f.Nodes[from-1].Echo(ctx, pod, testnet.Echo{From: pods(from)[k]})
			return err == nil
		}, patience, 20*time.Millisecond, "%s to %s", pods(from)[k], pod)
	}
}

// storm pings without a pause, over both families, until stop; that returns what became of those that were lost, and of how many.
func storm(t testing.TB, f *testnet.Fabric, from, to int) (stop func() (lost []error, sent int)) {
	t.Helper()
	var mu sync.Mutex
	var lost []error
	sent := 0
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	for k, pod := range pods(to) {
		go func() {
			defer func() { done <- struct{}{} }()
			for ctx.Err() == nil {
				// A loaded machine is late, not lossy, and one that stands still for seconds has every answer late.
				try, cancel := context.WithTimeout(context.Background(), patience)
				begun := time.Now()
				_, err := f.Nodes[from-1].Echo(try, pod, testnet.Echo{From: pods(from)[k]})
				cancel()
				mu.Lock()
				sent++
				if err != nil {
					lost = append(lost, fmt.Errorf("%s, sent at %s, after %s: %w", pod, begun.Format(time.StampMicro), time.Since(begun), err))
				}
				mu.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
		}()
	}
	return func() ([]error, int) {
		cancel()
		<-done
		<-done
		return lost, sent
	}
}

// storms pings from some nodes to others, over both families. stop requires that no answer is missing.
func storms(t testing.TB, f *testnet.Fabric, ways ...[2]int) (stop func()) {
	t.Helper()
	var stops []func() (lost []error, sent int)
	for _, way := range ways {
		stops = append(stops, storm(t, f, way[0], way[1]))
	}
	return func() {
		t.Helper()
		for i, stop := range stops {
			lost, sent := stop()
			assert.Empty(t, lost, "of %d from node %d to node %d", sent, ways[i][0], ways[i][1])
			assert.Greater(t, sent, 20, "from node %d to node %d", ways[i][0], ways[i][1])
		}
	}
}

// An agent that is started again and says nothing about what it advertises has its sessions all the same, if later.
func TestRestartOfOneThatOnlyListens(t *testing.T) {
	t.Parallel()
	f := racks(t, 2)
	cfg := configOf(t, f.Nodes[0])
	listens := order{Peers: []bgp.Peer{sessionWith(f.Nodes[1])}, PeersOnly: true}
	one, two := startAgent(t, f.Nodes[0], cfg), startAgent(t, f.Nodes[1], configOf(t, f.Nodes[1]))
	two.order(t, order{Peers: []bgp.Peer{sessionWith(f.Nodes[0])}, Advertise: blocks(2)})
	one.order(t, listens)
	one.wait(t, "the other node's blocks", knows(v4Block(2), v6Block(2)))
	hasNoted(t, cfg, v4Block(2), v6Block(2))
	one.kill(t)
	one = startAgent(t, f.Nodes[0], cfg)
	one.order(t, listens)
	one.wait(t, "the session and fresh paths again", backWith(v4Block(2), v6Block(2)))
}

// An agent killed and started again: nobody loses a packet, neither to its pods nor from them, and what changed while it was
// away is right afterwards; also where the session is over IPv6, and signed.
func TestRestartLosesNoPackets(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		over     func(*testnet.Node) netip.Addr
		password string
		end      func(*agent, testing.TB)
	}{
		{"killed", over4, "", (*agent).kill}, {"ended", over4, "", (*agent).end}, {"over IPv6", over6, "woven", (*agent).kill},
	} {
		session := func(n *testnet.Node) bgp.Peer {
			p := sessionWith(n)
			p.Addr, p.Password = tc.over(n), tc.password
			return p
		}
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := racks(t, 2)
			cfg := configOf(t, f.Nodes[0])
			gone := netip.MustParsePrefix("10.245.0.0/24")
			want1 := order{Peers: []bgp.Peer{session(f.Nodes[1])}, Advertise: blocks(1)}
			want2 := order{Peers: []bgp.Peer{session(f.Nodes[0])}, Advertise: append(blocks(2), bgp.Advertisement{Prefix: gone})}
			one, two := startAgent(t, f.Nodes[0], cfg), startAgent(t, f.Nodes[1], configOf(t, f.Nodes[1]))
			one.order(t, want1)
			two.order(t, want2)
			one.wait(t, "routes", knows(v4Block(2), v6Block(2), gone))
			two.wait(t, "routes", knows(v4Block(1), v6Block(1)))
			reach(t, f, 1, 2)
			hasNoted(t, cfg, v4Block(2), v6Block(2), gone)

			stop := storms(t, f, [2]int{1, 2}, [2]int{2, 1})
			tc.end(one, t)
			two.wait(t, "the loss of the session", func(a answer) bool { return a.Established == 0 })
			require.True(t, knows(v4Block(1), v6Block(1))(two.ask(t, nil)), "the paths must outlive the session")
			want2.Advertise = blocks(2)
			two.order(t, want2)
			one = startAgent(t, f.Nodes[0], cfg)
			one.order(t, want1)
			one.wait(t, "what is remembered", knows(v4Block(2), v6Block(2)))
			one.wait(t, "the session", func(a answer) bool { return a.Established == 1 })
			one.wait(t, "the end of what was withdrawn meanwhile", knowsNot(gone))
			two.wait(t, "fresh paths", func(a answer) bool {
				for _, p := range a.Paths {
					if p.Stale {
						return false
					}
				}
				return len(a.Paths) == 2
			})
			stop()
		})
	}
}

// BFD finds out that a peer's cable is pulled long before the hold time is over, and its paths go: nobody is there to forward.
func TestBFDFindsADeadPeer(t *testing.T) {
	t.Parallel()
	f := racks(t, 2)
	var agents []*agent
	for i, n := range f.Nodes {
		a := startAgent(t, n, configOf(t, n))
		p := sessionWith(f.Nodes[1-i])
		p.BFD = bgp.BFD{Interval: 200 * time.Millisecond}
		a.order(t, order{Peers: []bgp.Peer{p}, Advertise: blocks(i + 1)})
		agents = append(agents, a)
	}
	for i, a := range agents {
		a.wait(t, "paths", knows(v4Block(2-i)))
		a.wait(t, "BFD", func(a answer) bool { return a.BFD == "up" })
	}
	require.NoError(t, f.Switch.SetDown(f.Nodes[1].Name))
	agents[0].wait(t, "the loss of the session", func(a answer) bool { return a.Established == 0 })
	agents[0].wait(t, "the end of its paths", knowsNot(v4Block(2)))
	require.NoError(t, f.Switch.SetUp(f.Nodes[1].Name))
	agents[0].wait(t, "paths again", knows(v4Block(2)))
	reach(t, f, 1, 2)
}

// Blocks by the hundred are in the other node's kernel within sabotage.Limit, a second, of their node's word over a session that is up;
// and out of it.
func TestManyBlocksReachTheKernel(t *testing.T) {
	t.Parallel()
	const n = 500
	one, two, want, count := pairOfAgents(t)
	before := count()
	for _, blocks := range [][]bgp.Advertisement{manyBlocks(n), manyBlocks(n)[:n/2]} {
		watch := sabotage.Start(t, one.node)
		want.Advertise = blocks
		two.order(t, want)
		require.Eventually(t, func() bool { return count() == before+len(blocks) }, patience, 10*time.Millisecond)
		watch.RequireBack(t)
	}
	one.wait(t, "what is left", func(a answer) bool { return len(a.Paths) == n/2 })
}
