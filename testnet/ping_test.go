package testnet_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
)

func TestThousandsOfPingsAtOnce(t *testing.T) {
	f := testnet.NewFabric(t, testnet.FabricConfig{})
	p := pinger(t, f.Nodes[0])
	var all sync.WaitGroup
	for range 2000 {
		for _, to := range f.Nodes[1].Addrs() {
			all.Go(func() { assert.NoError(t, pingOnce(t.Context(), p, to)) })
		}
	}
	all.Wait()
}

func TestTwoPingersOfANode(t *testing.T) {
	f := testnet.NewFabric(t, testnet.FabricConfig{})
	a, b := pinger(t, f.Nodes[0]), pinger(t, f.Nodes[0])
	var all sync.WaitGroup
	for range 200 {
		for _, p := range []*testnet.Pinger{a, b} {
			for _, to := range f.Nodes[1].Addrs() {
				all.Go(func() { assert.NoError(t, pingOnce(t.Context(), p, to)) })
			}
		}
	}
	all.Wait()
}

func TestPingFrom(t *testing.T) {
	f := testnet.NewFabric(t, testnet.FabricConfig{})
	second := map[bool]netip.Prefix{
		true: netip.MustParsePrefix("192.0.2.77/24"), false: netip.MustParsePrefix("2001:db8::77/64"),
	}
	for _, to := range f.Nodes[1].Addrs() {
		from := second[to.Is4()]
		addAddress(t, f.Nodes[0], "eth0", from)
		c := capture(t, f.Nodes[1], "eth0")
		_, err := f.Nodes[0].Echo(t.Context(), to, testnet.Echo{From: from.Addr()})
		require.NoError(t, err)
		n, err := c.Count(func(p testnet.Packet) bool { return isEchoRequest(p) && source(p) == from.Addr() })
		require.NoError(t, err)
		assert.Equal(t, 1, n)
	}
}

func TestPingFails(t *testing.T) {
	f := testnet.NewFabric(t, testnet.FabricConfig{})
	n := f.Nodes[0]
	absent := map[bool]netip.Addr{true: netip.MustParseAddr("192.0.2.99"), false: netip.MustParseAddr("2001:db8::99")}
	elsewhere := map[bool]netip.Prefix{
		true: netip.MustParsePrefix("198.51.100.0/24"), false: netip.MustParsePrefix("2001:db8:5::/64"),
	}
	p := pinger(t, n)
	for _, peer := range f.Nodes[1].Addrs() {
		v4 := peer.Is4()
		t.Run(map[bool]string{true: "v4", false: "v6"}[v4], func(t *testing.T) {
			beyond := elsewhere[v4].Addr().Next()
			_, err := p.Ping(t.Context(), beyond)
			assert.EqualError(t, err, "ping "+beyond.String()+" from node1: network is unreachable")
			assert.ErrorIs(t, err, unix.ENETUNREACH)

			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err = p.Ping(ctx, absent[v4])
			assert.EqualError(t, err, "ping "+absent[v4].String()+" from node1: no answer: context deadline exceeded")
			assert.ErrorIs(t, err, context.DeadlineExceeded)

			// The peer forwards, but knows no way either, and says so.
			forward(t, f.Nodes[1], v4)
			addRoute(t, n, elsewhere[v4], peer)
			_, err = p.Ping(t.Context(), beyond)
			assert.ErrorIs(t, err, unix.ENETUNREACH)
			assert.ErrorContains(t, err, "network is unreachable, says "+peer.String())

			_, err = p.Echo(t.Context(), peer, testnet.Echo{From: absent[!v4]})
			assert.ErrorIs(t, err, podweft.ErrInvalid)
			_, err = p.Echo(t.Context(), peer, testnet.Echo{From: absent[v4]})
			assert.Error(t, err, "not an address of the node")
			_, err = p.Echo(t.Context(), peer, testnet.Echo{Size: 35})
			assert.ErrorIs(t, err, podweft.ErrInvalid)
		})
	}
	_, err := p.Ping(t.Context(), netip.MustParseAddr("fe80::1%eth0"))
	assert.ErrorIs(t, err, podweft.ErrInvalid)
}

func TestCloseEndsPings(t *testing.T) {
	f := testnet.NewFabric(t, testnet.FabricConfig{})
	p, err := f.Nodes[0].Pinger()
	require.NoError(t, err)
	c := capture(t, f.Nodes[0], "eth0")
	result := make(chan error, 1)
	go func() {
		_, err := p.Ping(t.Context(), netip.MustParseAddr("192.0.2.99"))
		result <- err
	}()
	_, err = c.Next(t.Context()) // the ARP request: it is under way
	require.NoError(t, err)
	require.NoError(t, p.Close())
	assert.ErrorIs(t, <-result, net.ErrClosed)
	_, err = p.Ping(t.Context(), f.Nodes[1].V4)
	assert.ErrorIs(t, err, net.ErrClosed)
}

func pinger(t *testing.T, n *testnet.Node) *testnet.Pinger {
	t.Helper()
	p, err := n.Pinger()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	return p
}

func addAddress(t *testing.T, n *testnet.Node, link string, p netip.Prefix) {
	t.Helper()
	require.NoError(t, n.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD})
	}))
}

func addRoute(t *testing.T, n *testnet.Node, to netip.Prefix, via netip.Addr) {
	t.Helper()
	require.NoError(t, n.Do(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()})
	}))
}

func forward(t *testing.T, n *testnet.Node, v4 bool) {
	t.Helper()
	key := map[bool]string{true: "ipv4/ip_forward", false: "ipv6/conf/all/forwarding"}[v4]
	require.NoError(t, n.Do(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte("1"), 0) }))
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
