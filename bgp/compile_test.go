package bgp_test

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/subnet"
)

// What was learned becomes the Specs that leases become, in both families, with several blocks behind one node.
func TestCompileForDrivers(t *testing.T) {
	second := netip.MustParsePrefix("10.244.200.0/26")
	learned := &bgp.Snapshot{Revision: 7, Paths: []bgp.Path{
		{Prefix: v4Block(2), NextHop: hops(2).V4}, {Prefix: second, NextHop: hops(2).V4}, {Prefix: v6Block(2), NextHop: hops(2).V6},
		{Prefix: v4Block(3), NextHop: hops(3).V6}, // RFC 8950
	}}
	node := subnet.Node{Name: "node1", Device: "eth0", MTU: 1500, Underlay: hops(1)}
	base := bgp.Base{Self: subnet.Lease{Key: "self", Node: "node1", Underlay: hops(1), Backend: hostgw.Type, Prefixes: subnet.Prefixes{V4: v4Block(1), V6: v6Block(1)}}}

	snap := bgp.Compile(base, learned)
	assert.EqualValues(t, 7, snap.Revision)
	spec, problems, err := hostgw.Compile(node, snap)
	require.NoError(t, err)
	want := hostgw.Spec{Device: "eth0", Peers: []hostgw.Peer{
		{Node: "192.0.2.2", Underlay: hops(2).V4, Prefixes: []netip.Prefix{v4Block(2)}},
		{Node: "192.0.2.2", Underlay: hops(2).V4, Prefixes: []netip.Prefix{second}},
		{Node: "2001:db8::2", Underlay: hops(2).V6, Prefixes: []netip.Prefix{v6Block(2)}},
	}}
	assert.Equal(t, want, spec)
	require.NoError(t, spec.Validate())
	require.Len(t, problems, 1)
	require.ErrorContains(t, problems[0], "10.244.3.0/24 of 2001:db8::3")

	base.Self.Backend = ipip.Type
	_, _, err = ipip.Compile(node, bgp.Compile(base, learned))
	require.NoError(t, err)
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
