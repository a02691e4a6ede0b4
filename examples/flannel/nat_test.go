package flannel

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/testnet"
)

// publicAddrs are what the nodes of two racks are known by beyond the router, which has no such addresses itself.
var publicAddrs = []subnet.Addrs{
	{V4: netip.MustParseAddr("203.0.113.101"), V6: netip.MustParseAddr("2001:db8:f::101")},
	{V4: netip.MustParseAddr("203.0.113.102"), V6: netip.MustParseAddr("2001:db8:f::102")},
}

// translate has the router stand before each node as a cloud's does: its public address leads to it, and is the source of what it sends.
// By their own addresses nodes do not reach each other.
func translate(t testing.TB, r *testnet.Racks) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil && os.Getenv("PODWEFT_REQUIRE_KERNEL") == "" {
		t.Skip(err)
	}
	var in, out strings.Builder
	for i, n := range r.Nodes() {
		for _, a := range []struct {
			family        string
			public, local netip.Addr
		}{{"ip", publicAddrs[i].V4, n.V4}, {"ip6", publicAddrs[i].V6, n.V6}} {
			fmt.Fprintf(&in, "%[1]s daddr %[2]s dnat %[1]s to %[3]s\n", a.family, a.public, a.local)
			fmt.Fprintf(&out, "%[1]s saddr %[2]s snat %[1]s to %[3]s\n", a.family, a.local, a.public)
		}
	}
	cmd := r.Router.Command(t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(`table inet cloud {
		chain in { type nat hook prerouting priority dstnat; ` + in.String() + ` }
		chain out { type nat hook postrouting priority srcnat; ` + out.String() + ` }
		chain forward { type filter hook forward priority filter; ct status dnat accept; drop; }
	}`)
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", said)
}

// TestBehindNAT: each of two nodes publishes the address of a NAT before it, which no interface of it has. Tunnels begin at the
// interface's own address; pods talk.
func TestBehindNAT(t *testing.T) {
	type row struct{ name, conf, link string }
	rows := []row{
		{"vxlan", `{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:244::/48","Backend":{"Type":"vxlan"}}`, "flannel.1"},
		{"udp", `{"Network":"10.244.0.0/16","Backend":{"Type":"udp"}}`, ""},
	}
	if haveIPIP(t) {
		rows = append(rows, row{"ipip", `{"Network":"10.244.0.0/16","Backend":{"Type":"ipip"}}`, ""})
	}
	for _, tc := range rows {
		t.Run(tc.name, func(t *testing.T) {
			if tc.name == "udp" {
				needTUN(t)
			}
			url, store := startEtcd(t, tc.conf)
			racks := testnet.NewRacks(t, testnet.RacksConfig{Nodes: 1})
			translate(t, racks)
			var agents []*agent
			for i, n := range racks.Nodes() {
				public := publicAddrs[i]
				a := newAgent(t, n, n.Name, url, "--public-ip", public.V4.String(), "--public-ipv6", public.V6.String())
				a.start()
				agents = append(agents, a)
			}
			agents[0].ready()
			agents[1].ready()
			leases := present(t, store)
			for i, n := range racks.Nodes() {
				own, peer := leases.Lease(n.Name), leases.Lease(racks.Nodes()[1-i].Name)
				require.NotNil(t, own)
				require.NotNil(t, peer)
				assert.Equal(t, publicAddrs[i], own.Underlay, "where peers send")
				for prefix := range own.Prefixes.All() { // the addresses of the nodes' tunnels
					to := peer.Prefixes.V6.Addr()
					if prefix.Addr().Is4() {
						to = peer.Prefixes.V4.Addr()
					}
					reaches(t, n, prefix.Addr(), to)
				}
				if tc.link != "" {
					vtep, err := agents[i].netlink().LinkByName(tc.link)
					require.NoError(t, err)
					assert.True(t, net.IP(n.V4.AsSlice()).Equal(vtep.(*netlink.Vxlan).SrcAddr), "%v", vtep)
				}
			}
			from, to := agents[0].pod(), agents[1].pod()
			reaches(t, racks.Nodes()[0], from, to)
			reaches(t, racks.Nodes()[1], to, from)
		})
	}
}

// TestNoNAT: what cannot work behind a NAT ends with one sentence.
func TestNoNAT(t *testing.T) {
	n := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1, Outside: true}).Nodes[0]
	url, _ := startEtcd(t, `{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}`)
	a := newAgent(t, n, "a", url, "--public-ip=203.0.113.101")
	for _, command := range [][]string{{"plan"}, nil} {
		out, err := a.command(command...).CombinedOutput()
		require.Error(t, err)
		assert.Contains(t, sentence(t, string(out)), "Node.Public: 203.0.113.101 is no address of eth0, so that peers could not route to pods by it")
	}
}
