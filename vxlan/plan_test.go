package vxlan_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// TestPlan holds the dry run of each mode: its text, and the order in which traffic needs the objects. Apply then does the same,
// and a second driver, as after a restart, has nothing to do.
func TestPlan(t *testing.T) {
	const (
		link4 = "+ link flannel.1 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 mtu 1450 address 0e:00:00:00:00:01"
		link6 = "+ link flannel-v6.1 type vxlan id 1 local 2001:db8::1 dev eth0 dstport 8472 mtu 1430 address 0e:00:00:00:00:01"
	)
	v4, v6 := vtepOf("192.0.2.1"), vtepOf("2001:db8::1")
	two4, two6 := peerOf("two", 2, "192.0.2.2", "10.244.2.0/24"), peerOf("two", 2, "2001:db8::2", "fd00:244:0:2::/64")
	far := peerOf("far", 9, "198.51.100.9", "10.244.9.0/24")
	tests := []struct {
		name string
		spec vxlan.Spec
		want []string
		dry  []string // where Plan, which does not know the new links' indexes, orders what Apply does in another way
	}{
		{
			"IPv4", vxlan.Spec{VTEPs: []vxlan.VTEP{v4}, Peers: []vxlan.Peer{two4}},
			[]string{
				link4,
				"+ neighbour 10.244.2.0 lladdr 0e:00:00:00:00:02 dev flannel.1 permanent",
				"+ fdb 0e:00:00:00:00:02 dev flannel.1 dst 192.0.2.2 self permanent",
				"+ nexthop 1682833408 via 10.244.2.0 dev flannel.1 onlink",
				"+ route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink nhid 1682833408",
			}, nil,
		},
		{
			"dual stack", vxlan.Spec{VTEPs: []vxlan.VTEP{v4, v6}, Peers: []vxlan.Peer{two6, two4}},
			[]string{
				link4, link6,
				"+ neighbour 10.244.2.0 lladdr 0e:00:00:00:00:02 dev flannel.1 permanent",
				"+ neighbour fe80::c00:ff:fe00:2 lladdr 0e:00:00:00:00:02 dev flannel-v6.1 permanent",
				"+ fdb 0e:00:00:00:00:02 dev flannel.1 dst 192.0.2.2 self permanent",
				"+ fdb 0e:00:00:00:00:02 dev flannel-v6.1 dst 2001:db8::2 self permanent",
				"+ nexthop 1682833408 via 10.244.2.0 dev flannel.1 onlink",
				"+ nexthop 1682833409 via fe80::c00:ff:fe00:2 dev flannel-v6.1",
				"+ route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink nhid 1682833408",
				"+ route fd00:244:0:2::/64 via fe80::c00:ff:fe00:2 dev flannel-v6.1 nhid 1682833409 metric 1024",
			}, nil,
		},
		{
			"both families over one VTEP", vxlan.Spec{VTEPs: []vxlan.VTEP{v6}, Peers: []vxlan.Peer{peerOf("two", 2, "2001:db8::2", "10.244.2.0/24", "fd00:244:0:2::/64")}},
			[]string{
				link6,
				"+ neighbour 10.244.2.0 lladdr 0e:00:00:00:00:02 dev flannel-v6.1 permanent",
				"+ neighbour fe80::c00:ff:fe00:2 lladdr 0e:00:00:00:00:02 dev flannel-v6.1 permanent",
				"+ fdb 0e:00:00:00:00:02 dev flannel-v6.1 dst 2001:db8::2 self permanent",
				"+ nexthop 1682833408 via 10.244.2.0 dev flannel-v6.1 onlink",
				"+ nexthop 1682833409 via fe80::c00:ff:fe00:2 dev flannel-v6.1",
				"+ route 10.244.2.0/24 via 10.244.2.0 dev flannel-v6.1 onlink nhid 1682833408",
				"+ route fd00:244:0:2::/64 via fe80::c00:ff:fe00:2 dev flannel-v6.1 nhid 1682833409 metric 1024",
			}, nil,
		},
		{
			"direct routing, and one peer beyond the link", vxlan.Spec{VTEPs: []vxlan.VTEP{v4, v6}, Peers: []vxlan.Peer{two4, two6, far}, DirectRouting: true},
			[]string{
				link4, link6,
				"+ neighbour 10.244.9.0 lladdr 0e:00:00:00:00:09 dev flannel.1 permanent",
				"+ fdb 0e:00:00:00:00:09 dev flannel.1 dst 198.51.100.9 self permanent",
				"+ nexthop 1682833408 via 192.0.2.2 dev eth0",
				"+ nexthop 1682833409 via 2001:db8::2 dev eth0",
				"+ nexthop 1682833410 via 10.244.9.0 dev flannel.1 onlink",
				"+ route 10.244.2.0/24 via 192.0.2.2 dev eth0 nhid 1682833408",
				"+ route 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink nhid 1682833410",
				"+ route fd00:244:0:2::/64 via 2001:db8::2 dev eth0 nhid 1682833409 metric 1024",
			},
			[]string{
				link4, link6,
				"+ neighbour 10.244.9.0 lladdr 0e:00:00:00:00:09 dev flannel.1 permanent",
				"+ fdb 0e:00:00:00:00:09 dev flannel.1 dst 198.51.100.9 self permanent",
				"+ nexthop 1682833408 via 10.244.9.0 dev flannel.1 onlink",
				"+ nexthop 1682833409 via 192.0.2.2 dev eth0",
				"+ nexthop 1682833410 via 2001:db8::2 dev eth0",
				"+ route 10.244.2.0/24 via 192.0.2.2 dev eth0 nhid 1682833409",
				"+ route 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink nhid 1682833408",
				"+ route fd00:244:0:2::/64 via 2001:db8::2 dev eth0 nhid 1682833410 metric 1024",
			},
		},
		{
			"a table of its own, and every setting", vxlan.Spec{
				VTEPs: []vxlan.VTEP{{
					Name: "blue", VNI: 70000, Port: 4789, Device: "eth0", Local: v4.Local, MAC: v4.MAC, MTU: 1300, GBP: true, Learning: true, Checksum: true,
				}},
				Peers: []vxlan.Peer{two4}, Table: 1000,
			},
			[]string{
				"+ link blue type vxlan id 70000 local 192.0.2.1 dev eth0 dstport 4789 mtu 1300 address 0e:00:00:00:00:01 learning gbp udpcsum",
				"+ neighbour 10.244.2.0 lladdr 0e:00:00:00:00:02 dev blue permanent",
				"+ fdb 0e:00:00:00:00:02 dev blue dst 192.0.2.2 self permanent",
				"+ nexthop 1682833408 via 10.244.2.0 dev blue onlink",
				"+ route 10.244.2.0/24 via 10.244.2.0 dev blue onlink nhid 1682833408 table 1000",
			}, nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			node := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1}).Nodes[0]
			d := newDriver(t, node)
			plan, err := d.Plan(t.Context(), tt.spec)
			require.NoError(t, err)
			if tt.dry == nil {
				tt.dry = tt.want
			}
			assert.Equal(t, strings.Join(tt.dry, "\n")+"\n", plan.String())
			plan, err = d.Apply(t.Context(), tt.spec)
			require.NoError(t, err)
			assert.Equal(t, strings.Join(tt.want, "\n")+"\n", plan.String())
			plan, err = newDriver(t, node).Apply(t.Context(), tt.spec)
			require.NoError(t, err)
			assert.Empty(t, plan.String())
		})
	}
}
