package ipip_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/testnet"
)

// TestPlan is what a person sees before anything is done, for each mode. It needs no tunnel module: nothing is written.
func TestPlan(t *testing.T) {
	for _, tc := range []struct {
		name     string
		scenario scenario
		change   func(*ipip.Spec)
		want     string
	}{
		{name: "IPv4 over IPv4", scenario: scenario{"", testnet.FabricConfig{V4: underlay4}, true}, want: `
			+ link flannel.ipip type ipip local 192.0.2.1 dev eth0 mtu 1480
			+ address 10.244.1.0/32 dev flannel.ipip
			+ nexthop 1993342976 via 192.0.2.2 dev flannel.ipip onlink
			+ route 10.244.2.0/24 via 192.0.2.2 dev flannel.ipip onlink nhid 1993342976`},
		{name: "both over IPv6", scenario: scenario{"", testnet.FabricConfig{V6: underlay6}, false}, want: `
			+ link flannel-v6.ipip type ip6tnl external mtu 1460
			+ address 10.244.1.0/32 dev flannel-v6.ipip
			+ address fd00:244:0:1::/128 dev flannel-v6.ipip
			+ nexthop 1993342976 encap ip6 src 2001:db8::1 dst 2001:db8::2 dev flannel-v6.ipip
			+ route 10.244.2.0/24 dev flannel-v6.ipip nhid 1993342976
			+ route fd00:244:0:2::/64 dev flannel-v6.ipip nhid 1993342976 metric 1024`},
		{name: "cross subnet", scenario: scenario{"", testnet.FabricConfig{V4: underlay4}, true},
			change: func(s *ipip.Spec) {
				s.CrossSubnet = true
				s.Peers = append(s.Peers, ipip.Peer{
					Node: "far", Underlay: netip.MustParseAddr("198.51.100.9"), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")},
				})
			}, want: `
			+ link flannel.ipip type ipip local 192.0.2.1 dev eth0 mtu 1480
			+ address 10.244.1.0/32 dev flannel.ipip
			+ nexthop 1993342976 via 198.51.100.9 dev flannel.ipip onlink
			+ nexthop 1993342977 via 192.0.2.2 dev eth0
			+ route 10.244.2.0/24 via 192.0.2.2 dev eth0 nhid 1993342977
			+ route 10.244.9.0/24 via 198.51.100.9 dev flannel.ipip onlink nhid 1993342976`},
		{name: "name, MTU and table", scenario: scenario{"", testnet.FabricConfig{V4: underlay4}, true},
			change: func(s *ipip.Spec) {
				s.Tunnels[0].Name, s.Tunnels[0].MTU, s.Table = "blue", 1400, 77
			}, want: `
			+ link blue type ipip local 192.0.2.1 dev eth0 mtu 1400
			+ address 10.244.1.0/32 dev blue
			+ nexthop 1993342976 via 192.0.2.2 dev blue onlink
			+ route 10.244.2.0/24 via 192.0.2.2 dev blue onlink nhid 1993342976 table 77`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := newOverlay(t, tc.scenario)
			if tc.change != nil {
				tc.change(&o.specs[0])
			}
			h := inNode(t, o.fabric.Nodes[0])
			before := everything(t, h)
			plan, err := o.drivers[0].Plan(t.Context(), o.specs[0])
			require.NoError(t, err)
			assert.Equal(t, strings.ReplaceAll(strings.TrimPrefix(tc.want, "\n"), "\t", "")+"\n", plan.String())
			assert.Equal(t, before, everything(t, h), "Plan writes nothing")
		})
	}
}
