package bgp_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bgp"
	"github.com/podweft/podweft/subnet"
)

func TestConfigSaysWhatIsWrong(t *testing.T) {
	good := bgp.Config{AS: 64512, NextHop: hops(1)}
	for _, tt := range []struct {
		name   string
		change func(*bgp.Config)
		want   string
	}{
		{"good", func(*bgp.Config) {}, ""},
		{"only dials", func(c *bgp.Config) { c.Port = -1 }, ""},
		{"IPv6 alone has no router id", func(c *bgp.Config) { c.NextHop.V4 = netip.Addr{} }, "RouterID: is missing: a node without IPv4 needs a number of its own in that form, such as 10.0.0.7"},
		{"IPv6 alone with one", func(c *bgp.Config) { c.NextHop.V4, c.RouterID = netip.Addr{}, netip.MustParseAddr("10.0.0.7") }, ""},
		{"no AS", func(c *bgp.Config) { c.AS = 0 }, "AS: is missing: 64512 to 65534 are for private use"},
		{"no next hop", func(c *bgp.Config) { c.NextHop, c.RouterID = subnet.Addrs{}, hops(1).V4 }, "NextHop: is missing: give the node's underlay addresses"},
		{"loopback", func(c *bgp.Config) { c.NextHop.V4 = at(1) }, "NextHop.V4: 127.0.0.1 is not an IPv4 address that packets can be sent to"},
		{"families mixed up", func(c *bgp.Config) { c.NextHop.V6 = hops(1).V4 }, "NextHop.V6: 192.0.2.1 is not an IPv6 address that packets can be sent to"},
		{"long router id", func(c *bgp.Config) { c.RouterID = hops(1).V6 }, "RouterID: 2001:db8::1 is not an IPv4 address"},
		{"long cluster id", func(c *bgp.Config) { c.ClusterID = hops(1).V6 }, "ClusterID: 2001:db8::1 is not an IPv4 address"},
		{"no listener", func(c *bgp.Config) { c.Listen = []netip.Addr{{}} }, "Listen[0]: invalid IP is not an address"},
		{"port", func(c *bgp.Config) { c.Port = 70000 }, "Port: 70000 is not a port: use 1 to 65535, or -1 to accept no sessions"},
		{"restart", func(c *bgp.Config) { c.RestartTime = 2 * time.Hour }, "RestartTime: 2h0m0s is too long: use at most 1h8m15s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			_, err := bgp.New(cfg)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tt.want)
			require.ErrorIs(t, err, podweft.ErrInvalid)
		})
	}
}

func TestPeersSayWhatIsWrong(t *testing.T) {
	s, err := bgp.New(bgp.Config{AS: 64512, NextHop: hops(1)})
	require.NoError(t, err)
	for _, tt := range []struct {
		name string
		peer bgp.Peer
		want string
	}{
		{"good", bgp.Peer{}, ""},
		{"unspecified", bgp.Peer{Addr: netip.IPv4Unspecified()}, "Peers[0].Addr: 0.0.0.0 is not an address that a peer can have"},
		{"zone", bgp.Peer{Addr: netip.MustParseAddr("fe80::1%eth0")}, "Peers[0].Addr: fe80::1%eth0 is not an address that a peer can have"},
		{"other family", bgp.Peer{Local: hops(1).V6}, "Peers[0].Local: 2001:db8::1 is of another family than the peer"},
		{"port", bgp.Peer{Port: -1}, "Peers[0].Port: -1 is not a port: use 1 to 65535"},
		{"password", bgp.Peer{Password: strings.Repeat("x", 81)}, "Peers[0].Password: is too long: use at most 80 bytes"},
		{"hold time", bgp.Peer{HoldTime: time.Second}, "Peers[0].HoldTime: 1s is not a hold time: use whole seconds, 3 at least"},
		{"half a second", bgp.Peer{HoldTime: 3500 * time.Millisecond}, "Peers[0].HoldTime: 3.5s is not a hold time: use whole seconds, 3 at least"},
		{"BFD", bgp.Peer{BFD: bgp.BFD{Interval: time.Millisecond}}, "Peers[0].BFD.Interval: 1ms is not an interval: use 10ms to 1m"},
		{"BFD multiplier", bgp.Peer{BFD: bgp.BFD{Multiplier: 300}}, "Peers[0].BFD.Multiplier: 300 is not a multiplier: use 1 to 255"},
		{"client of another AS", bgp.Peer{AS: 65000, ReflectorClient: true}, "Peers[0].ReflectorClient: is for peers of our own AS"},
		{"hops", bgp.Peer{AS: 65000, Multihop: 256}, "Peers[0].Multihop: 256 is not a number of hops: use 1 to 255"},
		{"TTL", bgp.Peer{TTLSecurity: 256}, "Peers[0].TTLSecurity: 256 is not a number of hops: use 1 to 255, or 0 for none"},
		{"TTL twice", bgp.Peer{AS: 65000, TTLSecurity: 2, Multihop: 2}, "Peers[0].TTLSecurity: 2 says already how far away the peer may be: drop Multihop"},
		{"client in its AS", bgp.Peer{AS: 65000, LocalAS: 65000, ReflectorClient: true}, ""},
		{"own AS", bgp.Peer{AllowOwnAS: -1}, "Peers[0].AllowOwnAS: -1 is not a number of times: use 0 to 255"},
		{"transit", bgp.Peer{AS: 65000, Transit: "all"}, "Peers[0].Transit: all is unknown: use own, keep or self"},
		{"host bits", bgp.Peer{Import: bgp.Filter{{Within: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}}}}, "Peers[0].Import[0].Within: 10.0.0.1/8 is not a subnet: leave no host bits set"},
		{"outside of nothing", bgp.Peer{Import: bgp.Filter{{Outside: true}}}, "Peers[0].Import[0].Within: is missing: of it Outside, MinLength and MaxLength speak: give 0.0.0.0/0, say"},
		{"lengths", bgp.Peer{Import: bgp.Filter{{Within: []netip.Prefix{v4Block(1)}, MaxLength: 23}}}, "Peers[0].Import[0].MaxLength: 23 and MinLength leave nothing of 10.244.1.0/24"},
		{"length of the other family", bgp.Peer{Import: bgp.Filter{{Within: []netip.Prefix{v4Block(1)}, MaxLength: 64}}}, "Peers[0].Import[0].MaxLength: 64 and MinLength leave nothing of 10.244.1.0/24"},
		{"rejects and changes", bgp.Peer{Export: bgp.Filter{{Reject: true, LocalPref: 200}}}, "Peers[0].Export[0].Reject: leaves no path to change: drop AddCommunities and LocalPref, or Reject"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !tt.peer.Addr.IsValid() {
				tt.peer.Addr = hops(2).V4
			}
			err := s.SetPeers([]bgp.Peer{tt.peer})
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tt.want)
			require.ErrorIs(t, err, podweft.ErrInvalid)
		})
	}
	require.EqualError(t, s.SetPeers([]bgp.Peer{{Addr: hops(2).V4}, {Addr: hops(2).V4}}), "Peers[1].Addr: 192.0.2.2 is there twice")
}

func TestAdvertisementsSayWhatIsWrong(t *testing.T) {
	both, err := bgp.New(bgp.Config{AS: 64512, NextHop: hops(1)})
	require.NoError(t, err)
	v4, err := bgp.New(bgp.Config{AS: 64512, NextHop: subnet.Addrs{V4: hops(1).V4}})
	require.NoError(t, err)
	for _, tt := range []struct {
		name    string
		speaker *bgp.Speaker
		ads     []bgp.Advertisement
		want    string
	}{
		{"good", both, blocks(1), ""},
		{"IPv4 over IPv6", both, []bgp.Advertisement{{Prefix: v4Block(1), NextHop: hops(1).V6}}, ""},
		{"host bits", both, []bgp.Advertisement{{Prefix: netip.MustParsePrefix("10.0.0.1/8")}}, "Advertisements[0].Prefix: 10.0.0.1/8 is not a subnet: leave no host bits set"},
		{"zero", both, []bgp.Advertisement{{}}, "Advertisements[0].Prefix: invalid Prefix is not a subnet: leave no host bits set"},
		{"twice", both, []bgp.Advertisement{{Prefix: v4Block(1)}, {Prefix: v4Block(1)}}, "Advertisements[1].Prefix: 10.244.1.0/24 is there twice"},
		{"no IPv6", v4, []bgp.Advertisement{{Prefix: v6Block(1)}}, "Advertisements[0].NextHop: is missing for fd00:244:0:1::/64: give Config.NextHop.V6"},
		{"IPv6 over IPv4", both, []bgp.Advertisement{{Prefix: v6Block(1), NextHop: hops(1).V4}}, "Advertisements[0].NextHop: 192.0.2.1 cannot be the next hop of fd00:244:0:1::/64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.speaker.Advertise(tt.ads)
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tt.want)
			require.ErrorIs(t, err, podweft.ErrInvalid)
		})
	}
}

func TestMesh(t *testing.T) {
	a, b := hops(1), hops(2)
	nodes := []bgp.Node{
		{Name: "both", Addrs: a},
		{Name: "both too", Addrs: b, AS: 65001},
		{Name: "only IPv6", Addrs: subnet.Addrs{V6: hops(3).V6}},
		{Name: "only IPv4", Addrs: subnet.Addrs{V4: hops(4).V4}},
	}
	like := bgp.Peer{Password: "secret", Port: 1790}
	for _, tt := range []struct {
		self string
		want []bgp.Peer
	}{
		{"both", []bgp.Peer{
			{Name: "both too", AS: 65001, Addr: b.V4, Local: a.V4, Password: "secret", Port: 1790},
			{Name: "only IPv6", Addr: hops(3).V6, Local: a.V6, Password: "secret", Port: 1790},
			{Name: "only IPv4", Addr: hops(4).V4, Local: a.V4, Password: "secret", Port: 1790},
		}},
		{"only IPv6", []bgp.Peer{
			{Name: "both", Addr: a.V6, Local: hops(3).V6, Passive: true, Password: "secret", Port: 1790},
			{Name: "both too", AS: 65001, Addr: b.V6, Local: hops(3).V6, Passive: true, Password: "secret", Port: 1790},
		}},
		{"stranger", nil},
	} {
		t.Run(tt.self, func(t *testing.T) { assert.Equal(t, tt.want, bgp.Mesh(tt.self, nodes, like)) })
	}
}

func TestCommunityText(t *testing.T) {
	for _, text := range []string{"0:0", "64512:100", "65535:65535"} {
		c, err := bgp.ParseCommunity(text)
		require.NoError(t, err)
		assert.Equal(t, text, c.String())
	}
	assert.Equal(t, "65535:65281", bgp.NoExport.String()) // RFC 1997
	for _, text := range []string{"", "1", "1:", ":1", "65536:1", "1:65536", "1:2:3", "-1:1", "a:b"} {
		_, err := bgp.ParseCommunity(text)
		require.ErrorIs(t, err, podweft.ErrInvalid, text)
	}
}
