package flannel

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/examples/flannel/embedded"
	"github.com/podweft/podweft/examples/internal/loopback"
	"github.com/podweft/podweft/subnet/etcd"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

const crowd = 5000

// crowded is a cluster of 5,000 that one daemon is about to join: its etcd, which is a process of its own as users have it and keeps
// its data in memory, and a node.
type crowded struct {
	agent    *agent
	operator *clientv3.Client
	alive    clientv3.LeaseID
}

func newCrowded(b *testing.B, kind string) crowded {
	b.Helper()
	url := startEtcdProcess(b)
	configure(b, url, `{"Network":"10.0.0.0/8","Backend":{"Type":"`+kind+`"}}`)
	operator, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop()})
	require.NoError(b, err)
	b.Cleanup(func() { _ = operator.Close() })
	granted, err := operator.Grant(b.Context(), 24*60*60)
	require.NoError(b, err)
	c := crowded{operator: operator, alive: granted.ID}
	for i := 0; i < crowd; i += 100 { // 128 operations are the most
		var puts []clientv3.Op
		for n := range 100 {
			_, key, value := c.lease(b, kind, i+n)
			puts = append(puts, clientv3.OpPut(key, value, clientv3.WithLease(c.alive)))
		}
		_, err := operator.Txn(b.Context()).Then(puts...).Commit()
		require.NoError(b, err)
	}
	f := testnet.NewFabric(b, testnet.FabricConfig{Nodes: 1, Outside: true, V4: netip.MustParsePrefix("172.16.0.0/12")})
	c.agent = newAgent(b, f.Nodes[0], "here", url)
	c.agent.args = append(c.agent.args, "--log-level=warn")
	c.agent.program = buildDaemon(b)
	return c
}

// buildDaemon builds the program that users run: what tests bring along is in this one's memory too.
func buildDaemon(b *testing.B) (program string) {
	b.Helper()
	program = filepath.Join(b.TempDir(), "podweft-flannel")
	out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", program, "../cmd/podweft-flannel").CombinedOutput()
	require.NoError(b, err, "%s", out)
	return program
}

// lease is what a node that is not there has in etcd.
func (c crowded) lease(b *testing.B, kind string, i int) (own netip.Prefix, key, value string) {
	b.Helper()
	own = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(1 + i>>8), byte(i), 0}), 24)
	v := map[string]any{
		"PublicIP": netip.AddrFrom4([4]byte{172, 16, byte(1 + i>>8), byte(i)}), "PublicIPv6": nil, "BackendType": kind, "Node": fmt.Sprint("peer-", i),
	}
	if kind == vxlan.Type {
		v["BackendData"] = vxlan.LeaseData{VNI: 1, VtepMAC: podweft.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}}
	}
	text, err := json.Marshal(v)
	require.NoError(b, err)
	return own, etcd.DefaultPrefix + "/subnets/" + strings.ReplaceAll(own.String(), "/", "-"), string(text)
}

// startEtcdProcess starts the system's etcd where there is one, else ours.
func startEtcdProcess(b *testing.B) (url string) {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "podweft-bench-")
	require.NoError(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	url = loopback.FreeURL(b)
	peers := loopback.FreeURL(b)
	cmd := exec.Command("etcd", "--data-dir", dir, "--listen-client-urls", url, "--advertise-client-urls", url,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers)
	if cmd.Err != nil {
		config, err := json.Marshal(embedded.Config{Dir: dir, Client: url})
		require.NoError(b, err)
		cmd = exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleVar+"="+etcdRole, etcdVar+"="+string(config))
	}
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	serving(b, url)
	return url
}

// BenchmarkStart is a daemon's start in a cluster of 5,000: from the process to the subnet file, when every peer is in the
// kernel. It tells the process's memory too.
func BenchmarkStart(b *testing.B) {
	for _, kind := range []string{"vxlan", "host-gw"} {
		b.Run(kind, func(b *testing.B) {
			a := newCrowded(b, kind).agent
			for b.Loop() {
				a.start()
				a.ready()
				b.StopTimer()
				time.Sleep(time.Second) // it gives back what the start took
				b.ReportMetric(rss(b, a), "MiB")
				require.NoError(b, a.kill(syscall.SIGTERM))
				out, err := a.command("cleanup").CombinedOutput()
				require.NoError(b, err, "%s", out[max(0, len(out)-500):])
				b.StartTimer()
			}
		})
	}
}

// BenchmarkPut is one new lease among 5,000, from etcd to the kernel: until the kernel tells of the peer's route, the last that it
// gets. The time counts from the call of Put, which etcd answers when the lease is written and, at about that moment, tells watchers
// of it; "ms/after-answer" counts from there. The daemon is at rest before each, for two changes within some milliseconds share a pass.
func BenchmarkPut(b *testing.B) {
	for _, kind := range []string{"vxlan", "host-gw"} {
		b.Run(kind, func(b *testing.B) {
			c := newCrowded(b, kind)
			c.agent.start()
			c.agent.ready()
			routes := routeEvents(b, c.agent.node)
			own, err := c.operator.Grant(b.Context(), 24*60*60) // etcd looks at all keys of a lease when there is one more
			require.NoError(b, err)
			var called, answered []time.Duration
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				time.Sleep(20 * time.Millisecond)
				dst, key, value := c.lease(b, kind, crowd+i%1000)
				b.StartTimer()
				call := time.Now()
				_, err := c.operator.Put(b.Context(), key, value, clientv3.WithLease(own.ID))
				answer := time.Now()
				require.NoError(b, err)
				done := routes.next(b, unix.RTM_NEWROUTE, dst)
				b.StopTimer()
				called, answered = append(called, done.Sub(call)), append(answered, done.Sub(answer))
				_, err = c.operator.Delete(b.Context(), key)
				require.NoError(b, err)
				routes.next(b, unix.RTM_DELROUTE, dst)
				b.StartTimer()
			}
			b.ReportMetric(median(called), "ms/put")
			b.ReportMetric(rss(b, c.agent), "MiB")
			b.ReportMetric(median(answered), "ms/after-answer")
		})
	}
}

// BenchmarkBarePut is the part of BenchmarkPut that is etcd's, the machine's and the client's: until a client that does nothing has the
// event.
func BenchmarkBarePut(b *testing.B) {
	c := newCrowded(b, vxlan.Type)
	watcher, err := clientv3.New(clientv3.Config{Endpoints: c.operator.Endpoints(), Logger: zap.NewNop()})
	require.NoError(b, err)
	defer watcher.Close()
	events := watcher.Watch(b.Context(), etcd.DefaultPrefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-events
	own, err := c.operator.Grant(b.Context(), 24*60*60)
	require.NoError(b, err)
	var called []time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		time.Sleep(20 * time.Millisecond)
		_, key, value := c.lease(b, vxlan.Type, crowd+i%1000)
		b.StartTimer()
		call, seen := time.Now(), make(chan time.Time)
		go func() {
			<-events
			seen <- time.Now()
		}()
		_, err := c.operator.Put(b.Context(), key, value, clientv3.WithLease(own.ID))
		require.NoError(b, err)
		called = append(called, (<-seen).Sub(call))
		b.StopTimer()
		_, err = c.operator.Delete(b.Context(), key)
		require.NoError(b, err)
		<-events
		b.StartTimer()
	}
	b.ReportMetric(median(called), "ms/put")
}

// median is that of some times, in milliseconds.
func median(times []time.Duration) float64 {
	slices.Sort(times)
	return float64(times[len(times)/2].Microseconds()) / 1000
}

// events are what a kernel tells of its routes, and when.
type events chan struct {
	update netlink.RouteUpdate
	at     time.Time
}

func routeEvents(tb testing.TB, n *testnet.Node) events {
	tb.Helper()
	updates, done := make(chan netlink.RouteUpdate, 16), make(chan struct{})
	require.NoError(tb, n.Do(func() error { return netlink.RouteSubscribe(updates, done) }))
	tb.Cleanup(func() { close(done) })
	all := make(events, crowd)
	go func() {
		for u := range updates {
			all <- struct {
				update netlink.RouteUpdate
				at     time.Time
			}{u, time.Now()}
		}
	}()
	return all
}

// next waits for what becomes of the route to dst, and returns when it did.
func (e events) next(tb testing.TB, kind uint16, dst netip.Prefix) time.Time {
	tb.Helper()
	late := time.After(patience)
	for {
		select {
		case one := <-e:
			if one.update.Type == kind && one.update.Dst != nil && one.update.Dst.String() == dst.String() {
				return one.at
			}
		case <-late:
			require.FailNow(tb, "the kernel has told nothing of "+dst.String())
		}
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
