package bgp_test

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/testnet"
)

// patience is how long tests wait. The engine alone takes seconds: it dials two seconds after it was told to, and rests for five
// after a session was lost.
const patience = 60 * time.Second

func TestMain(m *testing.M) { testnet.Main(program{m}) }

// program is the tests or, where the environment says so, a node's agent: a process of its own, in a namespace, to be killed.
type program struct{ tests *testing.M }

func (p program) Run() int {
	if os.Getenv(agentVar) == "" {
		// Most of their time the tests wait for sessions, hardly any of it for processors.
		if err := flag.Set("test.parallel", "8"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return p.tests.Run()
	}
	if err := runAgent(); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		return 1
	}
	return 0
}

const port = 1790

// row is some Speakers of one process on its loopback link: number i, from 1, is at 127.0.0.i and has 10.244.i.0/24 and
// fd00:244:0:i::/64 behind 192.0.2.i and 2001:db8::i. There is no graceful restart among them, which is for processes to try:
// GoBGP v4.8 marks paths as stale without a lock while it lists them (Path.MarkStale in internal/pkg/table/path.go), and the race
// detector sees it unless, as by make race, it is not told of that package. The mark is then in the next list.
type row []*bgp.Speaker

// newRow runs n Speakers until the test ends. They have no peers yet: what the engine has only once for the process is not to
// change while there are sessions.
func newRow(t testing.TB, n int, change func(i int, cfg *bgp.Config)) row {
	t.Helper()
	testnet.Require(t)
	var all row
	ended := make(chan error, n)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		for range all {
			require.NoError(t, <-ended)
		}
	})
	for i := 1; i <= n; i++ {
		cfg := bgp.Config{AS: 64512, NextHop: hops(i), Listen: []netip.Addr{at(i)}, Port: port, RestartTime: -1}
		if change != nil {
			change(i, &cfg)
		}
		s, err := bgp.New(cfg)
		require.NoError(t, err)
		go func() {
			// GoBGP v4.8 loses the goroutine of a session that it ends with something still to send (cleanInfiniteChannel in
			// pkg/server/util.go). Without the test's label they are not held against it; what is ours ends before Run does.
			pprof.SetGoroutineLabels(context.Background())
			ended <- s.Run(ctx)
		}()
		all = append(all, s)
		require.Eventually(t, func() bool { return s.Status().Running }, patience, time.Millisecond)
	}
	return all
}

func at(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, byte(i)}) }

func hops(i int) subnet.Addrs {
	return subnet.Addrs{V4: netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i)), V6: netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i))}
}

func v4Block(i int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)) }
func v6Block(i int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%x::/64", i)) }

func blocks(i int) []bgp.Advertisement {
	return []bgp.Advertisement{{Prefix: v4Block(i)}, {Prefix: v6Block(i)}}
}

// peer is number i as number own has it as a peer.
func peer(own, i int) bgp.Peer {
	return bgp.Peer{Name: fmt.Sprintf("node%d", i), Addr: at(i), Local: at(own), Port: port, Passive: i < own}
}

// mesh makes all of them each other's peers.
func (r row) mesh(t testing.TB) {
	t.Helper()
	nodes := make([]bgp.Node, 0, len(r))
	for i := range r {
		nodes = append(nodes, bgp.Node{Name: fmt.Sprintf("node%d", i+1), Addrs: subnet.Addrs{V4: at(i + 1)}})
	}
	for i, s := range r {
		require.NoError(t, s.SetPeers(bgp.Mesh(nodes[i].Name, nodes, bgp.Peer{Port: port})))
		require.NoError(t, s.Advertise(blocks(i+1)))
	}
}

// waitFor returns the first snapshot that has what it takes.
func waitFor(t testing.TB, s *bgp.Speaker, what string, enough func(*bgp.Snapshot) bool) *bgp.Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var last *bgp.Snapshot
	for last = range s.Snapshots(ctx) {
		if enough(last) {
			return last
		}
	}
	require.Fail(t, what, "last: %+v\nstatus: %+v", last, s.Status())
	return nil
}

func has(prefixes ...netip.Prefix) func(*bgp.Snapshot) bool {
	return func(s *bgp.Snapshot) bool {
		for _, p := range prefixes {
			if _, ok := s.Path(p); !ok {
				return false
			}
		}
		return true
	}
}

func lacks(p netip.Prefix) func(*bgp.Snapshot) bool {
	return func(s *bgp.Snapshot) bool { return !has(p)(s) }
}
