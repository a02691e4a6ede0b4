package ipip_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipip"
)

func TestValidate(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	v4 := ipip.Tunnel{Device: "eth0", Local: addr("192.0.2.1")}
	v6 := ipip.Tunnel{Device: "eth0", Local: addr("2001:db8::1")}
	with := func(t ipip.Tunnel, change func(*ipip.Tunnel)) []ipip.Tunnel {
		change(&t)
		return []ipip.Tunnel{t}
	}
	peer := func(to string, prefixes ...string) ipip.Peer {
		p := ipip.Peer{Node: "node-2"}
		p.Underlay, _ = netip.ParseAddr(to)
		for _, x := range prefixes {
			p.Prefixes = append(p.Prefixes, prefix(x))
		}
		return p
	}
	for _, tc := range []struct {
		name string
		spec ipip.Spec
		want string // empty: valid
	}{
		{"nothing", ipip.Spec{}, ""},
		{"dual stack", ipip.Spec{Tunnels: []ipip.Tunnel{v4, v6}, Peers: []ipip.Peer{
			peer("192.0.2.2", "10.244.2.0/24"), peer("2001:db8::2", "fd00:244:0:2::/64"),
		}}, ""},
		{"both over IPv6", ipip.Spec{Tunnels: []ipip.Tunnel{v6}, Peers: []ipip.Peer{peer("2001:db8::2", "10.244.2.0/24", "fd00:244:0:2::/64")}}, ""},
		{"no device", ipip.Spec{Tunnels: with(v4, func(t *ipip.Tunnel) { t.Device = "" })},
			"Tunnels[0].Device: is missing: name the underlay interface"},
		{"no local address", ipip.Spec{Tunnels: with(v4, func(t *ipip.Tunnel) { t.Local = netip.Addr{} })},
			"Tunnels[0].Local: invalid IP is not an address that packets can be sent from: give this node's address on the underlay"},
		{"multicast local address", ipip.Spec{Tunnels: with(v4, func(t *ipip.Tunnel) { t.Local = addr("224.0.0.1") })},
			"Tunnels[0].Local: 224.0.0.1 is not an address that packets can be sent from: give this node's address on the underlay"},
		{"long name", ipip.Spec{Tunnels: with(v4, func(t *ipip.Tunnel) { t.Name = "a-name-of-16-chr" })},
			"Tunnels[0].Name: a-name-of-16-chr is too long for a link: use at most 15 characters"},
		{"small MTU", ipip.Spec{Tunnels: with(v4, func(t *ipip.Tunnel) { t.MTU = 67 })}, "Tunnels[0].MTU: 67 is too small: use at least 68"},
		{"small MTU over IPv6", ipip.Spec{Tunnels: with(v6, func(t *ipip.Tunnel) { t.MTU = 1279 })}, "Tunnels[0].MTU: 1279 is too small: use at least 1280"},
		{"bad address", ipip.Spec{Tunnels: with(v4, func(t *ipip.Tunnel) { t.Addresses = []netip.Prefix{{}} })},
			"Tunnels[0].Addresses: invalid Prefix is not an address"},
		{"one address twice", ipip.Spec{Tunnels: with(v4, func(t *ipip.Tunnel) { t.Addresses = list("10.244.1.0/32", "10.244.1.0/32") })},
			"Tunnels[0].Addresses: 10.244.1.0/32 is there twice"},
		{"IPv6 address that is not carried", ipip.Spec{Tunnels: with(v4, func(t *ipip.Tunnel) { t.Addresses = []netip.Prefix{prefix("fd00::/128")} })},
			"Tunnels[0].Addresses: fd00::/128 is IPv6, which a tunnel over IPv4 does not carry: give it to the tunnel over IPv6"},
		{"two of a family", ipip.Spec{Tunnels: []ipip.Tunnel{v4, {Name: "other", Device: "eth1", Local: addr("192.0.2.9")}}},
			"Tunnels[1].Local: 192.0.2.9 is of the same family as another tunnel's: give each family of the underlay one tunnel"},
		{"one name twice", ipip.Spec{Tunnels: []ipip.Tunnel{v4, {Name: "flannel.ipip", Device: "eth0", Local: v6.Local}}},
			"Tunnels[1].Name: flannel.ipip is another tunnel's too"},
		{"peer without an address", ipip.Spec{Tunnels: []ipip.Tunnel{v4, v6}, Peers: []ipip.Peer{peer("", "10.244.2.0/24")}},
			"Peers[0].Underlay: invalid IP is not an address that packets can be sent to"},
		{"peer of another family", ipip.Spec{Tunnels: []ipip.Tunnel{v4}, Peers: []ipip.Peer{peer("2001:db8::2", "10.244.2.0/24")}},
			"Peers[0].Underlay: 2001:db8::2 is of a family without a tunnel: add a tunnel of that family"},
		{"this node", ipip.Spec{Tunnels: []ipip.Tunnel{v4}, Peers: []ipip.Peer{peer("192.0.2.1", "10.244.2.0/24")}},
			"Peers[0].Underlay: 192.0.2.1 is this node's own: leave this node out of its peers"},
		{"peer without prefixes", ipip.Spec{Tunnels: []ipip.Tunnel{v4}, Peers: []ipip.Peer{peer("192.0.2.2")}}, "Peers[0].Prefixes: are missing"},
		{"host bits", ipip.Spec{Tunnels: []ipip.Tunnel{v4}, Peers: []ipip.Peer{peer("192.0.2.2", "10.244.2.1/24")}},
			"Peers[0].Prefixes: 10.244.2.1/24 is not a subnet: leave no host bits set"},
		{"everything", ipip.Spec{Tunnels: []ipip.Tunnel{v4}, Peers: []ipip.Peer{peer("192.0.2.2", "0.0.0.0/0")}},
			"Peers[0].Prefixes: 0.0.0.0/0 is everything: give a pod subnet"},
		{"a loop", ipip.Spec{Tunnels: []ipip.Tunnel{v4}, Peers: []ipip.Peer{peer("192.0.2.2", "192.0.2.0/25")}},
			"Peers[0].Prefixes: 192.0.2.0/25 contains 192.0.2.2, to which its packets are to be sent: keep pods and underlay apart"},
		{"IPv6 that is not carried", ipip.Spec{Tunnels: []ipip.Tunnel{v4}, Peers: []ipip.Peer{peer("192.0.2.2", "fd00:244:0:2::/64")}},
			"Peers[0].Prefixes: fd00:244:0:2::/64 is IPv6, which a tunnel over IPv4 does not carry: reach it over IPv6, or use vxlan"},
		{"one prefix twice", ipip.Spec{Tunnels: []ipip.Tunnel{v4}, Peers: []ipip.Peer{peer("192.0.2.2", "10.244.2.0/24"), peer("192.0.2.3", "10.244.2.0/24")}},
			"Peers[1].Prefixes: 10.244.2.0/24 is behind node-2 too"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.spec.Validate()
			if tc.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.EqualError(t, err, tc.want)
		})
	}
}

func TestValidateReportsAllAtOnce(t *testing.T) {
	err := ipip.Spec{Tunnels: []ipip.Tunnel{{MTU: 1}}, Peers: []ipip.Peer{{Node: "x"}}}.Validate()
	for _, field := range []string{"Tunnels[0].Device", "Tunnels[0].Local", "Tunnels[0].MTU", "Peers[0].Underlay", "Peers[0].Prefixes"} {
		assert.ErrorContains(t, err, field)
	}
}
