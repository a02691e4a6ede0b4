package hostgw_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/subnet"
)

// lease of a node that runs host-gw; what is empty is left out.
func lease(node, v4, v6, underlay4, underlay6 string) *subnet.Lease {
	l := &subnet.Lease{Key: node, Node: node, Backend: hostgw.Type}
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

func TestCompile(t *testing.T) {
	own := lease("one", "10.244.1.0/24", "fd00:1::/64", "192.0.2.1", "2001:db8::1")
	two := lease("two", "10.244.2.0/24", "fd00:2::/64", "192.0.2.2", "2001:db8::2")
	vxlan := lease("three", "10.244.3.0/24", "", "192.0.2.3", "")
	vxlan.Backend = "vxlan"
	tests := []struct {
		name     string
		leases   []*subnet.Lease
		want     []hostgw.Peer
		problems []string
	}{
		{"alone", []*subnet.Lease{own}, []hostgw.Peer{}, nil},
		{
			"dual stack, in order of prefixes", []*subnet.Lease{two, lease("five", "10.244.1.0/25", "", "192.0.2.5", ""), own, lease("four", "10.244.0.0/24", "", "192.0.2.4", "")},
			[]hostgw.Peer{peer("four", "192.0.2.4", "10.244.0.0/24"), peer("two", "192.0.2.2", "10.244.2.0/24"), peer("two", "2001:db8::2", "fd00:2::/64")},
			[]string{"overlaps"},
		},
		{
			"another backend", []*subnet.Lease{own, two, vxlan},
			[]hostgw.Peer{peer("two", "192.0.2.2", "10.244.2.0/24"), peer("two", "2001:db8::2", "fd00:2::/64")},
			[]string{`lease three of three: BackendType: "vxlan" is not ours: all nodes of a network run one backend`},
		},
		{
			"a family without an address", []*subnet.Lease{own, lease("two", "10.244.2.0/24", "fd00:2::/64", "192.0.2.2", "")},
			[]hostgw.Peer{peer("two", "192.0.2.2", "10.244.2.0/24")},
			[]string{"lease two of two: PublicIP: 192.0.2.2 has no address of the family of fd00:2::/64: give the node one, or use vxlan"},
		},
		{
			"nonsense", []*subnet.Lease{own, lease("two", "10.244.2.0/24", "", "127.0.0.1", ""), lease("three", "10.244.1.0/24", "", "192.0.2.3", "")},
			[]hostgw.Peer{}, []string{"lease two of two: ", "lease three of three: "},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			spec, problems, err := hostgw.Compile(one, &subnet.Snapshot{Leases: tt.leases})
			require.NoError(t, err)
			assert.Equal(t, hostgw.Spec{Device: "eth0", Peers: tt.want}, spec)
			assert.NoError(t, spec.Validate())
			require.Len(t, problems, len(tt.problems), "%v", problems)
			for i, want := range tt.problems {
				assert.ErrorContains(t, problems[i], want)
			}
		})
	}
}

func TestCompileWithoutALease(t *testing.T) {
	_, _, err := hostgw.Compile(one, &subnet.Snapshot{Leases: []*subnet.Lease{lease("two", "10.244.2.0/24", "", "192.0.2.2", "")}})
	assert.EqualError(t, err, "compile host-gw for one: it has no lease")
}

func TestPublish(t *testing.T) {
	data, mtu, err := hostgw.Publish(one, nil, subnet.Data{})
	require.NoError(t, err)
	assert.Equal(t, subnet.Data{}, data)
	assert.Equal(t, 1500, mtu, "nothing is wrapped")

	hidden := one
	hidden.Public.V4 = netip.MustParseAddr("203.0.113.7")
	_, _, err = hostgw.Publish(hidden, nil, subnet.Data{})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.EqualError(t, err, "Node.Public: 203.0.113.7 is no address of eth0, so that peers could not route to pods by it: give an address of the interface, or use vxlan")
}

var _ podweft.Driver[hostgw.Spec] = (*hostgw.Driver)(nil)
