package ptp_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ptp"
)

func TestValidate(t *testing.T) {
	good := ptp.Port{
		Container: "pod", NetNS: "/run/netns/pod", MTU: 1450,
		Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:244::2")},
	}
	require.NoError(t, ptp.Spec{Ports: []ptp.Port{good}, Local: local}.Validate())
	addresses := func(texts ...string) func(*ptp.Spec) {
		return func(s *ptp.Spec) {
			s.Ports[0].Addresses = nil
			for _, text := range texts {
				s.Ports[0].Addresses = append(s.Ports[0].Addresses, netip.MustParseAddr(text))
			}
		}
	}
	for _, tt := range []struct {
		name   string
		change func(s *ptp.Spec)
		want   string
	}{
		{"no container", func(s *ptp.Spec) { s.Ports[0].Container = "" }, "port 0: Port.Container: is missing"},
		{"no namespace", func(s *ptp.Spec) { s.Ports[0].NetNS = "" }, "Port.NetNS: is missing"},
		{"no address", addresses(), "Port.Addresses: is empty"},
		{"zero address", func(s *ptp.Spec) { s.Ports[0].Addresses = []netip.Addr{{}} }, "Port.Addresses[0]: is not an address"},
		{"zone", addresses("fe80::2%eth0"), "has a zone"},
		{"link-local", addresses("fe80::2"), "Port.Addresses[0]: fe80::2/128 is not an address that packets can be sent to"},
		{"mapped", addresses("::ffff:10.0.0.1"), "is an IPv4 address written as IPv6"},
		{"twice", addresses("10.0.0.1", "10.0.0.1"), "Port.Addresses[1]: 10.0.0.1 is there twice"},
		{"MTU below that of IPv6", func(s *ptp.Spec) { s.Ports[0].MTU = 1279 }, "Port.MTU: 1279 is not an MTU: use 1280 to 65535"},
		{"route with host bits", func(s *ptp.Spec) { s.Ports[0].Routes = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")} }, "Port.Routes[0]: 10.0.0.1/8 is not a subnet"},
		{"route of another family", func(s *ptp.Spec) {
			s.Ports[0].Addresses = s.Ports[0].Addresses[:1]
			s.Ports[0].Routes = []netip.Prefix{netip.MustParsePrefix("::/0")}
		}, "Port.Routes[0]: ::/0 is of a family that the port has no address of"},
		{"MAC of a group", func(s *ptp.Spec) { s.Ports[0].MAC = podweft.MAC{1} }, "Port.MAC"},
		{"port twice", func(s *ptp.Spec) { s.Ports = append(s.Ports, s.Ports[0]) }, "Ports[1]: pod/eth0 is Ports[0] too"},
		{"address twice", func(s *ptp.Spec) {
			other := s.Ports[0]
			other.Container = "other"
			s.Ports = append(s.Ports, other)
		}, "Ports[1].Addresses: 10.244.1.2 is an address of Ports[0] too"},
		{"local with host bits", func(s *ptp.Spec) { s.Local = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")} }, "Local[0]: 10.0.0.1/8 is not a subnet"},
		{"local is everything", func(s *ptp.Spec) { s.Local = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} }, "Local[0]: 0.0.0.0/0 is not a subnet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := ptp.Spec{Ports: []ptp.Port{good}, Local: local}
			tt.change(&s)
			err := s.Validate()
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.ErrorContains(t, err, tt.want)
		})
	}
	assert.ErrorContains(t, ptp.Config{Owner: "a/b"}.Validate(), "Owner: a/b cannot be part of a mark")
	_, err := ptp.New(ptp.Config{Owner: "a/b"})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	_, err = ptp.NewDriver(ptp.Config{NetNS: "/nowhere"})
	require.Error(t, err)
}
