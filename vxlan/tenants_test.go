package vxlan_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// tenant is a customer with a network of its own, on the nodes of others: a VNI, a routing table, and the same pod subnets as
// everybody else's.
type tenant struct {
	*overlay
	name  string
	vni   uint32
	table uint32
	pods  []*testnet.Node // one on each node
	stops []func()        // of the loops
}

// newTenant puts a driver on each node and a pod behind it. What comes from the tenant's pods and VTEPs is routed by its table
// alone; that is all that keeps tenants apart on a node.
func newTenant(t *testing.T, f *testnet.Fabric, name string, id uint32) *tenant {
	t.Helper()
	c := &tenant{overlay: &overlay{fabric: f}, name: name, vni: id, table: id}
	macs := map[netip.Addr]podweft.MAC{}
	for i, n := range f.Nodes {
		for _, local := range n.Addrs() {
			macs[local] = podweft.MAC{0x0e, byte(id), 0, byte(local.BitLen()), 0, byte(i + 1)}
		}
	}
	for i, n := range f.Nodes {
		spec := handMade(f, i, macs)
		spec.Table = c.table
		eachVTEP(&spec, func(v *vxlan.VTEP) { v.VNI, v.Addresses = c.vni, nil })
		d, err := vxlan.New(vxlan.Config{Owner: name, NetNS: n.NetNS()})
		require.NoError(t, err)
		t.Cleanup(func() { d.Close() })
		c.drivers, c.specs = append(c.drivers, d), append(c.specs, spec)
		_, stop := sabotage.Run(t, d, spec)
		c.stops = append(c.stops, stop)
	}
	for i, spec := range c.specs {
		c.pods = append(c.pods, c.attach(t, i))
		for _, v := range spec.VTEPs {
			c.divert(t, i, vxlan.LinkName(v.VNI, v.Local))
		}
	}
	return c
}

// attach makes a pod and its link, which bears the tenant's name on the node.
func (c *tenant) attach(t *testing.T, i int) *testnet.Node {
	t.Helper()
	node := c.fabric.Nodes[i]
	pod := testnet.NewNode(t, fmt.Sprintf("%s%d", c.name, i+1))
	h, inside := inNode(t, node), inNode(t, pod)
	host := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: c.name, TxQLen: -1}, PeerName: "eth0"}
	require.NoError(t, pod.Do(func() (err error) {
		host.PeerNamespace = netlink.NsPid(unix.Gettid())
		return h.LinkAdd(host)
	}))
	require.NoError(t, h.LinkSetUp(host))
	eth0 := linkNamed(t, inside, "eth0")
	require.NoError(t, inside.LinkSetUp(eth0))
	for _, zero := range c.zeros(i) {
		gateway := zero.Addr().Next()
		addr := gateway.Next()
		whole := netip.PrefixFrom(gateway, gateway.BitLen())
		require.NoError(t, h.AddrAdd(host, &netlink.Addr{IPNet: ipNet(whole), Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE}))
		require.NoError(t, h.RouteAdd(&netlink.Route{
			Table: int(c.table), LinkIndex: host.Index, Dst: ipNet(netip.PrefixFrom(addr, addr.BitLen())), Scope: netlink.SCOPE_LINK,
		}))
		require.NoError(t, inside.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, zero.Bits())), Flags: unix.IFA_F_NODAD}))
		everything := netip.PrefixFrom(zero.Addr(), 0).Masked()
		require.NoError(t, inside.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: ipNet(everything), Gw: gateway.AsSlice()}))
	}
	c.divert(t, i, c.name)
	return pod
}

// divert is `ip rule add iif LINK lookup TABLE`.
func (c *tenant) divert(t *testing.T, i int, link string) {
	t.Helper()
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rule := netlink.NewRule()
		rule.Family, rule.IifName, rule.Table, rule.Priority = family, link, int(c.table), 100
		require.NoError(t, inNode(t, c.fabric.Nodes[i]).RuleAdd(rule))
	}
}

// TestTenants runs the networks of two tenants side by side, on the same nodes and in one process, with the same pod subnets:
// even the pods' addresses are the same. Each reaches its own and nobody else's.
func TestTenants(t *testing.T) {
	t.Parallel()
	f := testnet.NewFabric(t, testnet.FabricConfig{})
	for _, n := range f.Nodes {
		forward(t, n)
	}
	red, blue := newTenant(t, f, "red", 101), newTenant(t, f, "blue", 102)
	require.Equal(t, red.zeros(1), blue.zeros(1))
	for _, tc := range []struct{ talks, silent *tenant }{{red, blue}, {blue, red}} {
		t.Run(tc.talks.name+" talks", func(t *testing.T) {
			for i := range f.Nodes {
				tc.talks.requireRepaired(t, i)
			}
			for _, to := range tc.talks.podAddrs(1) {
				require.NoError(t, sabotage.Reach(t.Context(), tc.talks.pods[0], to, testnet.Echo{}))
			}
			heard, err := tc.talks.pods[1].Capture("eth0")
			require.NoError(t, err)
			defer heard.Close()
			silent, err := tc.silent.pods[1].Capture("eth0")
			require.NoError(t, err)
			defer silent.Close()
			const pings = 50
			for range pings {
				for _, to := range tc.talks.podAddrs(1) {
					_, err := tc.talks.pods[0].Ping(t.Context(), to)
					require.NoError(t, err)
				}
			}
			time.Sleep(10 * time.Millisecond)
			echoes, err := heard.Count(isEchoRequest)
			require.NoError(t, err)
			assert.Equal(t, pings*len(tc.talks.podAddrs(1)), echoes)
			echoes, err = silent.Count(isEchoRequest)
			require.NoError(t, err)
			assert.Zero(t, echoes, "the pod of %s with the same address got packets of %s", tc.silent.name, tc.talks.name)
		})
	}

	t.Run("red leaves", func(t *testing.T) {
		for i, d := range red.drivers {
			red.stops[i]()
			_, err := d.Teardown(t.Context())
			require.NoError(t, err)
			blue.requireRepaired(t, i)
		}
		for _, to := range blue.podAddrs(1) {
			require.NoError(t, sabotage.Reach(t.Context(), blue.pods[0], to, testnet.Echo{}))
			try, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, err := red.pods[0].Ping(try, to)
			cancel()
			assert.Error(t, err, "red has no way any more, and blue's is not for it")
		}
	})
}

// isEchoRequest tells ICMP and ICMPv6 echo requests by their type.
func isEchoRequest(p testnet.Packet) bool {
	const ethernet = 14
	if p.Sent || len(p.Frame) < ethernet+48 {
		return false
	}
	packet := p.Frame[ethernet:]
	switch binary.BigEndian.Uint16(p.Frame[12:]) {
	case unix.ETH_P_IP:
		return packet[9] == unix.IPPROTO_ICMP && packet[20] == 8
	case unix.ETH_P_IPV6:
		return packet[6] == unix.IPPROTO_ICMPV6 && packet[40] == 128
	}
	return false
}
