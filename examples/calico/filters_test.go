package calico

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bgp"
)

// TestFilterOf: a Filter says of every prefix what Calico's rules say, whatever is in what and outside of what.
func TestFilterOf(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	some := func() netip.Prefix { // of few, so that they are in each other
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(random.IntN(4)) << 6}), random.IntN(5))
		return p.Masked()
	}
	for range 2000 {
		rules := make([]filterRule, random.IntN(5))
		for i := range rules {
			rules[i] = filterRule{within: some(), outside: random.IntN(2) == 0, reject: random.IntN(2) == 0}
		}
		f := filterOf(rules)
		for range 20 {
			p := some()
			require.Equal(t, rejectedBy(rules, p), rejectedAfter(f, p), "%s by %+v: %+v", p, rules, f)
		}
	}
}

func in(p, of netip.Prefix) bool { return of.Contains(p.Addr()) && of.Bits() <= p.Bits() }

func rejectedBy(rules []filterRule, p netip.Prefix) bool {
	for _, r := range rules {
		if in(p, r.within) != r.outside {
			return r.reject
		}
	}
	return false
}

func rejectedAfter(f bgp.Filter, p netip.Prefix) bool {
	for _, r := range f {
		if in(p, r.Within[0]) {
			return r.Reject
		}
	}
	return false
}

// TestFilterRules: what a rule says, and that what it says beyond our means is an error that names it.
func TestFilterRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		list string
		has  map[string]any
		want filterRule
		err  string
	}{
		{importV4, map[string]any{"action": "Reject"}, filterRule{within: prefix("0.0.0.0/0"), reject: true}, ""},
		{exportV6, map[string]any{"action": "Accept"}, filterRule{within: prefix("::/0")}, ""},
		{exportV4, map[string]any{"action": "Accept", "cidr": "10.0.0.1/8", "matchOperator": "In"}, filterRule{within: prefix("10.0.0.0/8")}, ""},
		{importV6, map[string]any{"action": "Reject", "cidr": "fd00::/8", "matchOperator": "NotIn"}, filterRule{prefix("fd00::/8"), true, true}, ""},
		{importV6, map[string]any{"action": "Reject", "cidr": "10.0.0.0/8", "matchOperator": "In"}, filterRule{}, `spec.importV6[0].cidr: "10.0.0.0/8" is not a network of IPv6`},
		{importV4, map[string]any{"action": "Reject", "cidr": "10.0.0.0/8", "matchOperator": "Equal"}, filterRule{}, `spec.importV4[0].matchOperator: "Equal" is no way to match that we know: write In or NotIn, and a cidr`},
		{importV4, map[string]any{"action": "Reject", "cidr": "10.0.0.0/8"}, filterRule{}, `spec.importV4[0].matchOperator: is no way to match that we know: write In or NotIn, and a cidr`},
		{importV4, map[string]any{"action": "Reject", "matchOperator": "In"}, filterRule{}, `spec.importV4[0].matchOperator: "In" is no way to match that we know: write In or NotIn, and a cidr`},
		{exportV4, map[string]any{"action": "Reject", "source": "RemotePeers"}, filterRule{}, `spec.exportV4[0].source: RemotePeers is a condition that we do not know: use action, cidr and matchOperator alone`},
		{exportV4, map[string]any{"cidr": "10.0.0.0/8"}, filterRule{}, `spec.exportV4[0].action: is no action: write Accept or Reject`},
	} {
		t.Run(fmt.Sprint(tt.list, tt.has), func(t *testing.T) {
			got, err := bgpFilter{tt.list: {tt.has}}.rules(tt.list)
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, []filterRule{tt.want}, got)
		})
	}
}
