package node_test

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// inNode opens netlink in a node, for what a person would do there with ip.
func inNode(t testing.TB, n *testnet.Node) *netlink.Handle {
	t.Helper()
	var h *netlink.Handle
	require.NoError(t, n.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}))
	t.Cleanup(h.Close)
	return h
}

func addLink(t testing.TB, h *netlink.Handle, l netlink.Link, addrs ...string) {
	t.Helper()
	require.NoError(t, h.LinkAdd(l))
	link, err := h.LinkByName(l.Attrs().Name)
	require.NoError(t, err)
	require.NoError(t, h.LinkSetUp(link))
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		require.NoError(t, err)
		a.Flags = unix.IFA_F_NODAD
		require.NoError(t, h.AddrAdd(link, a))
	}
}

// addrs are addresses of each family; empty: none.
func addrs(v4, v6 string) (a subnet.Addrs) {
	a.V4, _ = netip.ParseAddr(v4)
	a.V6, _ = netip.ParseAddr(v6)
	return a
}

func TestChoose(t *testing.T) {
	fabric := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1, Outside: true})
	n := fabric.Nodes[0]
	h := inNode(t, n)
	addLink(t, h, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1", MTU: 9000}, PeerName: "eth1-peer"}, "198.51.100.7/24", "198.51.100.8/24", "2001:db8:1::7/64")
	addLink(t, h, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}, "198.51.101.1/24")
	d, err := vxlan.New(vxlan.Config{NetNS: n.NetNS()})
	require.NoError(t, err)
	defer d.Close()
	vtep, err := netip.ParseAddr("10.0.0.1")
	require.NoError(t, err)
	_, err = d.Apply(t.Context(), vxlan.Spec{VTEPs: []vxlan.VTEP{{
		VNI: 1, Device: "eth0", Local: n.V4, MAC: [6]byte{0x0e, 1}, Addresses: []netip.Prefix{netip.PrefixFrom(vtep, 32)},
	}}})
	require.NoError(t, err)

	for _, tc := range []struct {
		name   string
		choice node.Choice
		want   string // the device, or a part of the error
	}{
		{"default route", node.Choice{}, "eth0"},
		{"name", node.Choice{Name: "eth1"}, "eth1"},
		{"address", node.Choice{Name: "2001:db8:1::7"}, "eth1"},
		{"pattern", node.Choice{Match: regexp.MustCompile(`^198\.51\.100\.`)}, "eth1"},
		{"reach", node.Choice{Reach: netip.MustParseAddr("198.51.100.99")}, "eth1"},
		{"reach by the default route", node.Choice{Reach: netip.MustParseAddr("203.0.113.1")}, "eth0"},
		{"a bridge by its name", node.Choice{Name: "br0"}, "br0"},
		{"all of it", node.Choice{Name: "eth1", Match: regexp.MustCompile("eth"), Reach: netip.MustParseAddr("2001:db8:1::1")}, "eth1"},
		{"public address", node.Choice{Public: addrs("198.51.100.8", "2001:db8:1::7")}, "eth1"},
		{"public address of an interface without default route", node.Choice{Public: addrs("198.51.100.7", "")}, "eth1"},
		{"public address of a bridge", node.Choice{Public: addrs("198.51.101.1", "")}, "br0"},
		{"public address of another", node.Choice{Name: "eth0", Public: addrs("198.51.100.8", "")}, "does not have 198.51.100.8"},
		{"public address of a NAT", node.Choice{Public: addrs("203.0.113.99", "")}, "eth0"},
		{"public address of a NAT, and a name", node.Choice{Name: "eth1", Public: addrs("203.0.113.99", "2001:db8:f::99")}, "eth1"},
		{"public address of a NAT, and a pattern", node.Choice{Match: regexp.MustCompile("^eth1"), Public: addrs("203.0.113.99", "")}, "eth1"},
		{"public address of a NAT, and one of an interface", node.Choice{Public: addrs("203.0.113.99", "2001:db8:1::7")}, "eth1"},
		{"public address that nothing stands for", node.Choice{Name: "br0", Public: addrs("", "2001:db8:f::99")}, "br0 (198.51.101.1): has no IPv6 address that 2001:db8:f::99 could stand for"},
		{"ambiguous", node.Choice{Match: regexp.MustCompile("^eth[01]$")}, "several interfaces could be the underlay"},
		{"unknown", node.Choice{Name: "eth9"}, "eth0 (192.0.2.1, 2001:db8::1): not named eth9"},
		{"contradiction", node.Choice{Name: "eth1", Reach: netip.MustParseAddr("203.0.113.1")}, "does not lead to 203.0.113.1"},
		{"a bridge by a pattern", node.Choice{Match: regexp.MustCompile("br0")}, "a bridge, which only its name chooses"},
		{"our own", node.Choice{Name: "flannel.1"}, "flannel.1 (10.0.0.1): made by podweft"},
		{"without address", node.Choice{Name: "eth1-peer"}, "eth1-peer: down"},
		{"loopback", node.Choice{Name: "lo"}, "lo: loopback"},
		{"default route of one family", node.Choice{Family: 6}, "eth0"},
		{"name and family", node.Choice{Name: "eth1", Family: 6}, "eth1"},
		{"no address of the family", node.Choice{Name: "br0", Family: 6}, "br0: has no IPv6 address that peers could send to"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := node.Choose(t.Context(), n.NetNS(), tc.choice)
			if err != nil {
				var choice *node.ChoiceError
				require.ErrorAs(t, err, &choice)
				assert.Equal(t, tc.name == "ambiguous", choice.Ambiguous())
				assert.ErrorContains(t, err, tc.want)
				return
			}
			assert.Equal(t, tc.want, got.Device)
		})
	}
	got, err := node.Choose(t.Context(), n.NetNS(), node.Choice{Name: "eth1"})
	require.NoError(t, err)
	assert.Equal(t, 9000, got.MTU)
	assert.Equal(t, "198.51.100.7, 2001:db8:1::7", got.Underlay.String())
	for _, choice := range []node.Choice{{Name: "198.51.100.8"}, {Name: "eth1", Public: addrs("198.51.100.8", "")}} {
		got, err := node.Choose(t.Context(), n.NetNS(), choice)
		require.NoError(t, err)
		assert.Equal(t, "198.51.100.8, 2001:db8:1::7", got.Underlay.String(), "the address that was asked for, and not the first")
		assert.Equal(t, got.Underlay, got.Published())
	}
	got, err = node.Choose(t.Context(), n.NetNS(), node.Choice{Name: "eth1", Public: addrs("203.0.113.99", "")})
	require.NoError(t, err)
	assert.Equal(t, "198.51.100.7, 2001:db8:1::7", got.Underlay.String(), "what it sends from")
	assert.Equal(t, addrs("203.0.113.99", ""), got.Public)
	assert.Equal(t, "203.0.113.99, 2001:db8:1::7", got.Published().String())
}

func TestChoiceRefusals(t *testing.T) {
	for _, tc := range []struct {
		name   string
		choice node.Choice
		want   string
	}{
		{"family", node.Choice{Family: 5}, "Underlay.Family: 5 is no family of addresses: use 4, 6, or 0 for both"},
		{"public address of the other family", node.Choice{Public: addrs("2001:db8::1", "")}, "Underlay.Public.V4: 2001:db8::1 is not an IPv4 address: give the address that peers send to"},
		{"two spellings", node.Choice{Public: addrs("", "::ffff:192.0.2.1")}, "Underlay.Public.V6: ::ffff:192.0.2.1 is not an IPv6 address: give the address that peers send to"},
		{"public address of nobody", node.Choice{Public: addrs("127.0.0.1", "fe80::1")}, "Underlay.Public.V4: 127.0.0.1 is not an address that peers could send to: give the address that peers send to\n" +
			"Underlay.Public.V6: fe80::1 is not an address that peers could send to: give the address that peers send to"},
		{"public address of no family", node.Choice{Family: 6, Public: addrs("192.0.2.1", "")}, "Underlay.Public.V4: 192.0.2.1 does not count on a node of IPv6 alone: give the address that peers send to"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := node.Choose(t.Context(), "", tc.choice)
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.EqualError(t, err, tc.want)
		})
	}
}

// TestFamily: each family's default route leads over another interface.
func TestFamily(t *testing.T) {
	n := testnet.NewNode(t, "n")
	h := inNode(t, n)
	for i, link := range []struct{ v4, v6, gateway string }{
		{"192.0.2.1/24", "2001:db8::1/64", "192.0.2.254"}, {"198.51.100.1/24", "2001:db8:1::1/64", "2001:db8:1::fe"},
	} {
		name := fmt.Sprintf("eth%d", i)
		addLink(t, h, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "far" + name}, link.v4, link.v6)
		far, err := h.LinkByName("far" + name)
		require.NoError(t, err)
		require.NoError(t, h.LinkSetUp(far))
		eth, err := h.LinkByName(name)
		require.NoError(t, err)
		require.NoError(t, h.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: net.ParseIP(link.gateway)}))
	}
	_, err := node.Choose(t.Context(), n.NetNS(), node.Choice{})
	var choice *node.ChoiceError
	require.ErrorAs(t, err, &choice)
	assert.True(t, choice.Ambiguous())
	for family, want := range map[int]string{4: "eth0 192.0.2.1", 6: "eth1 2001:db8:1::1"} {
		got, err := node.Choose(t.Context(), n.NetNS(), node.Choice{Family: family})
		require.NoError(t, err)
		assert.Equal(t, want, got.Device+" "+got.Underlay.String())
	}
}

// TestOtherAddressesDoNotMoveTheNode: those that come to the underlay interface later, such as the virtual ones of keepalived, and
// those that the kernel gives up.
func TestOtherAddressesDoNotMoveTheNode(t *testing.T) {
	n := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1}).Nodes[0]
	h := inNode(t, n)
	eth0, err := h.LinkByName("eth0")
	require.NoError(t, err)
	add := func(text string, preferred, flags int) {
		t.Helper()
		a, err := netlink.ParseAddr(text)
		require.NoError(t, err)
		a.Flags = flags
		if preferred >= 0 {
			a.PreferedLft, a.ValidLft = preferred, 3600
		}
		require.NoError(t, h.AddrReplace(eth0, a))
	}
	requireAt := func(want string, choice node.Choice) {
		t.Helper()
		got, err := node.Choose(t.Context(), n.NetNS(), choice)
		require.NoError(t, err)
		assert.Equal(t, want, got.Underlay.String())
	}
	byName := node.Choice{Name: "eth0"}
	requireAt("192.0.2.1, 2001:db8::1", byName)
	for _, later := range []string{"192.0.2.50/32", "192.0.2.51/24", "198.51.100.7/24", "2001:db8::50/128", "2001:db8::51/64", "2001:db8:7::7/64"} {
		add(later, -1, unix.IFA_F_NODAD)
		requireAt("192.0.2.1, 2001:db8::1", byName)
	}
	requireAt("198.51.100.7, 2001:db8::1", node.Choice{Name: "198.51.100.7"})
	requireAt("192.0.2.1, 2001:db8:7::7", node.Choice{Name: "eth0", Match: regexp.MustCompile("^2001:db8:7:")})

	add("2001:db8::1/64", 0, unix.IFA_F_NODAD) // deprecated: its network gets another number
	requireAt("192.0.2.1, 2001:db8::50", byName)
	requireAt("192.0.2.1, 2001:db8::1", node.Choice{Name: "2001:db8::1"})
}
