package ipip_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/subnet"
)

func addrs(s ...string) (a subnet.Addrs) {
	for _, x := range s {
		if addr := netip.MustParseAddr(x); addr.Is4() {
			a.V4 = addr
		} else {
			a.V6 = addr
		}
	}
	return a
}

func prefixes(s ...string) (p subnet.Prefixes) {
	for _, x := range s {
		if prefix := netip.MustParsePrefix(x); prefix.Addr().Is4() {
			p.V4 = prefix
		} else {
			p.V6 = prefix
		}
	}
	return p
}

func lease(node string, p subnet.Prefixes, a subnet.Addrs) *subnet.Lease {
	return &subnet.Lease{Key: p.String(), Node: node, Prefixes: p, Underlay: a, Backend: ipip.Type}
}

func list(s ...string) (all []netip.Prefix) {
	for _, x := range s {
		all = append(all, netip.MustParsePrefix(x))
	}
	return all
}

func TestCompile(t *testing.T) {
	local4, local6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	to4, to6 := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	for _, tc := range []struct {
		name     string
		underlay subnet.Addrs // of this node
		own      subnet.Prefixes
		peers    []*subnet.Lease
		config   string
		want     ipip.Spec
		problems []string
	}{
		{
			name: "IPv4", underlay: addrs("192.0.2.1"), own: prefixes("10.244.1.0/24"),
			peers: []*subnet.Lease{lease("b", prefixes("10.244.2.0/24"), addrs("192.0.2.2"))},
			want: ipip.Spec{
				Tunnels: []ipip.Tunnel{{Device: "eth0", Local: local4, MTU: 1480, Addresses: list("10.244.1.0/32")}},
				Peers:   []ipip.Peer{{Node: "b", Underlay: to4, Prefixes: list("10.244.2.0/24")}},
			},
		},
		{
			name: "dual stack", underlay: addrs("192.0.2.1", "2001:db8::1"), own: prefixes("10.244.1.0/24", "fd00:244:0:1::/64"),
			peers: []*subnet.Lease{lease("b", prefixes("10.244.2.0/24", "fd00:244:0:2::/64"), addrs("192.0.2.2", "2001:db8::2"))},
			want: ipip.Spec{
				Tunnels: []ipip.Tunnel{
					{Device: "eth0", Local: local4, MTU: 1480, Addresses: list("10.244.1.0/32")},
					{Device: "eth0", Local: local6, MTU: 1460, Addresses: list("fd00:244:0:1::/128")},
				},
				Peers: []ipip.Peer{
					{Node: "b", Underlay: to4, Prefixes: list("10.244.2.0/24")},
					{Node: "b", Underlay: to6, Prefixes: list("fd00:244:0:2::/64")},
				},
			},
		},
		{
			name: "both over IPv6", underlay: addrs("2001:db8::1"), own: prefixes("10.244.1.0/24", "fd00:244:0:1::/64"),
			peers: []*subnet.Lease{lease("b", prefixes("10.244.2.0/24", "fd00:244:0:2::/64"), addrs("2001:db8::2"))},
			want: ipip.Spec{
				Tunnels: []ipip.Tunnel{{Device: "eth0", Local: local6, MTU: 1460, Addresses: list("10.244.1.0/32", "fd00:244:0:1::/128")}},
				Peers:   []ipip.Peer{{Node: "b", Underlay: to6, Prefixes: list("10.244.2.0/24", "fd00:244:0:2::/64")}},
			},
		},
		{
			name: "peers with less than we have", underlay: addrs("192.0.2.1", "2001:db8::1"), own: prefixes("10.244.1.0/24", "fd00:244:0:1::/64"),
			peers: []*subnet.Lease{
				lease("b", prefixes("10.244.2.0/24", "fd00:244:0:2::/64"), addrs("192.0.2.2")),
				lease("c", prefixes("10.244.3.0/24", "fd00:244:0:3::/64"), addrs("2001:db8::3")),
			},
			want: ipip.Spec{
				Tunnels: []ipip.Tunnel{
					{Device: "eth0", Local: local4, MTU: 1480, Addresses: list("10.244.1.0/32")},
					{Device: "eth0", Local: local6, MTU: 1460, Addresses: list("fd00:244:0:1::/128")},
				},
				Peers: []ipip.Peer{
					{Node: "b", Underlay: to4, Prefixes: list("10.244.2.0/24")},
					{Node: "c", Underlay: netip.MustParseAddr("2001:db8::3"), Prefixes: list("10.244.3.0/24", "fd00:244:0:3::/64")},
				},
			},
			problems: []string{"lease 10.244.2.0/24, fd00:244:0:2::/64 of b: PublicIP: 192.0.2.2 and this node's 192.0.2.1, 2001:db8::1 have no way " +
				"for fd00:244:0:2::/64: give both nodes an address of its family, or use vxlan"},
		},
		{
			name: "an underlay that no pod needs", underlay: addrs("192.0.2.1", "2001:db8::1"), own: prefixes("10.244.1.0/24"),
			peers: []*subnet.Lease{lease("b", prefixes("10.244.2.0/24"), addrs("192.0.2.2", "2001:db8::2"))},
			want: ipip.Spec{
				Tunnels: []ipip.Tunnel{{Device: "eth0", Local: local4, MTU: 1480, Addresses: list("10.244.1.0/32")}},
				Peers:   []ipip.Peer{{Node: "b", Underlay: to4, Prefixes: list("10.244.2.0/24")}},
			},
		},
		{
			name: "DirectRouting", underlay: addrs("192.0.2.1"), own: prefixes("10.244.1.0/24"), config: `{"Type":"ipip","DirectRouting":true}`,
			want: ipip.Spec{
				CrossSubnet: true, Peers: []ipip.Peer{},
				Tunnels: []ipip.Tunnel{{Device: "eth0", Local: local4, MTU: 1480, Addresses: list("10.244.1.0/32")}},
			},
		},
		{
			name: "bad leases cost their own nodes only", underlay: addrs("192.0.2.1"), own: prefixes("10.244.1.0/24"),
			peers: []*subnet.Lease{
				lease("b", prefixes("10.244.2.0/24"), addrs("192.0.2.2")),
				{Key: "vxlan", Node: "c", Prefixes: prefixes("10.244.3.0/24"), Underlay: addrs("192.0.2.3"), Backend: "vxlan"},
				lease("d", prefixes("10.244.4.0/24"), addrs("2001:db8::4")),
				lease("e", prefixes("192.0.2.128/25"), addrs("192.0.2.129")),
			},
			want: ipip.Spec{
				Tunnels: []ipip.Tunnel{{Device: "eth0", Local: local4, MTU: 1480, Addresses: list("10.244.1.0/32")}},
				Peers:   []ipip.Peer{{Node: "b", Underlay: to4, Prefixes: list("10.244.2.0/24")}},
			},
			problems: []string{
				`lease vxlan of c: BackendType: "vxlan" is not ours: all nodes of a network run one backend`,
				"lease 10.244.4.0/24 of d: PublicIP: 2001:db8::4 and this node's 192.0.2.1 have no way for 10.244.4.0/24: " +
					"give both nodes an address of its family, or use vxlan",
				"lease 192.0.2.128/25 of e: PublicIP: 192.0.2.129 is not an address that packets for 192.0.2.128/25 can be sent to",
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			node := subnet.Node{Name: "a", Device: "eth0", MTU: 1500, Underlay: tc.underlay}
			snap := &subnet.Snapshot{Leases: append(tc.peers, lease("a", tc.own, tc.underlay))}
			if tc.config != "" {
				snap.Network = &subnet.Network{Backend: subnet.Backend{Type: ipip.Type, Config: []byte(tc.config)}}
			}
			spec, problems, err := ipip.Compile(node, snap)
			require.NoError(t, err)
			assert.Equal(t, tc.want, spec)
			assert.NoError(t, spec.Validate())
			var said []string
			for _, p := range problems {
				said = append(said, p.Error())
			}
			assert.Equal(t, tc.problems, said)
		})
	}
}

func TestCompileNeedsALeaseAndAConfig(t *testing.T) {
	node := subnet.Node{Name: "a", Device: "eth0", MTU: 1500, Underlay: addrs("192.0.2.1")}
	_, _, err := ipip.Compile(node, &subnet.Snapshot{})
	assert.EqualError(t, err, "compile ipip for a: it has no lease")

	for _, tc := range []struct{ name, config, want string }{
		{"wrong type", `{"DirectRouting": 1}`, "Backend.DirectRouting: number does not fit: write a bool"},
		{"no JSON", `{`, "Backend: unexpected end of JSON input"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			network := &subnet.Network{Backend: subnet.Backend{Config: []byte(tc.config)}}
			_, _, err := ipip.Compile(node, &subnet.Snapshot{Network: network})
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.EqualError(t, err, tc.want)
			_, _, err = ipip.Publish(node, network, subnet.Data{})
			assert.EqualError(t, err, tc.want)
		})
	}
}

// TestPublish: flannel's ipip publishes no data either.
func TestPublish(t *testing.T) {
	for _, tc := range []struct {
		name     string
		underlay subnet.Addrs
		want     int
	}{
		{"IPv4", addrs("192.0.2.1"), 1480},
		{"IPv6", addrs("2001:db8::1"), 1460},
		{"both", addrs("192.0.2.1", "2001:db8::1"), 1460},
	} {
		t.Run(tc.name, func(t *testing.T) {
			data, mtu, err := ipip.Publish(subnet.Node{Name: "a", MTU: 1500, Underlay: tc.underlay}, nil, subnet.Data{V4: []byte(`{"VNI":1}`)})
			require.NoError(t, err)
			assert.Equal(t, subnet.Data{}, data)
			assert.Equal(t, tc.want, mtu)
		})
	}
}
