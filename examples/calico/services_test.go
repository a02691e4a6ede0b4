package calico_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

// services are what nodes tell external peers of the addresses of Services: one range marked, and one not at all.
const services = `apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  asNumber: 64512
  serviceClusterIPs: [{cidr: 10.96.0.0/16}, {cidr: 10.97.0.0/16}, {cidr: "fd00:10:96::/112"}]
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

// switchOf is the configuration of BIRD as the switch at the top of the rack, which programs its kernel with what the node tells it:
// Services where they are marked as such, and pods where they are not.
const switchOf = `log stderr all;
router id 192.0.2.254;
protocol device { }
protocol direct { ipv4; ipv6; interface "rack*"; }
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol kernel { ipv6 { export where source = RTS_BGP; }; }
protocol bgp { local 192.0.2.254 as 64600; neighbor %s as 64512; passive on; debug { states, events };
	ipv4 { import where (net ~ 10.96.0.0/12) = ((64512, 96) ~ bgp_community); export none; };
	ipv6 { import all; export none; };
}
`

// TestServices: from behind a real switch, Services and pods are reached by what a node's agent tells it, in both families over one
// session.
func TestServices(t *testing.T) {
	t.Parallel()
	const bird = "/usr/sbin/bird"
	if _, err := os.Stat(bird); err != nil {
		if os.Getenv("PODWEFT_REQUIRE_BGP_PEERS") == "1" {
			require.NoError(t, err)
		}
		t.Skip("BIRD is not installed: apt install bird2")
	}
	w := newWorld(t, 1)
	n := w.Nodes()[0]
	dir, err := os.MkdirTemp("", "bird") // TempDir is too long for a unix socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.WriteFile(dir+"/conf", fmt.Appendf(nil, switchOf, n.V4), 0o600))
	objects := filepath.Join(dir, "calico.yaml")
	require.NoError(t, os.WriteFile(objects, []byte(services), 0o600))

	tor := w.Router.Command(context.Background(), bird, "-f", "-c", dir+"/conf", "-s", dir+"/sock", "-P", dir+"/pid")
	beside(t, "BIRD", tor)
	at, inside := []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::10")}, netip.MustParseAddr("10.97.0.10")
	answer(t, n, append(at, inside)...)
	w.launch(t, n, "--config="+objects)
	reaches(t, w.Router, at...)
	reaches(t, w.Router, w.add(t, n, "pod").addrs...)
	_, err = w.Router.Ping(t.Context(), inside)
	assert.ErrorIs(t, err, unix.ENETUNREACH, "what is filtered")
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
