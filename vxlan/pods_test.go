package vxlan_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/testnet"
)

// newPods puts one pod behind each node of the overlay, on a bridge as package bridge makes it. mtu is that of its link.
func newPods(t testing.TB, o *overlay, mtu int) []*testnet.Node {
	t.Helper()
	var pods []*testnet.Node
	for i, n := range o.fabric.Nodes {
		forward(t, n)
		pod := testnet.NewNode(t, fmt.Sprintf("pod%d", i+1))
		attacher, err := bridge.New(bridge.Config{NetNS: n.NetNS()})
		require.NoError(t, err)
		var gateways, addrs []netip.Prefix
		for _, zero := range o.zeros(i) {
			gateway := zero.Addr().Next()
			gateways = append(gateways, netip.PrefixFrom(gateway, zero.Bits()))
			addrs = append(addrs, netip.PrefixFrom(gateway.Next(), zero.Bits()))
		}
		port := bridge.Port{Container: pod.Name, NetNS: pod.NetNS(), Addresses: addrs}
		_, err = attacher.Attach(t.Context(), bridge.Bridge{MTU: mtu, Gateways: gateways}, port)
		require.NoError(t, err)
		t.Cleanup(func() {
			require.NoError(t, attacher.Detach(context.Background(), port))
			require.NoError(t, attacher.Close())
		})
		pods = append(pods, pod)
	}
	return pods
}

func forward(t testing.TB, n *testnet.Node) {
	t.Helper()
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		require.NoError(t, sysctl.Ensure(n.NetNS(), key, "1"))
	}
}

// zeros are the pod subnets of node number i: those that its peers have a route to.
func (o *overlay) zeros(i int) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range o.specs[(i+1)%len(o.specs)].Peers {
		if p.Node == o.fabric.Nodes[i].Name {
			all = append(all, p.Prefixes...)
		}
	}
	return all
}

// podAddrs are the addresses of the pod behind node number i.
func (o *overlay) podAddrs(i int) []netip.Addr {
	var all []netip.Addr
	for _, zero := range o.zeros(i) {
		all = append(all, zero.Addr().Next().Next())
	}
	return all
}
