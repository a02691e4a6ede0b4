package vxlan_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/vxlan"
)

// peerOf is a peer whose MAC ends in mac; what does not parse is left zero.
func peerOf(node string, mac byte, underlay string, prefixes ...string) vxlan.Peer {
	p := vxlan.Peer{Node: node, MAC: podweft.MAC{0x0e, 0, 0, 0, 0, mac}}
	p.Underlay, _ = netip.ParseAddr(underlay)
	for _, text := range prefixes {
		prefix, _ := netip.ParsePrefix(text)
		p.Prefixes = append(p.Prefixes, prefix)
	}
	return p
}

func vtepOf(local string) vxlan.VTEP {
	return vxlan.VTEP{VNI: 1, Device: "eth0", Local: netip.MustParseAddr(local), MAC: podweft.MAC{0x0e, 0, 0, 0, 0, 1}}
}

func TestValidate(t *testing.T) {
	v4, v6 := vtepOf("192.0.2.1"), vtepOf("2001:db8::1")
	with := func(v vxlan.VTEP, change func(*vxlan.VTEP)) vxlan.VTEP {
		change(&v)
		return v
	}
	two := peerOf("two", 2, "192.0.2.2", "10.244.2.0/24")
	tests := []struct {
		name string
		spec vxlan.Spec
		want []string
	}{
		{"zero", vxlan.Spec{}, nil},
		{"fine", vxlan.Spec{VTEPs: []vxlan.VTEP{v4, v6}, Peers: []vxlan.Peer{two, peerOf("two", 2, "2001:db8::2", "fd00:2::/64")}}, nil},
		{"both families over one", vxlan.Spec{VTEPs: []vxlan.VTEP{v6}, Peers: []vxlan.Peer{peerOf("two", 2, "2001:db8::2", "fd00:2::/64", "10.244.2.0/24")}}, nil},
		{"smallest MTUs", vxlan.Spec{VTEPs: []vxlan.VTEP{
			with(v4, func(v *vxlan.VTEP) { v.MTU = 68 }),
			with(v6, func(v *vxlan.VTEP) { v.MTU, v.Addresses = 1280, []netip.Prefix{netip.MustParsePrefix("fd00:1::/128")} }),
		}}, nil},
		{"longest name", vxlan.Spec{VTEPs: []vxlan.VTEP{with(v4, func(v *vxlan.VTEP) { v.Name = "fifteen-letters" })}}, nil},
		{"two of one family", vxlan.Spec{VTEPs: []vxlan.VTEP{v4, with(v4, func(v *vxlan.VTEP) { v.VNI = 2 })}}, []string{
			"VTEPs[1].Local: 192.0.2.1 is of the same family as another VTEP's: give each family of the underlay one VTEP, and each VNI a driver of its own",
		}},
		{"two of one name", vxlan.Spec{VTEPs: []vxlan.VTEP{v4, with(v6, func(v *vxlan.VTEP) { v.Name = "flannel.1" })}}, []string{
			"VTEPs[1].Name: flannel.1 is another VTEP's too",
		}},
		{"GBP on one of a port", vxlan.Spec{VTEPs: []vxlan.VTEP{v4, with(v6, func(v *vxlan.VTEP) { v.GBP = true })}}, []string{
			"VTEPs: share a port but not GBP: turn GBP on for both or for none",
		}},
		{"GBP on one, but another port", vxlan.Spec{VTEPs: []vxlan.VTEP{v4, with(v6, func(v *vxlan.VTEP) { v.GBP, v.Port = true, 4789 })}}, nil},
		{"a bad VTEP", vxlan.Spec{VTEPs: []vxlan.VTEP{{Name: "a-name-of-sixteen", MTU: 67, VNI: 1 << 24, Addresses: make([]netip.Prefix, 1)}}}, []string{
			"VTEPs[0].VNI: 16777216 is not a VNI: use 1 to 16777215",
			"VTEPs[0].Name: a-name-of-sixteen is too long for a link: use at most 15 characters",
			"VTEPs[0].Device: is missing: name the underlay interface",
			"VTEPs[0].Local: invalid IP is not an address that packets can be sent from: give this node's address on the underlay",
			"VTEPs[0].MAC: 00:00:00:00:00:00 is not one station's address: keep one made by podweft.NewMAC",
			"VTEPs[0].MTU: 67 is too small: use at least 68",
			"VTEPs[0].Addresses: invalid Prefix is not an address",
		}},
		{"IPv6 needs more", vxlan.Spec{VTEPs: []vxlan.VTEP{with(v4, func(v *vxlan.VTEP) {
			v.MTU, v.Addresses = 1279, []netip.Prefix{netip.MustParsePrefix("fd00:1::/128")}
		})}}, []string{"VTEPs[0].MTU: 1279 is too small: use at least 1280"}},
		{"bad peers", vxlan.Spec{VTEPs: []vxlan.VTEP{v4}, Peers: []vxlan.Peer{
			two,
			peerOf("three", 2, "192.0.2.3", "10.244.3.0/24"),
			peerOf("four", 4, "192.0.2.4", "10.244.2.0/24"),
			peerOf("five", 5, "2001:db8::5", "fd00:5::/64"),
			peerOf("self", 1, "192.0.2.1", "10.244.6.0/24"),
			{Node: "seven", MAC: podweft.MAC{0x01, 0, 0x5e}, Underlay: netip.MustParseAddr("127.0.0.1")},
			peerOf("eight", 8, "192.0.2.8", "10.244.8.1/24", "::/0", "nonsense"),
		}}, []string{
			"Peers[1].MAC: 0e:00:00:00:00:02 is that of two too",
			"Peers[2].Prefixes: 10.244.2.0/24 is behind two too",
			"Peers[3].Underlay: 2001:db8::5 is of a family without a VTEP: add a VTEP of that family",
			"Peers[4].Underlay: 192.0.2.1 is this node's own: leave this node out of its peers",
			"Peers[4].MAC: 0e:00:00:00:00:01 is this node's own",
			"Peers[5].Underlay: 127.0.0.1 is not an address that packets can be sent to",
			"Peers[5].MAC: 01:00:5e:00:00:00 is not one station's address",
			"Peers[5].Prefixes: are missing",
			"Peers[6].Prefixes: 10.244.8.1/24 is not a subnet: leave no host bits set",
			"Peers[6].Prefixes: ::/0 is everything: give a pod subnet",
			"Peers[6].Prefixes: invalid Prefix is not a subnet: leave no host bits set",
		}},
		{"two subnets that begin alike", vxlan.Spec{VTEPs: []vxlan.VTEP{v4}, Peers: []vxlan.Peer{
			two, peerOf("three", 3, "192.0.2.3", "10.244.2.0/25"),
		}}, []string{
			"Peers[1].Prefixes: 10.244.2.0/25 begins as a subnet behind two does: leave one of them out",
		}},
		{"nested subnets", vxlan.Spec{VTEPs: []vxlan.VTEP{v4}, Peers: []vxlan.Peer{
			two, peerOf("three", 3, "192.0.2.3", "10.244.2.128/25"),
		}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := slices.Clone(tt.spec.Peers)
			err := tt.spec.Validate()
			assert.Equal(t, before, tt.spec.Peers)
			if tt.want == nil {
				assert.NoError(t, err)
				return
			}
			assert.ErrorIs(t, err, podweft.ErrInvalid)
			assert.EqualError(t, err, strings.Join(tt.want, "\n"))
		})
	}
}

func TestOverhead(t *testing.T) {
	assert.Equal(t, 50, vxlan.Overhead(netip.MustParseAddr("192.0.2.1")))
	assert.Equal(t, 70, vxlan.Overhead(netip.MustParseAddr("2001:db8::1")))
}

func TestLinkName(t *testing.T) {
	assert.Equal(t, "flannel.1", vxlan.LinkName(1, netip.MustParseAddr("192.0.2.1")))
	assert.Equal(t, "flannel-v6.1", vxlan.LinkName(1, netip.MustParseAddr("2001:db8::1")))
	assert.LessOrEqual(t, len(vxlan.LinkName(1<<24-1, netip.MustParseAddr("2001:db8::1"))), 19)
	spec := vxlan.Spec{VTEPs: []vxlan.VTEP{vtepOf("2001:db8::1")}}
	spec.VTEPs[0].VNI = 1<<24 - 1
	assert.ErrorContains(t, spec.Validate(), "VTEPs[0].Name: flannel-v6.16777215 is too long for a link", "said, not cut")
}
