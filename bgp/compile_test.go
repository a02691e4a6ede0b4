package bgp_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/udp"
	"github.com/podweft/podweft/vxlan"
)

// What was learned becomes the Specs that leases become, in both families, with several blocks behind one node.
func TestCompileForDrivers(t *testing.T) {
	secondV4, secondV6 := netip.MustParsePrefix("10.244.200.0/26"), netip.MustParsePrefix("fd00:244:0:200::/122")
	learned := &bgp.Snapshot{Revision: 7, Paths: []bgp.Path{
		{Prefix: v4Block(2), NextHop: hops(2).V4}, {Prefix: secondV4, NextHop: hops(2).V4},
		{Prefix: v6Block(2), NextHop: hops(2).V6}, {Prefix: secondV6, NextHop: hops(2).V6},
		{Prefix: v4Block(3), NextHop: hops(3).V6}, // RFC 8950
	}}
	node := subnet.Node{Name: "node1", Device: "eth0", MTU: 1500, Underlay: hops(1)}
	vteps := func(i int) subnet.Data {
		vtep := func(family int) json.RawMessage {
			return fmt.Appendf(nil, `{"VNI":1,"VtepMAC":"02:00:00:00:0%d:0%d"}`, family, i)
		}
		return subnet.Data{V4: vtep(4), V6: vtep(6)}
	}
	compiled := func(backend string) *subnet.Snapshot {
		return bgp.Compile(bgp.Base{
			Self: subnet.Lease{
				Key: "self", Node: "node1", Prefixes: subnet.Prefixes{V4: v4Block(1), V6: v6Block(1)}, Underlay: hops(1), Backend: backend,
				Data: vteps(1),
			},
			Known: []*subnet.Lease{
				{Key: "k2", Node: "node2", Underlay: hops(2), Data: vteps(2)}, {Key: "k3", Node: "node3", Underlay: hops(3), Data: vteps(3)},
			},
		}, learned)
	}
	own := func(p netip.Prefix) []netip.Prefix {
		return []netip.Prefix{netip.PrefixFrom(p.Addr(), p.Addr().BitLen())}
	}
	only := func(p ...netip.Prefix) []netip.Prefix { return p }

	t.Run(hostgw.Type, func(t *testing.T) {
		snap := compiled(hostgw.Type)
		assert.EqualValues(t, 7, snap.Revision)
		spec, problems, err := hostgw.Compile(node, snap)
		require.NoError(t, err)
		assert.Equal(t, hostgw.Spec{Device: "eth0", Peers: []hostgw.Peer{
			{Node: "node2", Underlay: hops(2).V4, Prefixes: only(v4Block(2))}, {Node: "node2", Underlay: hops(2).V4, Prefixes: only(secondV4)},
			{Node: "node2", Underlay: hops(2).V6, Prefixes: only(v6Block(2))}, {Node: "node2", Underlay: hops(2).V6, Prefixes: only(secondV6)},
		}}, spec)
		require.NoError(t, spec.Validate())
		require.Len(t, problems, 1)
		require.ErrorContains(t, problems[0], "10.244.3.0/24 of node3")
	})
	t.Run(ipip.Type, func(t *testing.T) {
		spec, problems, err := ipip.Compile(node, compiled(ipip.Type))
		require.NoError(t, err)
		assert.Equal(t, ipip.Spec{
			Tunnels: []ipip.Tunnel{
				{Device: "eth0", Local: hops(1).V4, MTU: 1480, Addresses: own(v4Block(1))},
				{Device: "eth0", Local: hops(1).V6, MTU: 1460, Addresses: own(v6Block(1))},
			},
			Peers: []ipip.Peer{
				{Node: "node2", Underlay: hops(2).V4, Prefixes: only(v4Block(2))}, {Node: "node3", Underlay: hops(3).V6, Prefixes: only(v4Block(3))},
				{Node: "node2", Underlay: hops(2).V4, Prefixes: only(secondV4)},
				{Node: "node2", Underlay: hops(2).V6, Prefixes: only(v6Block(2))}, {Node: "node2", Underlay: hops(2).V6, Prefixes: only(secondV6)},
			},
		}, spec)
		require.NoError(t, spec.Validate())
		require.Empty(t, problems)
	})
	t.Run(vxlan.Type, func(t *testing.T) {
		spec, problems, err := vxlan.Compile(node, compiled(vxlan.Type))
		require.NoError(t, err)
		mac := func(family, i byte) podweft.MAC { return podweft.MAC{2, 0, 0, 0, family, i} }
		assert.Equal(t, vxlan.Spec{
			VTEPs: []vxlan.VTEP{
				{VNI: 1, Device: "eth0", Local: hops(1).V4, MAC: mac(4, 1), MTU: 1450, Addresses: own(v4Block(1))},
				{VNI: 1, Device: "eth0", Local: hops(1).V6, MAC: mac(6, 1), MTU: 1430, Addresses: own(v6Block(1))},
			},
			Peers: []vxlan.Peer{
				{Node: "node2", MAC: mac(4, 2), Underlay: hops(2).V4, Prefixes: only(v4Block(2), secondV4)},
				{Node: "node3", MAC: mac(6, 3), Underlay: hops(3).V6, Prefixes: only(v4Block(3))},
				{Node: "node2", MAC: mac(6, 2), Underlay: hops(2).V6, Prefixes: only(v6Block(2), secondV6)},
			},
		}, spec)
		require.NoError(t, spec.Validate())
		require.Empty(t, problems)
	})
	t.Run(udp.Type, func(t *testing.T) {
		spec, problems, err := udp.Compile(node, compiled(udp.Type))
		require.NoError(t, err)
		assert.Equal(t, []udp.Peer{
			{Node: "node2", Underlay: hops(2).V4, Prefixes: only(v4Block(2))}, {Node: "node3", Underlay: hops(3).V6, Prefixes: only(v4Block(3))},
			{Node: "node2", Underlay: hops(2).V4, Prefixes: only(secondV4)},
			{Node: "node2", Underlay: hops(2).V6, Prefixes: only(v6Block(2))}, {Node: "node2", Underlay: hops(2).V6, Prefixes: only(secondV6)},
		}, spec.Peers)
		require.NoError(t, spec.Validate())
		require.Empty(t, problems)
	})
}

// A path to a part of our own subnet, or to everything, is not programmed.
func TestCompileKeepsOursAndTheNetwork(t *testing.T) {
	network, err := subnet.ParseNetwork([]byte(`{"Network": "10.244.0.0/16"}`))
	require.NoError(t, err)
	base := bgp.Base{Network: network, Self: subnet.Lease{Key: "self", Node: "node1", Underlay: hops(1), Backend: hostgw.Type, Prefixes: subnet.Prefixes{V4: v4Block(1)}}}
	learned := &bgp.Snapshot{Revision: 1, Paths: []bgp.Path{
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), NextHop: hops(9).V4},
		{Prefix: netip.MustParsePrefix("10.244.1.128/25"), NextHop: hops(9).V4},
		{Prefix: v4Block(2), NextHop: hops(2).V4},
	}}
	spec, problems, err := hostgw.Compile(subnet.Node{Name: "node1", Device: "eth0", Underlay: hops(1)}, bgp.Compile(base, learned))
	require.NoError(t, err)
	assert.Equal(t, []hostgw.Peer{{Node: "192.0.2.2", Underlay: hops(2).V4, Prefixes: []netip.Prefix{v4Block(2)}}}, spec.Peers)
	assert.Len(t, problems, 2)
}

// What a store knows of a node joins what was learned from it.
func TestCompileJoinsKnownNodes(t *testing.T) {
	known := &subnet.Lease{Key: "k", Node: "node2", Underlay: hops(2), Data: subnet.Data{V4: json.RawMessage(`{"VtepMAC":"02:00:00:00:00:02"}`)}}
	learned := &bgp.Snapshot{Revision: 3, Paths: []bgp.Path{{Prefix: v6Block(2), NextHop: hops(2).V6}}}
	snap := bgp.Compile(bgp.Base{Self: subnet.Lease{Key: "self", Node: "node1", Backend: "vxlan"}, Known: []*subnet.Lease{known}}, learned)
	want := &subnet.Lease{Key: v6Block(2).String(), Node: "node2", Prefixes: subnet.Prefixes{V6: v6Block(2)}, Underlay: subnet.Addrs{V6: hops(2).V6}, Backend: "vxlan", Data: known.Data, Revision: 3}
	assert.Equal(t, want, snap.Lease("node2"))
}
