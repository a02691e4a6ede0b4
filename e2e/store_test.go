package e2e

import (
	"context"
	"flag"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/e2e/cluster"
	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/storetest"
	"github.com/podweft/podweft/testnet"
)

var nodes = flag.Int("nodes", 600, "how many nodes are many: more than fit in a page")

func TestMain(m *testing.M) { testnet.Main(m) }

// TestStore is about the store in Kubernetes. All of it shares an API server, and begins without nodes.
func TestStore(t *testing.T) {
	c := cluster.Start(t, nil)
	for _, tt := range []struct {
		name string
		test func(*testing.T, *cluster.Cluster)
	}{
		{"promises", promises},
		{"rights", rights},
		{"operators", operators},
		{"hostile nodes", hostileNodes},
		{"many nodes", manyNodes},
		{"node without a subnet", nodeWithoutSubnet},
		{"API server away", serverAway},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Cleanup(c.DeleteNodes)
			tt.test(t, c)
		})
	}
}

// newStore returns a Store that ends with the test.
func newStore(t *testing.T, cfg kube.Config) *kube.Store {
	t.Helper()
	s, err := kube.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// promises: the store keeps a Store's, but for those about the choice of a subnet, which is the cluster's.
func promises(t *testing.T, c *cluster.Cluster) {
	var cfg kube.Config // of the store that was made last: each test makes one
	storetest.Run(t, storetest.Config{
		New: func(t *testing.T, n *subnet.Network) subnet.Store {
			t.Cleanup(c.DeleteNodes)
			cfg = kube.Config{Client: c.Admin(), Network: n}
			return newStore(t, cfg)
		},
		Another: func(t *testing.T, _ subnet.Store) subnet.Store { return newStore(t, cfg) },
		Give: func(_ *testing.T, _ subnet.Store, node string, p subnet.Prefixes) {
			var podCIDRs []string
			for prefix := range p.All() {
				podCIDRs = append(podCIDRs, prefix.String())
			}
			c.AddNode(node, podCIDRs...)
		},
	})
}

func network(t *testing.T) *subnet.Network {
	t.Helper()
	n, err := subnet.ParseNetwork([]byte(`{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "host-gw"}}`))
	require.NoError(t, err)
	return n
}

// addNode makes a Node with subnets of both families.
func addNode(c *cluster.Cluster, number int) string {
	name := fmt.Sprintf("node-%d", number)
	c.AddNode(name, fmt.Sprintf("10.244.%d.0/24", number), subnetV6(number))
	return name
}

func subnetV6(number int) string {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 2, 0x44, 6: byte(number >> 8), 7: byte(number)}), 64).String()
}

// underlay is what a node would publish.
func underlay(number int) subnet.Addrs {
	return subnet.Addrs{V4: netip.AddrFrom4([4]byte{192, 0, 2, byte(number)}), V6: netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 15: byte(number)})}
}

func acquire(t *testing.T, s *kube.Store, number int) *subnet.Lease {
	t.Helper()
	l, err := s.Acquire(t.Context(), subnet.Claim{Node: fmt.Sprintf("node-%d", number), Underlay: underlay(number), Backend: "host-gw"})
	require.NoError(t, err)
	return l
}

// watched is a watch that a test looks at when it wants to.
type watched struct {
	t    *testing.T
	next func() (*subnet.Snapshot, error, bool)
	last *subnet.Snapshot
}

func watch(t *testing.T, s subnet.Store) *watched {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience) // a snapshot that never comes ends the watch
	next, stop := iter.Pull2(s.Watch(ctx))
	t.Cleanup(func() {
		cancel()
		stop()
	})
	return &watched{t: t, next: next}
}

// until returns the first snapshot that is as wanted.
func (w *watched) until(what string, wanted func(*subnet.Snapshot) bool) *subnet.Snapshot {
	w.t.Helper()
	for w.last == nil || !wanted(w.last) {
		s, err, ok := w.next()
		require.True(w.t, ok, "the watch ended before it showed %s", what)
		require.NoError(w.t, err)
		w.last = s
	}
	return w.last
}

func at(node string, want subnet.Addrs) func(*subnet.Snapshot) bool {
	return func(s *subnet.Snapshot) bool { return s.Lease(node) != nil && s.Lease(node).Underlay == want }
}

// rights: those that the package's comment names are enough, and without them it is said what is missing.
func rights(t *testing.T, c *cluster.Cluster) {
	m := c.ApplyManifest("../examples/flannel/deploy/podweft-flannel.yml")
	name := addNode(c, 1)
	pod := c.AddPod(m, name)
	s := newStore(t, kube.Config{Client: c.As(c.Token("kube-system", "flannel")), Network: network(t)})

	l := acquire(t, s, 1)
	assert.Equal(t, "10.244.1.0/24, fd00:244:0:1::/64", l.Prefixes.String())
	on, err := s.NodeOf(t.Context(), "kube-system", pod)
	require.NoError(t, err)
	assert.Equal(t, name, on)
	watch(t, s).until("the lease", at(name, underlay(1)))
	_, err = s.Renew(t.Context(), l)
	require.NoError(t, err)

	require.NoError(t, s.SetNetworkAvailable(t.Context(), name, "FlannelIsUp", "Flannel is running on this node"))
	require.NoError(t, available(c.Node(name)))
	before := c.Node(name).ResourceVersion
	require.NoError(t, s.SetNetworkAvailable(t.Context(), name, "FlannelIsUp", "Flannel is running on this node"))
	acquire(t, s, 1)
	assert.Equal(t, before, c.Node(name).ResourceVersion, "what is there already is not written again")

	require.NoError(t, s.Release(t.Context(), l))
	assert.Empty(t, c.Node(name).Annotations)

	nobody := newStore(t, kube.Config{Client: c.As(c.Token("kube-system", c.AddAccount("kube-system", "nobody"))), Network: network(t)})
	_, err = nobody.Acquire(t.Context(), subnet.Claim{Node: name})
	assert.True(t, apierrors.IsForbidden(err), "%v", err)
	assert.ErrorContains(t, err, `cannot list resource "nodes"`)
	for _, err := range nobody.Watch(t.Context()) {
		assert.True(t, apierrors.IsForbidden(err), "%v", err)
	}
}

// operators: what they write counts, and a change of either family is seen.
func operators(t *testing.T, c *cluster.Cluster) {
	s := newStore(t, kube.Config{Client: c.Admin(), Network: network(t)})
	name := addNode(c, 1)
	c.Annotate(name, map[string]any{annotation + "node-public-ip": "192.0.2.77", annotation + "public-ip-overwrite": "203.0.113.7"})
	chosen, err := s.NodePublicIP(t.Context(), name)
	require.NoError(t, err)
	assert.Equal(t, "192.0.2.77", chosen.String())
	_, err = s.NodePublicIP(t.Context(), "node-99")
	require.ErrorIs(t, err, kube.ErrNoSubnet)

	l := acquire(t, s, 1)
	told := subnet.Addrs{V4: netip.MustParseAddr("203.0.113.7"), V6: underlay(1).V6}
	assert.Equal(t, told, l.Underlay)
	w := watch(t, s)
	w.until("what peers are told", at(name, told))
	c.Annotate(name, map[string]any{annotation + "public-ipv6": "2001:db8::77"})
	told.V6 = netip.MustParseAddr("2001:db8::77")
	w.until("a change of IPv6 alone", at(name, told))
	c.Annotate(name, map[string]any{annotation + "public-ip": "192.0.2.9"})
	told.V4 = netip.MustParseAddr("192.0.2.9")
	before := w.until("a change of IPv4 alone", at(name, told))

	// What the kubelet writes is nobody's business; what is seen next is the change after it.
	c.PatchNode(name, `{"status": {"nodeInfo": {"kernelVersion": "6.18"}}}`, "status")
	addNode(c, 2)
	acquire(t, s, 2)
	shown, err, ok := w.next()
	require.True(t, ok)
	require.NoError(t, err)
	require.NotNil(t, shown.Lease("node-2"), "a snapshot without news: %v", shown)
	assert.Same(t, before.Lease(name), shown.Lease(name))
}

// hostileNodes: what makes no sense is reported and costs nobody anything.
func hostileNodes(t *testing.T, c *cluster.Cluster) {
	s := newStore(t, kube.Config{Client: c.Admin(), Network: network(t)})
	for i := range 4 {
		addNode(c, i)
	}
	acquire(t, s, 1)
	acquire(t, s, 2)
	w := watch(t, s)
	w.until("two leases", func(s *subnet.Snapshot) bool { return len(s.Leases) == 2 })
	bad := strings.Repeat("[", 100_000)
	c.Annotate("node-2", map[string]any{annotation + "backend-data": bad, annotation + "public-ip": "::ffff:1.2.3.4", annotation + "public-ipv6": "fe80::1%eth0"})
	c.Annotate("node-3", map[string]any{annotation + "kube-subnet-manager": "true", annotation + "public-ip": "127.0.0.1", annotation + "backend-type": bad})
	shown := w.until("node-3", func(s *subnet.Snapshot) bool { return s.Lease("node-3") != nil && len(s.Problems) > 0 })
	for _, p := range shown.Problems {
		assert.Equal(t, "node-2", p.Node)
		assert.ErrorIs(t, p, podweft.ErrInvalid)
		assert.Less(t, len(p.Error()), 500)
	}
	assert.Len(t, shown.Problems, 3)
	peers, problems := shown.Peers("node-0")
	require.Len(t, peers, 1)
	assert.Equal(t, "node-1", peers[0].Node)
	assert.NotEmpty(t, problems)
	acquire(t, s, 2)
	w.until("the lease as it should be", at("node-2", underlay(2)))
	assert.Empty(t, w.last.Problems)
}

// manyNodes: each has as much ballast as a real one has images and conditions.
func manyNodes(t *testing.T, c *cluster.Cluster) {
	count := *nodes
	s := newStore(t, kube.Config{Client: c.Admin(), Network: network(t)})
	c.AddNodes(count, func(i int) (string, []string, map[string]string) {
		return fmt.Sprintf("node-%04d", i), []string{fmt.Sprintf("10.244.%d.%d/29", i/32, i%32*8), subnetV6(i)}, map[string]string{
			annotation + "kube-subnet-manager": "true", annotation + "backend-type": "host-gw",
			annotation + "public-ipv6": fmt.Sprintf("2001:db8::1:%x", i), "ballast": strings.Repeat("x", 10_000),
		}
	})
	begun := time.Now()
	w := watch(t, s)
	shown := w.until("all", func(*subnet.Snapshot) bool { return true })
	took := time.Since(begun)
	require.Len(t, shown.Leases, count)
	t.Logf("%d nodes listed in %s", count, took.Round(time.Millisecond))
	peers, problems := shown.Peers("node-0000")
	assert.Len(t, peers, count-1)
	assert.Empty(t, problems)
}

// nodeWithoutSubnet: a Hold waits for a node that the cluster gives a subnet late, and keeps to the one that it has.
func nodeWithoutSubnet(t *testing.T, c *cluster.Cluster) {
	s := newStore(t, kube.Config{Client: c.Admin(), Network: network(t)})
	_, err := s.Acquire(t.Context(), subnet.Claim{Node: "node-7"})
	require.ErrorIs(t, err, kube.ErrNoSubnet)
	c.AddNode("node-7")
	_, err = s.Acquire(t.Context(), subnet.Claim{Node: "node-7"})
	require.ErrorIs(t, err, kube.ErrNoSubnet)
	assert.ErrorContains(t, err, "--allocate-node-cidrs")

	hold, err := subnet.NewHold(subnet.HoldConfig{Store: s, Claim: subnet.Claim{Node: "node-7", Underlay: underlay(7), Backend: "host-gw"}})
	require.NoError(t, err)
	time.AfterFunc(300*time.Millisecond, func() {
		c.PatchNode("node-7", `{"spec": {"podCIDR": "10.244.7.0/24", "podCIDRs": ["10.244.7.0/24", "fd00:244:0:7::/64"]}}`)
	})
	l, err := hold.Acquire(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "10.244.7.0/24, fd00:244:0:7::/64", l.Prefixes.String())

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- hold.Run(ctx) }()
	observe := func(what string, wanted func(*subnet.Snapshot) bool) {
		w := watch(t, s)
		w.until(what, func(s *subnet.Snapshot) bool {
			hold.Observe(s)
			return wanted(s)
		})
	}
	c.Annotate("node-7", map[string]any{annotation + "kube-subnet-manager": nil, annotation + "public-ip": nil})
	observe("the lease again", at("node-7", underlay(7)))

	// A Node that is made anew with another subnet is not the one whose pods run here.
	c.DeleteNode("node-7")
	c.AddNode("node-7", "10.244.8.0/24", "fd00:244:0:8::/64")
	observe("no lease", func(s *subnet.Snapshot) bool { return s.Lease("node-7") == nil })
	select {
	case err := <-ended:
		assert.ErrorIs(t, err, subnet.ErrLeaseLost)
	case <-time.After(patience):
		t.Error("the Hold goes on with a subnet that is not the node's")
	}
	cancel()
}

// serverAway: a watch outlives the API server, and what came while it was away is seen when it is back.
func serverAway(t *testing.T, c *cluster.Cluster) {
	s := newStore(t, kube.Config{Client: c.Admin(), Network: network(t)})
	addNode(c, 1)
	addNode(c, 2)
	l := acquire(t, s, 1)
	w := watch(t, s)
	before := w.until("the lease", at("node-1", underlay(1)))
	c.StopServer()
	_, err := s.Renew(t.Context(), l)
	require.Error(t, err)
	require.NotErrorIs(t, err, subnet.ErrLeaseLost, "nobody knows")
	require.NotErrorIs(t, err, podweft.ErrInvalid)
	c.StartServer()
	acquire(t, s, 2)
	shown := w.until("what came afterwards", at("node-2", underlay(2)))
	assert.Same(t, before.Lease("node-1"), shown.Lease("node-1"), "what did not change is the same lease")
	c.DeleteNode("node-1")
	w.until("a node that left", func(s *subnet.Snapshot) bool { return s.Lease("node-1") == nil })
}
