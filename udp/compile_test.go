package udp_test

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/udp"
)

// lease of a node; what is empty is left out. The backend is flannel's: none.
func lease(node, v4, v6, underlay4, underlay6 string) *subnet.Lease {
	l := &subnet.Lease{Key: node, Node: node}
	l.Prefixes.V4, _ = netip.ParsePrefix(v4)
	l.Prefixes.V6, _ = netip.ParsePrefix(v6)
	l.Underlay.V4, _ = netip.ParseAddr(underlay4)
	l.Underlay.V6, _ = netip.ParseAddr(underlay6)
	return l
}

var one = subnet.Node{
	Name: "one", Device: "eth0", MTU: 1500,
	Underlay: subnet.Addrs{V4: netip.MustParseAddr("192.0.2.1"), V6: netip.MustParseAddr("2001:db8::1")},
}

func peer(node, underlay string, prefixes ...string) udp.Peer {
	p := udp.Peer{Node: node, Underlay: netip.MustParseAddr(underlay)}
	for _, s := range prefixes {
		p.Prefixes = append(p.Prefixes, netip.MustParsePrefix(s))
	}
	return p
}

const conf = `{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "udp", "Port": 7777}}`

func network(t *testing.T, conf string) *subnet.Network {
	t.Helper()
	n, err := subnet.ParseNetwork([]byte(conf))
	require.NoError(t, err)
	return n
}

func TestCompile(t *testing.T) {
	own := lease("one", "10.244.1.0/24", "fd00:244:0:1::/64", "192.0.2.1", "2001:db8::1")
	ours := lease("two", "10.244.2.0/24", "fd00:244:0:2::/64", "192.0.2.2", "2001:db8::2")
	ours.Backend = udp.Type
	vxlan := lease("three", "10.244.3.0/24", "", "192.0.2.3", "")
	vxlan.Backend = "vxlan"
	for _, tt := range []struct {
		name     string
		leases   []*subnet.Lease
		want     []udp.Peer
		problems []string
	}{
		{"alone", []*subnet.Lease{own}, []udp.Peer{}, nil},
		{
			"dual stack", []*subnet.Lease{ours, own},
			[]udp.Peer{peer("two", "192.0.2.2", "10.244.2.0/24"), peer("two", "2001:db8::2", "fd00:244:0:2::/64")}, nil,
		},
		{
			"both over one family", []*subnet.Lease{own, lease("two", "10.244.2.0/24", "fd00:244:0:2::/64", "", "2001:db8::2"), lease("four", "10.244.4.0/24", "fd00:244:0:4::/64", "192.0.2.4", "")},
			[]udp.Peer{peer("two", "2001:db8::2", "10.244.2.0/24", "fd00:244:0:2::/64"), peer("four", "192.0.2.4", "10.244.4.0/24", "fd00:244:0:4::/64")}, nil,
		},
		{
			"another backend", []*subnet.Lease{own, ours, vxlan},
			[]udp.Peer{peer("two", "192.0.2.2", "10.244.2.0/24"), peer("two", "2001:db8::2", "fd00:244:0:2::/64")},
			[]string{`lease three of three: BackendType: "vxlan" is not ours: all nodes of a network run one backend`},
		},
		{
			"nonsense", []*subnet.Lease{own, lease("two", "10.244.2.0/24", "", "127.0.0.1", ""), lease("three", "10.244.1.0/24", "", "192.0.2.3", ""), lease("four", "10.9.0.0/24", "", "192.0.2.4", "")},
			[]udp.Peer{}, []string{"lease two of two: ", "lease three of three: ", "lease four of four: "},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec, problems, err := udp.Compile(one, &subnet.Snapshot{Network: network(t, conf), Leases: tt.leases})
			require.NoError(t, err)
			assert.NoError(t, spec.Validate())
			assert.Equal(t, udp.Spec{
				Device: "eth0", Local: []netip.Addr{one.Underlay.V4, one.Underlay.V6}, Port: 7777, MTU: 1452,
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/32"), netip.MustParsePrefix("fd00:244:0:1::/128")},
				Networks:  []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/48")},
				Peers:     tt.want,
			}, spec)
			require.Len(t, problems, len(tt.problems), "%v", problems)
			for _, want := range tt.problems {
				found := false
				for _, p := range problems {
					found = found || assert.ObjectsAreEqual(want, p.Error()[:min(len(want), len(p.Error()))])
				}
				assert.True(t, found, "%s in %v", want, problems)
			}
		})
	}
	t.Run("without a lease", func(t *testing.T) {
		_, _, err := udp.Compile(one, &subnet.Snapshot{Network: network(t, conf), Leases: []*subnet.Lease{ours}})
		assert.EqualError(t, err, "compile udp for one: it has no lease")
	})
	t.Run("without an address", func(t *testing.T) {
		_, _, err := udp.Compile(subnet.Node{Name: "one"}, &subnet.Snapshot{Leases: []*subnet.Lease{own}})
		assert.EqualError(t, err, "compile udp for one: it has no address on the underlay")
	})
	t.Run("without a network", func(t *testing.T) {
		spec, _, err := udp.Compile(one, &subnet.Snapshot{Leases: []*subnet.Lease{own, ours}})
		require.NoError(t, err)
		assert.NoError(t, spec.Validate())
		assert.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("fd00:244:0:2::/64")}, spec.Networks)
	})
}

func TestPublish(t *testing.T) {
	for _, tt := range []struct {
		name, conf string
		node       subnet.Node
		want       int
		err        string
	}{
		{"IPv4", `{"Network": "10.244.0.0/16", "Backend": {"Type": "udp"}}`, one, 1472, ""},
		{"dual stack", conf, one, 1452, ""},
		{"IPv6 over IPv4", conf, subnet.Node{MTU: 1500, Underlay: subnet.Addrs{V4: one.Underlay.V4}}, 1472, ""},
		{"a port that is none", `{"Network": "10.244.0.0/16", "Backend": {"Type": "udp", "Port": "x"}}`, one, 0, "Backend.Port: string does not fit: write a uint16"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data, mtu, err := udp.Publish(tt.node, network(t, tt.conf), subnet.Data{V4: json.RawMessage(`{}`)})
			if tt.err != "" {
				assert.EqualError(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, subnet.Data{}, data)
			assert.Equal(t, tt.want, mtu)
		})
	}
}
