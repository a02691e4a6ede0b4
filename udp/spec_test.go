package udp_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/udp"
)

func TestValidate(t *testing.T) {
	good := func() udp.Spec {
		return udp.Spec{
			Device: "eth0", Local: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/32")},
			Networks:  []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
			Peers:     []udp.Peer{peer("two", "192.0.2.2", "10.244.2.0/24")},
		}
	}
	assert.NoError(t, good().Validate())
	assert.NoError(t, udp.Spec{}.Validate())
	for _, tt := range []struct {
		name   string
		change func(*udp.Spec)
		want   string
	}{
		{"no local", func(s *udp.Spec) { s.Local, s.Peers = nil, nil }, "Local: is missing: give this node's addresses on the underlay"},
		{"no device", func(s *udp.Spec) { s.Device = "" }, "Device: is missing: name the underlay interface"},
		{"long name", func(s *udp.Spec) { s.Name = "a-name-that-is-too-long" }, "Name: a-name-that-is-too-long is too long for a link: use at most 15 characters"},
		{"MTU", func(s *udp.Spec) { s.MTU = 65536 }, "MTU: 65536 is out of range: use 68 to 65507"},
		{"MTU of IPv6", func(s *udp.Spec) {
			s.MTU, s.Networks = 1000, append(s.Networks, netip.MustParsePrefix("fd00::/48"))
		}, "MTU: 1000 is too small for IPv6: use at least 1280"},
		{"two local", func(s *udp.Spec) { s.Local = append(s.Local, netip.MustParseAddr("192.0.2.9")) }, "Local[1]: 192.0.2.9 is of the same family as another: give one of each family at most"},
		{"loopback", func(s *udp.Spec) { s.Local[0] = netip.MustParseAddr("127.0.0.1") }, "Local[0]: 127.0.0.1 is not an address that packets can be sent from: give this node's address on the underlay"},
		{"address twice", func(s *udp.Spec) { s.Addresses = append(s.Addresses, s.Addresses[0]) }, "Addresses[1]: 10.244.1.0/32 is there twice"},
		{"no address", func(s *udp.Spec) { s.Addresses = []netip.Prefix{{}} }, "Addresses[0]: invalid Prefix is not an address"},
		{"host bits", func(s *udp.Spec) { s.Networks[0] = netip.MustParsePrefix("10.244.0.1/16") }, "Networks[0]: 10.244.0.1/16 is not a network: leave no host bits set"},
		{"everything", func(s *udp.Spec) { s.Networks = append(s.Networks, netip.MustParsePrefix("0.0.0.0/0")) }, "Networks[1]: 0.0.0.0/0 is everything: give the pods' network"},
		{"outside", func(s *udp.Spec) { s.Peers = append(s.Peers, peer("x", "192.0.2.3", "10.9.0.0/24")) }, "Peers[1].Prefixes: 10.9.0.0/24 is in none of Networks: add its network"},
		{"twice", func(s *udp.Spec) { s.Peers = append(s.Peers, peer("x", "192.0.2.3", "10.244.2.0/24")) }, "Peers[1].Prefixes: 10.244.2.0/24 is behind two too"},
		{"ourselves", func(s *udp.Spec) { s.Peers[0].Underlay = s.Local[0] }, "Peers[0].Underlay: 192.0.2.1 is this node's own: leave this node out of its peers"},
		{"another family", func(s *udp.Spec) { s.Peers[0].Underlay = netip.MustParseAddr("2001:db8::2") }, "Peers[0].Underlay: 2001:db8::2 is of a family that this node has no address of: add one to Local"},
		{"through itself", func(s *udp.Spec) {
			s.Networks = append(s.Networks, netip.MustParsePrefix("192.0.0.0/16"))
			s.Peers[0] = peer("two", "192.0.2.2", "192.0.2.0/24")
		}, "Peers[0].Prefixes: 192.0.2.0/24 contains 192.0.2.2, to which its packets are to be sent: keep pods and underlay apart"},
		{"nothing behind it", func(s *udp.Spec) { s.Peers[0].Prefixes = nil }, "Peers[0].Prefixes: are missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := good()
			tt.change(&s)
			err := s.Validate()
			assert.ErrorIs(t, err, podweft.ErrInvalid)
			assert.EqualError(t, err, tt.want)
		})
	}
}
