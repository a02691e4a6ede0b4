package flannel

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/etcd"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

const crowd = 5000

// peer is the claim of one of many nodes that are not there.
func peer(tb testing.TB, kind string, i int) subnet.Claim {
	tb.Helper()
	c := subnet.Claim{
		Node: fmt.Sprint("peer-", i), Backend: kind,
		Underlay: subnet.Addrs{V4: netip.AddrFrom4([4]byte{172, 16, byte(1 + i>>8), byte(i)})},
		Prefer:   subnet.Prefixes{V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(1 + i>>8), byte(i), 0}), 24)},
	}
	if kind == vxlan.Type {
		raw, err := json.Marshal(vxlan.LeaseData{VNI: 1, VtepMAC: podweft.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}})
		require.NoError(tb, err)
		c.Data.V4 = raw
	}
	return c
}

// BenchmarkStart is a daemon's start in a cluster of 5,000: from the process to the subnet file, when every peer is in the
// kernel. It tells the process's memory too, and how long one change then takes from etcd to the kernel.
func BenchmarkStart(b *testing.B) {
	for _, kind := range []string{"vxlan", "host-gw"} {
		b.Run(kind, func(b *testing.B) {
			url, store := startEtcd(b, `{"Network":"10.0.0.0/8","Backend":{"Type":"`+kind+`"}}`)
			f := testnet.NewFabric(b, testnet.FabricConfig{
				Nodes: 1, Outside: true, V4: netip.MustParsePrefix("172.16.0.0/12"),
			})
			for snap, err := range store.Watch(b.Context()) { // so that claims need not list
				require.NoError(b, err)
				require.NotNil(b, snap)
				break
			}
			var wg sync.WaitGroup
			for part := range 50 {
				wg.Go(func() {
					for i := part; i < crowd; i += 50 {
						_, err := store.Acquire(b.Context(), peer(b, kind, i))
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			a := newAgent(b, f.Nodes[0], "here", url)
			a.args = append(a.args, "--log-level=warn")
			for b.Loop() {
				a.start()
				a.ready()
				b.StopTimer()
				b.ReportMetric(rss(b, a), "MiB")
				b.ReportMetric(float64(change(b, a, store, kind).Microseconds())/1000, "ms/change")
				require.NoError(b, a.kill(syscall.SIGTERM))
				out, err := a.command("cleanup").CombinedOutput()
				require.NoError(b, err, "%s", out[max(0, len(out)-500):])
				b.StartTimer()
			}
		})
	}
}

// rss is the daemon's resident memory, in MiB.
func rss(tb testing.TB, a *agent) float64 {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	require.NoError(tb, err)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	var kib float64
	_, err = fmt.Sscan(rest, &kib)
	require.NoError(tb, err)
	return kib / 1024
}

// change puts one new lease after another and returns the median time from etcd's answer to the route. The daemon is at rest
// before each: two changes within a few milliseconds share a pass.
func change(tb testing.TB, a *agent, store *etcd.Store, kind string) time.Duration {
	tb.Helper()
	h := a.netlink()
	var took []time.Duration
	for i := range 21 {
		time.Sleep(20 * time.Millisecond)
		c := peer(tb, kind, crowd+i)
		l, err := store.Acquire(tb.Context(), c)
		require.NoError(tb, err)
		put := time.Now()
		dst, gateway := l.Prefixes.V4.Addr().Next().AsSlice(), c.Underlay.V4
		if kind == vxlan.Type {
			gateway = l.Prefixes.V4.Addr()
		}
		for {
			routes, err := h.RouteGet(dst)
			if err == nil && len(routes) > 0 && routes[0].Gw.Equal(gateway.AsSlice()) {
				break
			}
			require.Less(tb, time.Since(put), 10*time.Second)
			time.Sleep(100 * time.Microsecond) // there are two processors: etcd and the daemon want them
		}
		took = append(took, time.Since(put))
		require.NoError(tb, store.Release(tb.Context(), l))
	}
	slices.Sort(took)
	return took[len(took)/2]
}
