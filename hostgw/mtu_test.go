package hostgw_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/testnet"
)

// TestMTU sends packets that must not be fragmented from pod to pod: one as long as the published MTU arrives, one byte more is
// refused; by the pod's own link when that has the published MTU, by the node when it has a larger one.
func TestMTU(t *testing.T) {
	for _, underlay := range []int{1400, 1500, 9000} {
		_, published, err := hostgw.Publish(subnet.Node{MTU: underlay}, nil, subnet.Data{})
		require.NoError(t, err)
		for _, mtu := range []int{published, published + 100} {
			t.Run(fmt.Sprintf("underlay %d, pods %d", underlay, mtu), func(t *testing.T) {
				c := newCluster(t, testnet.FabricConfig{MTU: underlay})
				c.apply(t)
				pod, own := c.attach(t, 0, mtu)
				_, far := c.attach(t, 1, mtu)
				for i, to := range far {
					require.NoError(t, sabotage.Reach(t.Context(), pod, to, testnet.Echo{From: own[i]}))
					_, err := pod.Echo(t.Context(), to, testnet.Echo{Size: published, DontFragment: true})
					require.NoError(t, err, "%d bytes to %s", published, to)
					_, err = pod.Echo(t.Context(), to, testnet.Echo{Size: published + 1, DontFragment: true})
					require.ErrorIs(t, err, unix.EMSGSIZE, "%d bytes to %s", published+1, to)
				}
			})
		}
	}
}

// attach puts a pod behind node number i, on a bridge as package bridge makes it. mtu is that of its link.
func (c *cluster) attach(t *testing.T, i, mtu int) (pod *testnet.Node, addrs []netip.Addr) {
	t.Helper()
	n := c.fabric.Nodes[i]
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		require.NoError(t, sysctl.Ensure(n.NetNS(), key, "1"))
	}
	pod = testnet.NewNode(t, fmt.Sprintf("pod%d", i+1))
	attacher, err := bridge.New(bridge.Config{NetNS: n.NetNS()})
	require.NoError(t, err)
	b, port := bridge.Bridge{MTU: mtu}, bridge.Port{Container: pod.Name, NetNS: pod.NetNS()}
	for _, a := range n.Addrs() {
		prefix := podSubnet(i, a)
		gateway := prefix.Addr().Next().Next() // the first is on lo
		b.Gateways = append(b.Gateways, netip.PrefixFrom(gateway, prefix.Bits()))
		port.Addresses = append(port.Addresses, netip.PrefixFrom(gateway.Next(), prefix.Bits()))
		addrs = append(addrs, gateway.Next())
	}
	_, err = attacher.Attach(t.Context(), b, port)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, attacher.Detach(context.Background(), port))
		require.NoError(t, attacher.Close())
	})
	return pod, addrs
}
