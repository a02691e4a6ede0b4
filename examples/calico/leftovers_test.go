package calico_test

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/examples/calico"
)

// TestLeftovers: what Calico and flannel have left on a node is named at start and is there afterwards, also where it is in the way: of that
// route alone it is said that it fails.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	n, near := w.Nodes()[0], w.Nodes()[1]
	all := pools(calico.CrossSubnet)
	other, _ := start(t, w.config(t, near, all))
	s := waitFor(t, other, "its blocks", func(s calico.Status) bool { return len(s.Blocks) == 2 })
	v4 := slices.IndexFunc(s.Blocks, func(b calico.Block) bool { return b.Prefix.Addr().Is4() })
	wanted, theirs := s.Blocks[v4].Prefix, netip.MustParsePrefix("10.244.255.0/26")
	require.False(t, wanted.Overlaps(theirs))

	var h *netlink.Handle
	require.NoError(t, n.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}))
	t.Cleanup(h.Close)
	for name, addr := range map[string]string{"cali0123456789a": "", "tunl0": "10.244.255.64/32"} {
		link, err := h.LinkByName(name) // the kernel may have made it by itself
		if err != nil {
			require.NoError(t, h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "of-" + name[:4]}))
			link, err = h.LinkByName(name)
			require.NoError(t, err)
		}
		if addr != "" {
			at, err := netlink.ParseAddr(addr)
			require.NoError(t, err)
			require.NoError(t, h.AddrAdd(link, at))
		}
		require.NoError(t, h.LinkSetUp(link))
	}
	// Felix's is where one of ours belongs.
	for prefix, protocol := range map[netip.Prefix]netlink.RouteProtocol{wanted: 80, theirs: unix.RTPROT_BOOT} {
		dst := &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), 32)}
		require.NoError(t, h.RouteAdd(&netlink.Route{Dst: dst, Gw: near.V4.AsSlice(), Protocol: protocol}))
	}
	iptables := func(args ...string) string {
		t.Helper()
		cmd := n.Command(t.Context(), "iptables-nft", args...)
		cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+filepath.Join(t.TempDir(), "lock")) // an ordinary user may not open the host's
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	_, missing := exec.LookPath("iptables-nft")
	if missing != nil && os.Getenv("PODWEFT_REQUIRE_KERNEL") == "1" {
		require.NoError(t, missing, "apt install iptables")
	}
	want := []string{"link cali0123456789a (Calico)", "link tunl0 (Calico)", "1 routes of proto 80, Felix's (Calico)",
		"1 routes of proto boot into 10.244.0.0/16, as flannel's are (flannel)"}
	if missing == nil {
		iptables("-N", "cali-INPUT")
		iptables("-A", "INPUT", "-j", "cali-INPUT")
		want = append(want, "1 chains in table ip filter (Calico)")
	}

	agent, stop := start(t, w.config(t, n, all))
	assert.ElementsMatch(t, want, agent.Status(t.Context()).Leftovers)
	s = waitFor(t, agent, "what it says of the route in the way", func(s calico.Status) bool { return s.Failing() > 0 && len(s.Routes) == 2 })
	var failing []string
	for _, p := range s.Parts {
		failing = append(failing, p.Failing...)
	}
	require.Len(t, failing, 1)
	assert.Contains(t, failing[0], wanted.String())
	stop()

	for _, name := range []string{"cali0123456789a", "tunl0"} {
		link, err := h.LinkByName(name)
		require.NoError(t, err)
		assert.NotZero(t, link.Attrs().Flags&net.FlagUp, name)
	}
	routes, err := h.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	require.NoError(t, err)
	left := map[string]netlink.RouteProtocol{}
	for _, r := range routes {
		if r.Dst != nil {
			left[r.Dst.String()] = r.Protocol
		}
	}
	assert.Equal(t, netlink.RouteProtocol(80), left[wanted.String()])
	assert.Equal(t, netlink.RouteProtocol(unix.RTPROT_BOOT), left[theirs.String()])
	if missing == nil {
		assert.Equal(t, 1, strings.Count(iptables("-S", "INPUT"), "-j cali-INPUT"))
	}
}
