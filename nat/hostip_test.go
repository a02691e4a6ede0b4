package nat_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

// TestHostIP: a port of one address of the node leads to the pod from there, and from no other address; another's leads elsewhere.
func TestHostIP(t *testing.T) {
	b := newBridged(t)
	serve(t, b.pods[0])
	serve(t, b.pods[1])
	others := []string{"192.0.2.200", "2001:db8::200"}
	configure(t, b.node, func(h *netlink.Handle) { setUp(t, h, "eth0", []string{others[0] + "/32", others[1] + "/128"}) })
	var ports []nat.HostPort
	for i, own := range b.node.Addrs() {
		for _, p := range []nat.Protocol{nat.TCP, nat.UDP} {
			one := hostPort(p, 9000, b.pods[0].Addrs()[i])
			one.HostIP = own
			two := hostPort(p, 9000, b.pods[1].Addrs()[i])
			two.HostIP = netip.MustParseAddr(others[i])
			alone := hostPort(p, 9001, b.pods[0].Addrs()[i])
			alone.HostIP = own
			ports = append(ports, one, two, alone)
		}
	}
	require.NoError(t, b.ports.Add(t.Context(), ports, near...))
	for i, own := range b.node.Addrs() {
		another := netip.MustParseAddr(others[i])
		outside := []string{outside4, outside6}[i]
		gateway := []string{"10.244.1.1", "fd00:244:0:1::1"}[i]
		for _, network := range []string{"tcp", "udp"} {
			asked := func(from *testnet.Node, to netip.Addr, port uint16) string {
				return ask(t, from, network, netip.AddrPortFrom(to, port))
			}
			t.Run(network+" "+own.String(), func(t *testing.T) {
				assert.Equal(t, "pod0 "+outside, asked(b.outside, own, 9000))
				assert.Equal(t, "pod1 "+outside, asked(b.outside, another, 9000))
				assert.Equal(t, "pod0 "+gateway, asked(b.pods[1], own, 9000), "from a pod")
				assert.Equal(t, "pod1 "+gateway, asked(b.pods[1], another, 9000), "from the pod itself")
				assert.Equal(t, "pod0 "+own.String(), asked(b.node, own, 9000), "from the node")
				assert.Equal(t, "pod0 "+outside, asked(b.outside, own, 9001))
				assert.Equal(t, "no answer", asked(b.outside, another, 9001))
			})
		}
	}
}
