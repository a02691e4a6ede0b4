package embedded_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/podweft/podweft/examples/flannel/embedded"
	"github.com/podweft/podweft/examples/internal/loopback"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/etcd"
)

const patience = 60 * time.Second

func parse(t testing.TB, conf string) *subnet.Network {
	t.Helper()
	n, err := subnet.ParseNetwork([]byte(conf))
	require.NoError(t, err)
	return n
}

func claim(i int) subnet.Claim {
	return subnet.Claim{Node: fmt.Sprintf("node-%d", i), Backend: "host-gw", Underlay: subnet.Addrs{V4: netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})}}
}

// follower runs a Feed, which the Holds hear too; what it saw last is asked for with until.
type follower struct {
	t    testing.TB
	mu   sync.Mutex
	last *subnet.Snapshot
}

func follow(t testing.TB, s subnet.Store, holds ...*subnet.Hold) *follower {
	f := &follower{t: t}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for snap := range subnet.NewFeed(subnet.FeedConfig{Store: s}).Snapshots(ctx) {
			f.mu.Lock()
			f.last = snap
			f.mu.Unlock()
			for _, h := range holds {
				h.Observe(snap)
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return f
}

func (f *follower) until(what string, wanted func(*subnet.Snapshot) bool) {
	f.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		last := f.last
		f.mu.Unlock()
		if last != nil && wanted(last) {
			return
		}
		require.True(f.t, time.Now().Before(deadline), "not seen: %s, but %+v", what, last)
	}
}

func has(node string) func(*subnet.Snapshot) bool {
	return func(s *subnet.Snapshot) bool { return s.Lease(node) != nil }
}

const sixteen = `{"Network":"10.244.0.0/16"}`

// TestOutage: etcd is killed and comes back; what was claimed stays, and the watch goes on.
func TestOutage(t *testing.T) {
	cfg := embedded.Config{Dir: t.TempDir(), Client: loopback.FreeURL(t)}
	server := startMember(t, cfg)
	p := place{server: cfg.Client, prefix: "/outage", operator: operator(t, cfg.Client)}
	p.configure(t, parse(t, sixteen))
	s := p.store(t, cfg.Client)
	hold, err := subnet.NewHold(subnet.HoldConfig{Store: s, Claim: claim(1)})
	require.NoError(t, err)
	l, err := hold.Acquire(t.Context())
	require.NoError(t, err)
	seen := follow(t, s)
	seen.until("the lease", has("node-1"))

	server.kill()
	time.Sleep(time.Second)
	server = startMember(t, cfg)
	_, err = p.store(t, cfg.Client).Acquire(t.Context(), claim(2))
	for err != nil {
		require.NoError(t, t.Context().Err())
		_, err = s.Acquire(t.Context(), claim(2))
	}
	seen.until("a lease from after the outage", has("node-2"))
	again, err := s.Renew(t.Context(), l)
	require.NoError(t, err)
	assert.Equal(t, l.Prefixes, again.Prefixes)
	server.kill()
}

// TestDataLost: etcd comes back without its data. The node claims the subnet that it has, and the watch shows what is there now,
// not what it knew.
func TestDataLost(t *testing.T) {
	cfg := embedded.Config{Dir: t.TempDir(), Client: loopback.FreeURL(t)}
	server := startMember(t, cfg)
	p := place{server: cfg.Client, prefix: "/lost", operator: operator(t, cfg.Client)}
	p.configure(t, parse(t, sixteen))
	s := p.store(t, cfg.Client)
	hold, err := subnet.NewHold(subnet.HoldConfig{Store: s, Claim: claim(1)})
	require.NoError(t, err)
	before, err := hold.Acquire(t.Context())
	require.NoError(t, err)
	for i := 2; i < 9; i++ { // so that the revision is high
		_, err := s.Acquire(t.Context(), claim(i))
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	runs.Go(func() { assert.NoError(t, hold.Run(ctx)) })
	defer runs.Wait()
	defer cancel()
	seen := follow(t, s, hold)
	seen.until("all leases", has("node-8"))

	server.kill()
	require.NoError(t, os.RemoveAll(cfg.Dir))
	startMember(t, cfg)
	p.operator = operator(t, cfg.Client)
	p.configure(t, parse(t, sixteen))
	seen.until("our lease alone", func(snap *subnet.Snapshot) bool { return len(snap.Leases) == 1 && has("node-1")(snap) })
	assert.Equal(t, before.Prefixes, hold.Lease().Prefixes)
	_, err = p.store(t, cfg.Client).Acquire(t.Context(), claim(9))
	require.NoError(t, err)
	seen.until("a lease from after the loss", has("node-9"))
}

// TestLeaderLost: of three members the leader is stopped, as by a frozen machine; the other two go on.
func TestLeaderLost(t *testing.T) {
	members := make([]embedded.Config, 3)
	cluster := ""
	var endpoints []string
	for i := range members {
		members[i] = embedded.Config{Name: fmt.Sprint("m", i), Dir: t.TempDir(), Client: loopback.FreeURL(t), Peer: loopback.FreeURL(t)}
		cluster += fmt.Sprintf(",%s=%s", members[i].Name, members[i].Peer)
		endpoints = append(endpoints, members[i].Client)
	}
	processes := map[string]*process{}
	for _, m := range members {
		m.Cluster = cluster[1:]
		processes[m.Client] = startMember(t, m)
	}
	op := operator(t, endpoints[0])
	put(t, op, "/leader/config", sixteen)
	s, err := etcd.New(etcd.Config{Endpoints: endpoints, Prefix: "/leader", Timeout: time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	acquire := func(c subnet.Claim) { // on a busy machine the members may be electing a leader at any time
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
			if _, err = s.Acquire(t.Context(), c); err == nil {
				return
			}
			require.True(t, time.Now().Before(deadline), "no claim: %v", err)
		}
	}
	acquire(claim(1))
	seen := follow(t, s)
	seen.until("the first lease", has("node-1"))

	var leader *process
	for deadline := time.Now().Add(patience); leader == nil; {
		for _, url := range endpoints {
			status, err := operator(t, url).Status(t.Context(), url)
			require.NoError(t, err)
			if status.Leader == status.Header.MemberId {
				leader = processes[url]
			}
		}
		require.True(t, time.Now().Before(deadline), "nobody leads")
	}
	require.NoError(t, leader.cmd.Process.Signal(syscall.SIGKILL))
	acquire(claim(2))
	seen.until("a lease under the new leader", has("node-2"))
}

// TestStop: a server that is stopped does not wait until its clients end their watches, and a client goes on with the watch that it has
// when the server is back.
func TestStop(t *testing.T) {
	cfg := embedded.Config{Dir: t.TempDir(), Client: loopback.FreeURL(t)}
	server, err := embedded.Start(t.Context(), cfg)
	require.NoError(t, err)
	p := place{server: cfg.Client, prefix: "/stop", operator: operator(t, cfg.Client)}
	p.configure(t, parse(t, sixteen))
	s := p.store(t, cfg.Client)
	feed := subnet.NewFeed(subnet.FeedConfig{Store: s})
	snaps := make(chan *subnet.Snapshot, 16)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for snap := range feed.Snapshots(ctx) {
			snaps <- snap
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)
	<-snaps

	watch, err := etcdserverpb.NewWatchClient(p.operator.ActiveConnection()).Watch(t.Context())
	require.NoError(t, err)
	require.NoError(t, watch.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte(p.prefix)},
	}}))
	_, err = watch.Recv()
	require.NoError(t, err)
	server.Stop()
	_, err = watch.Recv()
	assert.ErrorContains(t, err, "etcd is stopping", "the watch was cut off, which is what etcd does when it has waited for its end in vain")

	server, err = embedded.Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(server.Stop)
	deadline := time.Now().Add(patience)
	for _, err = s.Acquire(t.Context(), claim(1)); err != nil; _, err = s.Acquire(t.Context(), claim(1)) {
		require.True(t, time.Now().Before(deadline), "no claim: %v", err)
		time.Sleep(20 * time.Millisecond)
	}
	for snap := range snaps {
		if snap.Lease("node-1") != nil {
			break
		}
	}
	assert.Zero(t, feed.Status().Restarts, "all leases were listed again")
}

// TestByHand: what people and strangers do to the keys.
func TestByHand(t *testing.T) {
	url := startEmbedded(t)
	p := place{server: url, prefix: "/hand", operator: operator(t, url)}
	p.configure(t, parse(t, sixteen))
	s := p.store(t, url)
	for key, value := range map[string]string{"hello": "world", "10.244.9.0-24": "{", "10.244.300.0-24": "{}", "10.244.8.0-24": `{"PublicIP":"x"}`} {
		put(t, p.operator, p.prefix+"/subnets/"+key, value)
	}
	put(t, p.operator, p.prefix+"/subnets/10.244.7.0-24", `{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendType":"host-gw"}`)
	hold, err := subnet.NewHold(subnet.HoldConfig{Store: s, Claim: claim(1)})
	require.NoError(t, err)
	l, err := hold.Acquire(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- hold.Run(ctx) }()
	for snap, err := range s.Watch(t.Context()) {
		require.NoError(t, err)
		assert.Len(t, snap.Problems, 4)
		require.Len(t, snap.Leases, 2, "ours, and the one that an operator made to last")
		break
	}
	key := p.prefix + "/subnets/" + l.Key
	_, err = p.operator.Delete(t.Context(), key)
	require.NoError(t, err)
	gone := 0
	for snap, err := range s.Watch(t.Context()) { // the Hold hears of it as a node tells it, and takes the subnet again
		require.NoError(t, err)
		hold.Observe(snap)
		if again := snap.Lease("node-1"); again != nil {
			assert.Equal(t, l.Prefixes, again.Prefixes)
			break
		}
		gone++
	}
	assert.LessOrEqual(t, gone, 1)

	// Without our hands on it, another node takes what was ours: that is the end, said in so many words.
	put(t, p.operator, key, `{"PublicIP":"192.0.2.99","PublicIPv6":null,"BackendType":"host-gw"}`)
	for snap, err := range s.Watch(t.Context()) {
		require.NoError(t, err)
		hold.Observe(snap)
		break
	}
	require.ErrorIs(t, <-ended, subnet.ErrLeaseLost)
	cancel()
}

// BenchmarkThousandNodes: a cluster's nodes start at one moment, each with a connection of its own.
func BenchmarkThousandNodes(b *testing.B) {
	const nodes = 1000
	url := startEmbedded(b)
	op := operator(b, url)
	for round := 0; b.Loop(); round++ {
		p := place{server: url, prefix: fmt.Sprint("/thousand", round), operator: op}
		p.configure(b, parse(b, `{"Network":"10.0.0.0/8"}`))
		var wg sync.WaitGroup
		var mu sync.Mutex
		got := map[subnet.Prefixes]bool{}
		for i := range nodes {
			wg.Go(func() {
				s, err := etcd.New(etcd.Config{Endpoints: []string{url}, Prefix: p.prefix})
				if !assert.NoError(b, err) {
					return
				}
				defer s.Close()
				hold, err := subnet.NewHold(subnet.HoldConfig{Store: s, Claim: claim(i)})
				if !assert.NoError(b, err) {
					return
				}
				l, err := hold.Acquire(b.Context())
				if !assert.NoError(b, err) {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				got[l.Prefixes] = true
			})
		}
		wg.Wait()
		assert.Len(b, got, nodes)
	}
}
