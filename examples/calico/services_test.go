package calico_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

// services are what nodes tell external peers of the addresses of Services, of each kind: marked ranges of IPv4, and one not at all.
const services = `apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  asNumber: 64512
  serviceClusterIPs: [{cidr: 10.96.0.0/16}, {cidr: 10.97.0.0/16}, {cidr: "fd00:10:96::/112"}]
  serviceExternalIPs: [{cidr: 10.98.0.0/16}, {cidr: "fd00:10:98::/112"}]
  serviceLoadBalancerIPs: [{cidr: 10.99.0.0/16}, {cidr: "fd00:10:99::/112"}]
  communities: [{name: services, value: "64512:96"}]
  prefixAdvertisements: [{cidr: 10.96.0.0/12, communities: [services]}]
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: inside}
spec: {exportV4: [{action: Reject, matchOperator: In, cidr: 10.97.0.0/16}]}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 192.0.2.254, asNumber: 64600, filters: [inside]}
`

// aSwitch is a program as the switch at the top of the rack, which programs its kernel with what the node tells it: Services where they
// are marked as such, and pods where they are not.
type aSwitch struct {
	name, binary, config string // of which the verbs are the node
	start                func(t *testing.T, rack *testnet.Node, dir string)
}

var switches = []aSwitch{{
	name: "bird", binary: "/usr/sbin/bird",
	config: `log stderr all;
router id 192.0.2.254;
protocol device { }
protocol direct { ipv4; ipv6; interface "rack*"; }
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol kernel { ipv6 { export where source = RTS_BGP; }; }
protocol bgp { local 192.0.2.254 as 64600; neighbor %[1]s as 64512; passive on; debug { states, events };
	ipv4 { import where (net ~ 10.96.0.0/12) = ((64512, 96) ~ bgp_community); export none; };
	ipv6 { import all; export none; };
}
`,
	start: func(t *testing.T, rack *testnet.Node, dir string) {
		beside(t, "BIRD", rack.Command(context.Background(), "/usr/sbin/bird", "-f", "-c", dir+"/conf", "-s", dir+"/sock", "-P", dir+"/pid"))
	},
}, {
	name: "frr", binary: "/usr/lib/frr/bgpd",
	config: `debug bgp neighbor-events
router bgp 64600
 bgp router-id 192.0.2.254
 neighbor %[1]s remote-as 64512
 neighbor %[1]s passive
 address-family ipv4 unicast
  neighbor %[1]s route-map marked in
  neighbor %[1]s route-map none out
 exit-address-family
 address-family ipv6 unicast
  neighbor %[1]s activate
  neighbor %[1]s route-map all in
  neighbor %[1]s route-map none out
 exit-address-family
ip prefix-list services permit 10.96.0.0/12 le 32
bgp community-list standard services permit 64512:96
route-map marked permit 10
 match ip address prefix-list services
 match community services
route-map marked deny 20
 match ip address prefix-list services
route-map marked deny 30
 match community services
route-map marked permit 40
route-map all permit 10
route-map none deny 10
`,
	// zebra insists on a user who is in the group frrvty (lib/privs.c), and who is root of a namespace is in a group of that name as far
	// as it can see.
	start: func(t *testing.T, rack *testnet.Node, dir string) {
		require.NoError(t, os.WriteFile(dir+"/empty", nil, 0o600))
		require.NoError(t, os.WriteFile(dir+"/group", []byte("root:x:0:\nfrrvty:x:0:root\n"), 0o600))
		const zebra = `mount --bind "$0/group" /etc/group && exec /usr/lib/frr/zebra -u root -g root -f "$0/empty" -i "$0/zebra.pid" ` +
			`-z "$0/zebra" --vty_socket "$0" -P 0 --log stdout`
		beside(t, "zebra", rack.Command(context.Background(), "unshare", "--mount", "sh", "-c", zebra, dir))
		require.Eventually(t, func() bool {
			_, err := os.Stat(dir + "/zebra")
			return err == nil
		}, patience, 10*time.Millisecond, "the socket of what programs bgpd's routes")
		beside(t, "bgpd", rack.Command(context.Background(), "/usr/lib/frr/bgpd", "-f", dir+"/conf", "-i", dir+"/pid", "-z", dir+"/zebra",
			"--vty_socket", dir, "-P", "0", "-S", "--log", "stdout"))
	},
}}

// TestServices: from behind a real switch, Services and pods are reached by what a node's agent tells it, in both families over one
// session.
func TestServices(t *testing.T) {
	t.Parallel()
	for _, tor := range switches {
		t.Run(tor.name, func(t *testing.T) {
			t.Parallel()
			if _, err := os.Stat(tor.binary); err != nil {
				if os.Getenv("PODWEFT_REQUIRE_BGP_PEERS") == "1" {
					require.NoError(t, err)
				}
				t.Skipf("%s is not installed: apt install bird2 frr", tor.binary)
			}
			w := newWorld(t, 1)
			n := w.Nodes()[0]
			dir, err := os.MkdirTemp("", "tor") // TempDir is too long for a unix socket
			require.NoError(t, err)
			t.Cleanup(func() { os.RemoveAll(dir) })
			require.NoError(t, os.WriteFile(dir+"/conf", fmt.Appendf(nil, tor.config, n.V4), 0o600))
			objects := filepath.Join(dir, "calico.yaml")
			require.NoError(t, os.WriteFile(objects, []byte(services), 0o600))

			tor.start(t, w.Router, dir)
			var at []netip.Addr
			for _, a := range []string{
				"10.96.0.10", "fd00:10:96::10", "10.98.0.10", "fd00:10:98::10", "10.99.0.10", "fd00:10:99::10",
			} {
				at = append(at, netip.MustParseAddr(a))
			}
			inside := netip.MustParseAddr("10.97.0.10")
			answer(t, n, append(at, inside)...)
			w.launch(t, n, "--config="+objects)
			reaches(t, w.Router, at...)
			reaches(t, w.Router, w.add(t, n, "pod").addrs...)
			_, err = w.Router.Ping(t.Context(), inside)
			assert.ErrorIs(t, err, unix.ENETUNREACH, "what is filtered")
		})
	}
}

// answer has a node answer for the addresses of Services, as with kube-proxy.
func answer(t testing.TB, n *testnet.Node, addrs ...netip.Addr) {
	t.Helper()
	var h *netlink.Handle
	require.NoError(t, n.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}))
	defer h.Close()
	lo, err := h.LinkByName("lo")
	require.NoError(t, err)
	for _, a := range addrs {
		at := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
		if a.Is6() {
			at.Flags = unix.IFA_F_NODAD
		}
		require.NoError(t, h.AddrReplace(lo, at))
	}
}
