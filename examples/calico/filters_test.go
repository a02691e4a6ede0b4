package calico

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/subnet"
)

// TestFilterRules: what a rule says, and that what makes no sense is an error that names it.
func TestFilterRules(t *testing.T) {
	t.Parallel()
	v4, all4, v6 := []netip.Prefix{prefix("10.0.0.0/8")}, []netip.Prefix{prefix("0.0.0.0/0")}, []netip.Prefix{prefix("fd00::/8")}
	for _, tt := range []struct {
		list, rule string
		want       bgp.Rule
		err        string
	}{
		{"importV4", `{"action":"Reject"}`, bgp.Rule{Within: all4, Reject: true}, ""},
		{"exportV6", `{"action":"Accept"}`, bgp.Rule{Within: []netip.Prefix{prefix("::/0")}}, ""},
		{"exportV4", `{"action":"Accept","cidr":"10.0.0.1/8","matchOperator":"In"}`, bgp.Rule{Within: v4}, ""},
		{"importV6", `{"action":"Reject","cidr":"fd00::/8","matchOperator":"NotIn"}`, bgp.Rule{Within: v6, Outside: true, Reject: true}, ""},
		{"importV4", `{"action":"Reject","cidr":"10.0.0.0/8","matchOperator":"Equal"}`, bgp.Rule{Within: v4, MaxLength: 8, Reject: true}, ""},
		{"importV4", `{"action":"Accept","cidr":"10.0.0.0/8","matchOperator":"NotEqual"}`, bgp.Rule{Within: v4, MaxLength: 8, Outside: true}, ""},
		{"importV4", `{"action":"Accept","cidr":"10.0.0.7/32","matchOperator":"Equal"}`, bgp.Rule{Within: []netip.Prefix{prefix("10.0.0.7/32")}}, ""},
		{"importV4", `{"action":"Reject","cidr":"0.0.0.0/0","matchOperator":"Equal"}`, bgp.Rule{Within: all4, MinLength: 1, Outside: true, Reject: true}, ""},
		{"importV4", `{"action":"Reject","cidr":"0.0.0.0/0","matchOperator":"NotEqual"}`, bgp.Rule{Within: all4, MinLength: 1, Reject: true}, ""},
		{"importV4", `{"action":"Reject","cidr":"10.0.0.0/8","matchOperator":"In","prefixLength":{"min":16,"max":24}}`, bgp.Rule{Within: v4, MinLength: 16, MaxLength: 24, Reject: true}, ""},
		{"importV4", `{"action":"Reject","cidr":"10.0.0.0/8","matchOperator":"In","prefixLength":{"min":27}}`, bgp.Rule{Within: v4, MinLength: 27, Reject: true}, ""},
		{"exportV6", `{"action":"Reject","cidr":"fd00::/8","matchOperator":"NotIn","prefixLength":{"max":64}}`, bgp.Rule{Within: v6, MaxLength: 64, Outside: true, Reject: true}, ""},
		{"importV4", `{"action":"Reject","cidr":"10.0.0.0/8","matchOperator":"In","prefixLength":{"min":7}}`, bgp.Rule{}, `spec.importV4[0].prefixLength: 7 to 32 is no length of what is in 10.0.0.0/8: use 8 to 32`},
		{"importV4", `{"action":"Reject","cidr":"10.0.0.0/8","matchOperator":"Equal","prefixLength":{"min":16}}`, bgp.Rule{}, `spec.importV4[0].prefixLength: goes with In and NotIn, and a cidr: leave it out`},
		{"importV4", `{"action":"Reject","prefixLength":{"min":16}}`, bgp.Rule{}, `spec.importV4[0].prefixLength: goes with In and NotIn, and a cidr: leave it out`},
		{"importV6", `{"action":"Reject","cidr":"10.0.0.0/8","matchOperator":"In"}`, bgp.Rule{}, `spec.importV6[0].cidr: "10.0.0.0/8" is not a network of IPv6`},
		{"importV4", `{"action":"Reject","cidr":"10.0.0.0/8","matchOperator":"Like"}`, bgp.Rule{}, `spec.importV4[0].matchOperator: "Like" is no way to match: write In, NotIn, Equal or NotEqual`},
		{"importV4", `{"action":"Reject","cidr":"10.0.0.0/8"}`, bgp.Rule{}, `spec.importV4[0].matchOperator: "" goes with a cidr: give both or neither`},
		{"importV4", `{"action":"Reject","matchOperator":"In"}`, bgp.Rule{}, `spec.importV4[0].matchOperator: "In" goes with a cidr: give both or neither`},
		{"exportV4", `{"action":"Reject","source":"RemotePeers"}`, bgp.Rule{}, `spec.exportV4[0].source: is a field that we do not know: leave the rule out, or say it by cidr`},
		{"exportV4", `{}`, bgp.Rule{}, `spec.exportV4[0].action: "" is no action: write Accept or Reject`},
	} {
		t.Run(tt.list+tt.rule, func(t *testing.T) {
			l := &loader{filterSpecs: map[string]json.RawMessage{"some": json.RawMessage(`{"` + tt.list + `":[` + tt.rule + `]}`)}}
			in, out, err := l.filters([]string{"some"})
			if tt.err != "" {
				require.EqualError(t, err, "BGPFilter some: "+tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, bgp.Filter{tt.want}, append(in, out...))
			speaker, err := bgp.New(bgp.Config{AS: 64512, NextHop: subnet.Addrs{V4: addr("192.0.2.9")}})
			require.NoError(t, err)
			assert.NoError(t, speaker.SetPeers([]bgp.Peer{{Addr: addr("192.0.2.1"), Import: append(in, out...)}}))
		})
	}
}
