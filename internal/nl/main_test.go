package nl

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// patience is how long tests wait for what takes milliseconds: the kernel has one lock for the links of all namespaces, which
// tests of other packages may hold for long.
const patience = 20 * time.Second

// protocol marks the routes and nexthops that tests make.
const protocol = 250

// newNode is a machine with a link eth0 that has a carrier, and a Conn to it.
func newNode(t testing.TB) (n *testnet.Node, c *Conn, eth0 int) {
	t.Helper()
	n = testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1}).Nodes[0]
	c = dial(t, n)
	l, err := c.Link("eth0")
	require.NoError(t, err)
	return n, c, l.Index
}

func dial(t testing.TB, n *testnet.Node) *Conn {
	t.Helper()
	c, err := Dial(n.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// do sends a batch of what fill puts in.
func (c *Conn) do(t testing.TB, fill func(b *Batch)) []error {
	t.Helper()
	var b Batch
	fill(&b)
	return c.Do(t.Context(), &b)
}

// routeTo is a route over the link to the i-th /24 of 10.0.0.0/8 or /64 of fd00::/32.
func routeTo(i, link int, v6 bool) Route {
	p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
	if v6 {
		p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 6: byte(i >> 8), 7: byte(i)}), 64)
	}
	return Route{RouteKey: RouteKey{Table: TableMain, Prefix: p}, Protocol: protocol, Type: unix.RTN_UNICAST, Link: link}
}

// listed returns the routes that tests made, as they are listed once.
func (c *Conn) listed(t testing.TB) map[RouteKey]Route {
	t.Helper()
	all := map[RouteKey]Route{}
	require.NoError(t, c.Routes(t.Context(), func() { clear(all) }, func(r Route) {
		if r.Protocol == protocol {
			all[r.RouteKey] = r
		}
	}))
	return all
}
