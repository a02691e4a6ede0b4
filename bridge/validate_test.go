package bridge_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bridge"
)

func TestValidate(t *testing.T) {
	b := dual
	p := bridge.Port{Container: "pod", NetNS: "/run/netns/pod", Addresses: prefixes("10.244.1.2/24", "fd00:244:0:1::2/64")}
	require.NoError(t, b.Validate())
	require.NoError(t, p.Validate())
	tests := []struct {
		name   string
		change func(b *bridge.Bridge, p *bridge.Port)
		want   string // empty is valid
	}{
		{"bridge name", func(b *bridge.Bridge, _ *bridge.Port) { b.Name = "a-name-too-long-x" },
			`Bridge.Name: "a-name-too-long-x" is not a name for a link: use at most 15 letters, digits, dashes and dots`},
		{"bridge name with a space", func(b *bridge.Bridge, _ *bridge.Port) { b.Name = "cni 0" }, `Bridge.Name: "cni 0" is not a name`},
		{"bridge name that is a pattern", func(b *bridge.Bridge, _ *bridge.Port) { b.Name = "cni%d" }, `Bridge.Name: "cni%d" is not a name`},
		{"bridge name that the kernel keeps", func(b *bridge.Bridge, _ *bridge.Port) { b.Name = "all" },
			`Bridge.Name: "all" is not a name for a link: use another: the kernel has this one for settings of every link`},
		{"bridge MAC of a group", func(b *bridge.Bridge, _ *bridge.Port) { b.MAC = podweft.MAC{1} }, "Bridge.MAC: 01:00:00:00:00:00 is not one station's address"},
		{"MTU below that of IPv6", func(b *bridge.Bridge, _ *bridge.Port) { b.MTU = 1279 }, "Bridge.MTU: 1279 is not an MTU: use 1280 to 65535"},
		{"MTU without IPv6", func(b *bridge.Bridge, p *bridge.Port) {
			b.MTU, b.Gateways, p.Addresses = 576, b.Gateways[:1], p.Addresses[:1]
		}, ""},
		{"two gateways of a family", func(b *bridge.Bridge, p *bridge.Port) {
			b.Gateways, p.Addresses = prefixes("10.244.1.1/24", "10.9.0.1/24"), prefixes("10.9.0.2/24")
		}, ""},
		{"two gateways of a subnet", func(b *bridge.Bridge, _ *bridge.Port) { b.Gateways = prefixes("10.244.1.1/24", "10.244.0.1/16") },
			"Bridge.Gateways[1]: 10.244.0.1/16 is of the same subnet as 10.244.1.1/24: give one gateway for each subnet"},
		{"gateway missing", func(b *bridge.Bridge, _ *bridge.Port) { b.Gateways = []netip.Prefix{{}} },
			"Bridge.Gateways[0]: is not an address with a prefix length: write one like 10.244.1.2/24"},
		{"gateway is a subnet", func(b *bridge.Bridge, _ *bridge.Port) { b.Gateways = prefixes("10.244.1.0/24") },
			"Bridge.Gateways[0]: 10.244.1.0/24 is the subnet's own address: use 10.244.1.1 or a later one"},
		{"gateway is broadcast", func(b *bridge.Bridge, _ *bridge.Port) { b.Gateways = prefixes("10.244.1.255/24") },
			"Bridge.Gateways[0]: 10.244.1.255/24 is the subnet's broadcast address: use 10.244.1.254 or an earlier one"},
		{"gateway of multicast", func(b *bridge.Bridge, _ *bridge.Port) { b.Gateways = prefixes("224.0.0.1/24") },
			"Bridge.Gateways[0]: 224.0.0.1/24 is not an address that packets can be sent to"},
		{"point to point", func(b *bridge.Bridge, p *bridge.Port) {
			b.Gateways, p.Addresses = prefixes("10.244.1.0/31"), prefixes("10.244.1.1/31")
		}, ""},

		{"no container", func(_ *bridge.Bridge, p *bridge.Port) { p.Container = "" }, "Port.Container: is missing"},
		{"container with a line break", func(_ *bridge.Bridge, p *bridge.Port) { p.Container = "a\nb" }, `Port.Container: "a\nb" cannot be part of a mark`},
		{"long container", func(_ *bridge.Bridge, p *bridge.Port) { p.Container = strings.Repeat("c", 161) }, "cannot be part of a mark: use at most 160 bytes"},
		{"no namespace", func(_ *bridge.Bridge, p *bridge.Port) { p.NetNS = "" }, "Port.NetNS: is missing: give the path of the pod's network namespace"},
		{"host name", func(_ *bridge.Bridge, p *bridge.Port) { p.HostName = ".." }, `Port.HostName: ".." is not a name for a link`},
		{"loopback link", func(_ *bridge.Bridge, p *bridge.Port) { p.Name = "lo" }, "Port.Name: lo is the pod's loopback link: use another name, such as eth0"},
		{"address is broadcast", func(_ *bridge.Bridge, p *bridge.Port) { p.Addresses = prefixes("10.244.1.255/24") },
			"Port.Addresses[0]: 10.244.1.255/24 is the subnet's broadcast address: use 10.244.1.254 or an earlier one"},
		{"port MAC of a group", func(_ *bridge.Bridge, p *bridge.Port) { p.MAC = podweft.MAC{0xff} }, "Port.MAC: ff:00:00:00:00:00 is not"},
		{"port MTU", func(_ *bridge.Bridge, p *bridge.Port) { p.MTU = -1 }, "Port.MTU: -1 is not an MTU"},
		{"address twice", func(_ *bridge.Bridge, p *bridge.Port) { p.Addresses = prefixes("10.244.1.2/24", "10.244.1.2/25") },
			"Port.Addresses[1]: 10.244.1.2/25 is there twice"},
		{"IPv4 written as IPv6", func(_ *bridge.Bridge, p *bridge.Port) { p.Addresses = prefixes("::ffff:10.244.1.2/120") },
			"Port.Addresses[0]: ::ffff:10.244.1.2/120 is an IPv4 address written as IPv6: write 10.244.1.2 and its own prefix length"},
		{"route with host bits", func(_ *bridge.Bridge, p *bridge.Port) {
			p.Routes = []bridge.Route{{Prefix: netip.MustParsePrefix("10.1.1.1/8")}}
		},
			"Port.Routes[0].Prefix: 10.1.1.1/8 is not a subnet"},
		{"route by itself", func(_ *bridge.Bridge, p *bridge.Port) {
			p.Routes = []bridge.Route{{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.244.1.2")}}
		}, "Port.Routes[0].Via: 10.244.1.2 is the port's own address: leave it out, which means the gateway"},
		{"route of two families", func(_ *bridge.Bridge, p *bridge.Port) {
			p.Routes = []bridge.Route{{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParseAddr("fd00:244:0:1::1")}}
		}, "Port.Routes[0].Via: fd00:244:0:1::1 is of another family than 10.0.0.0/8"},

		{"port MTU above the bridge's", func(_ *bridge.Bridge, p *bridge.Port) { p.MTU = 1500 },
			"Port.MTU: 1500 is more than the bridge's: use at most 1450: the bridge drops longer packets"},
		{"the bridge's MAC", func(b *bridge.Bridge, p *bridge.Port) { b.MAC = podweft.MAC{2}; p.MAC = b.MAC }, "Port.MAC: 02:00:00:00:00:00 is the bridge's"},
		{"the gateway's address", func(_ *bridge.Bridge, p *bridge.Port) { p.Addresses = prefixes("10.244.1.1/24") },
			"Port.Addresses[0]: 10.244.1.1/24 is the gateway's"},
		{"address in another subnet", func(_ *bridge.Bridge, p *bridge.Port) { p.Addresses = prefixes("10.9.0.2/24") },
			"Port.Addresses[0]: 10.9.0.2/24 is in another subnet than the gateway 10.244.1.1/24"},
		{"second address in another subnet", func(_ *bridge.Bridge, p *bridge.Port) { p.Addresses = prefixes("10.244.1.2/24", "10.9.0.2/24") }, ""},
		{"route without a gateway", func(b *bridge.Bridge, p *bridge.Port) {
			b.Gateways, p.Addresses = b.Gateways[:1], p.Addresses[:1]
			p.Routes = []bridge.Route{{Prefix: netip.MustParsePrefix("fd00::/8")}}
		}, "Port.Routes[0]: fd00::/8 needs a gateway and the bridge has none of its family: set Via"},
		{"route beyond the subnet", func(_ *bridge.Bridge, p *bridge.Port) {
			p.Routes = []bridge.Route{{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("192.0.2.1")}}
		}, "Port.Routes[0].Via: 192.0.2.1 is in none of the port's subnets"},
		{"address without a gateway", func(b *bridge.Bridge, _ *bridge.Port) { b.Gateways = b.Gateways[:1] }, ""},
		{"everything at once", func(b *bridge.Bridge, p *bridge.Port) { b.MTU, p.MTU, p.Container = 1, 1, "" },
			"Bridge.MTU: 1 is not an MTU: use 1280 to 65535\nPort.Container: is missing: say whose port it is: a container's ID, a pod's name\n" +
				"Port.MTU: 1 is not an MTU: use 1280 to 65535"},
	}
	h := newHost(t, bridge.Config{})
	pod := newMachine(t, "pod")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, p := b, p
			p.NetNS = pod.NetNS()
			tt.change(&b, &p)
			_, err := h.pods.Attach(t.Context(), b, p)
			if tt.want == "" {
				require.NoError(t, err)
				require.NoError(t, h.pods.Teardown(t.Context()))
				return
			}
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.ErrorContains(t, err, tt.want)
			assert.Equal(t, []string{"lo"}, h.linkNames(t), "nothing is touched")
		})
	}
}

func TestConfigValidate(t *testing.T) {
	for _, owner := range []string{"a/b", ".hidden", "two words", strings.Repeat("o", 65)} {
		_, err := bridge.New(bridge.Config{Owner: owner})
		require.ErrorIs(t, err, podweft.ErrInvalid)
		assert.EqualError(t, err, "Owner: "+owner+" cannot be part of a mark: "+
			"use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first")
	}
	_, err := bridge.New(bridge.Config{NetNS: "/run/netns/gone"})
	assert.EqualError(t, err, "open network namespace: stat /run/netns/gone: no such file or directory")
}

// The longest names that are valid fit into the kernel's.
func TestLongNames(t *testing.T) {
	h := newHost(t, bridge.Config{Owner: strings.Repeat("o", 64)})
	p := port(dual, newMachine(t, "pod"), 1)
	p.Container, p.Name = strings.Repeat("c", 160), strings.Repeat("n", 15)
	at := h.attach(t, dual, p)
	assert.Len(t, at.Host.Name, 15)
	assert.Equal(t, at, h.attach(t, dual, p), "again")
	require.NoError(t, h.pods.Detach(t.Context(), p))
}
