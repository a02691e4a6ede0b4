package adopt_test

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft/adopt"
)

// TestLeftovers: what others have left is named, and still there afterwards; what is nobody's, or ours, is not.
func TestLeftovers(t *testing.T) {
	n, h := host(t)
	found, err := adopt.Leftovers(t.Context(), n.NetNS())
	require.NoError(t, err)
	assert.Empty(t, found)

	for _, name := range []string{"cali0123456789a", "vxlan.calico", "tunl0", "podweft-vxlan", "flannel.1"} {
		link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "peer" + name[len(name)-2:]}
		if _, err := h.LinkByName(name); err != nil { // tunl0 may be there by itself
			require.NoError(t, h.LinkAdd(link))
		}
		require.NoError(t, h.LinkSetUp(link))
	}
	ours, err := h.LinkByName("podweft-vxlan")
	require.NoError(t, err)
	require.NoError(t, h.LinkSetAlias(ours, "podweft:calico"))
	eth0, err := h.LinkByName("eth0")
	require.NoError(t, err)
	for prefix, protocol := range map[string]netlink.RouteProtocol{"10.244.1.0/26": 80, "10.244.2.0/26": 12, "10.244.3.0/26": 12, "10.244.4.0/26": 4} {
		dst, err := netlink.ParseIPNet(prefix)
		require.NoError(t, err)
		require.NoError(t, h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: dst, Protocol: protocol, Scope: netlink.SCOPE_LINK}))
	}
	calm, err := adopt.Leftovers(t.Context(), n.NetNS())
	require.NoError(t, err)
	assert.NotContains(t, calm, adopt.Leftover{By: "Calico", Object: "link tunl0"}, "it appears by itself")
	tunl0, err := h.LinkByName("tunl0")
	require.NoError(t, err)
	at, err := netlink.ParseAddr("10.244.9.0/32")
	require.NoError(t, err)
	require.NoError(t, h.AddrAdd(tunl0, at))
	route(t, h, "10.244.6.0/24", "192.0.2.250", eth0, 0)
	route(t, h, "10.244.7.0/24", "192.0.2.251", eth0, 0)
	route(t, h, "10.9.0.0/24", "192.0.2.251", eth0, 0) // an administrator's
	want := []string{
		"link cali0123456789a (Calico)", "link vxlan.calico (Calico)", "link tunl0 (Calico)", "2 routes of proto 12, BIRD's (Calico)", "1 routes of proto 80, Felix's (Calico)",
		"link flannel.1 (flannel)", "2 routes of proto boot into 10.244.0.0/16, as flannel's are (flannel)",
	}
	for range 2 {
		found, err = adopt.Leftovers(t.Context(), n.NetNS(), netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/64"))
		require.NoError(t, err)
		var got []string
		for _, l := range found {
			got = append(got, l.String())
		}
		assert.ElementsMatch(t, want, got)
	}
}

// TestLeftoverChains: chains of both kinds of iptables, and tables of nftables.
func TestLeftoverChains(t *testing.T) {
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock")) // an ordinary user may not open the host's
	for _, program := range []string{"iptables-nft", "ip6tables-legacy", "nft"} {
		t.Run(program, func(t *testing.T) {
			if _, err := exec.LookPath(program); err != nil {
				if os.Getenv("PODWEFT_REQUIRE_KERNEL") == "1" {
					require.NoError(t, err, "apt install iptables nftables")
				}
				t.Skip(err)
			}
			n, _ := host(t)
			want := []string{"2 chains in table ", "1 chains in table "}
			commands := []string{"-t filter -N cali-INPUT", "-t filter -N cali-OUTPUT", "-t nat -N FLANNEL-POSTRTG", "-t nat -N OTHERS"}
			if program == "nft" {
				want = []string{"table ip calico", "table ip6 flannel-ipv6"}
				commands = []string{"add table ip calico", "add table ip6 flannel-ipv6", "add table ip others"}
			}
			for _, c := range commands {
				run(t, n, program+" "+c)
			}
			found, err := adopt.Leftovers(t.Context(), n.NetNS())
			require.NoError(t, err)
			require.Len(t, found, 2)
			for i, by := range []string{"Calico", "flannel"} {
				assert.Equal(t, by, found[i].By)
				assert.Contains(t, found[i].Object, want[i])
			}
		})
	}
}
