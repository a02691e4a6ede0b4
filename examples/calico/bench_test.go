package calico_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/file"
	"github.com/podweft/podweft/testnet"
)

// BenchmarkBlocks: 500 blocks of a node, from the moment that another one's session with it is up to that one's kernel; and what that
// agent then weighs, 80 MiB at the most.
func BenchmarkBlocks(b *testing.B) {
	const blocks = 500
	w := newWorld(b, 2)
	store, err := file.New(filepath.Join(w.dir, "blocks"))
	require.NoError(b, err)
	one, two := w.Racks.Racks[0][0], w.Racks.Racks[0][1]
	for i := range blocks {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i / 4), byte(i % 4 * 64)}), 26)
		_, err := store.Write(b.Context(), block.Block{Prefix: p, Node: two.Name, Shares: []block.Share{{Prefix: p, Node: two.Name}}})
		require.NoError(b, err)
	}
	w.launch(b, two)
	var took time.Duration
	rounds := 0
	var weight int
	for b.Loop() {
		p := &process{w: w, node: one, args: w.flags(one, "--log-level=debug")}
		p.start(b)
		b.Cleanup(func() { p.kill(b) })
		var up time.Time
		for routes := 0; routes < blocks; time.Sleep(time.Millisecond) {
			if up.IsZero() && sessionUp.MatchString(p.log.String()) {
				up = time.Now()
			}
			routes = routesOf(b, one)
		}
		took += time.Since(up)
		rounds++
		weight = max(weight, rss(b, p.cmd.Process.Pid))
		p.kill(b)
		p.do(b, "cleanup")
	}
	require.LessOrEqual(b, weight, 80<<10, "KiB")
	b.ReportMetric(float64(took.Milliseconds())/float64(rounds), "ms/since-session")
	b.ReportMetric(float64(weight)/1024, "MiB-RSS")
}

// sessionUp is what the agent logs of it.
var sessionUp = regexp.MustCompile(`session moved.* up=true`)

// BenchmarkADD is the plugin's, in this process, with the agent's addresses; the DELs are not counted.
func BenchmarkADD(b *testing.B) {
	w := newWorld(b, 1)
	n := w.Nodes()[0]
	start(b, w.config(b, n, pools(calico.CrossSubnet)))
	p := &pod{Node: testnet.NewNode(b, "pod"), host: n, dir: filepath.Join(w.dir, n.Name)}
	for b.Loop() {
		out, code := p.call(b, "ADD")
		require.Zero(b, code, out)
		b.StopTimer()
		p.del(b)
		b.StartTimer()
	}
}

// routesOf counts the node's routes to pods.
func routesOf(t testing.TB, n *testnet.Node) int {
	t.Helper()
	var text []byte
	require.NoError(t, n.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/route")
		return err
	}))
	return strings.Count(string(text), fmt.Sprintf("\t%s\t", "C0FFFFFF")) // the mask of a /26
}

// rss is a process's, in KiB.
func rss(t testing.TB, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	_, after, _ := strings.Cut(string(raw), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(after)[0])
	require.NoError(t, err)
	return n
}
