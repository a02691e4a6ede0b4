package hostgw_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/hostgw"
)

func peer(node, underlay string, prefixes ...string) hostgw.Peer {
	p := hostgw.Peer{Node: node}
	p.Underlay, _ = netip.ParseAddr(underlay)
	for _, text := range prefixes {
		prefix, _ := netip.ParsePrefix(text)
		p.Prefixes = append(p.Prefixes, prefix)
	}
	return p
}

func TestValidate(t *testing.T) {
	two := peer("two", "192.0.2.2", "10.244.2.0/24")
	tests := []struct {
		name string
		spec hostgw.Spec
		want []string
	}{
		{"zero", hostgw.Spec{}, nil},
		{"a device and nobody there", hostgw.Spec{Device: "eth0"}, nil},
		{"fine", hostgw.Spec{Device: "eth0", Peers: []hostgw.Peer{two, peer("two", "2001:db8::2", "fd00:2::/64", "fd00:3::/64")}}, nil},
		{"nested prefixes", hostgw.Spec{Device: "eth0", Peers: []hostgw.Peer{two, peer("three", "192.0.2.3", "10.244.2.128/25")}}, nil},
		{"no device", hostgw.Spec{Peers: []hostgw.Peer{two}}, []string{"Device: is missing: name the underlay interface"}},
		{
			"two with one prefix", hostgw.Spec{Device: "eth0", Peers: []hostgw.Peer{two, peer("three", "192.0.2.3", "10.244.2.0/24")}},
			[]string{"Peers[1].Prefixes: 10.244.2.0/24 is behind two too"},
		},
		{
			"everything wrong at once", hostgw.Spec{Peers: []hostgw.Peer{
				peer("a", "", "10.1.0.0/24"),
				peer("b", "192.0.2.3"),
				peer("c", "192.0.2.4", "10.3.0.9/24", "0.0.0.0/0", "fd00:3::/64", "nonsense"),
				peer("d", "fe80::1%eth0", "fd00:4::/64"),
				peer("e", "::ffff:192.0.2.5", "fd00:5::/64"),
				peer("f", "239.1.1.1", "10.6.0.0/24"),
			}},
			[]string{
				"Device: is missing: name the underlay interface",
				"Peers[0].Underlay: invalid IP is not an address that packets can be sent to",
				"Peers[0].Prefixes: 10.1.0.0/24 is of another family than invalid IP: list the peer once for each family",
				"Peers[1].Prefixes: are missing",
				"Peers[2].Prefixes: 10.3.0.9/24 is not a subnet: leave no host bits set",
				"Peers[2].Prefixes: 0.0.0.0/0 is everything: give a pod subnet",
				"Peers[2].Prefixes: fd00:3::/64 is of another family than 192.0.2.4: list the peer once for each family",
				"Peers[2].Prefixes: invalid Prefix is not a subnet: leave no host bits set",
				"Peers[3].Underlay: fe80::1%eth0 is not an address that packets can be sent to",
				"Peers[4].Underlay: ::ffff:192.0.2.5 is not an address that packets can be sent to",
				"Peers[5].Underlay: 239.1.1.1 is not an address that packets can be sent to",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.spec.Validate()
			if tt.want == nil {
				assert.NoError(t, err)
				return
			}
			assert.ErrorIs(t, err, podweft.ErrInvalid)
			assert.EqualError(t, err, strings.Join(tt.want, "\n"))
		})
	}
}
