package vxlan_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// TestMTU sends packets that must not be fragmented from pod to pod, in every pair of underlay and inner family: one as long
// as the MTU arrives and fills the underlay's, one byte more is refused; by the pod's own link when that has the published
// MTU, by the node when it has a larger one.
func TestMTU(t *testing.T) {
	t.Parallel()
	const underlay, roomy = 1500, 9000
	v4, v6 := netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")
	for _, tc := range []struct {
		name      string
		fabric    testnet.FabricConfig
		change    func(*vxlan.Spec)
		published int
		v4, v6    int // of the link that carries the family
	}{
		{"both families over IPv4", testnet.FabricConfig{V4: v4}, carryBoth, 1450, 1450, 1450},
		{"both families over IPv6", testnet.FabricConfig{V6: v6}, carryBoth, 1430, 1430, 1430},
		{"each family over its own", testnet.FabricConfig{V4: v4, V6: v6}, nil, 1430, 1450, 1430},
		{"no tunnel", testnet.FabricConfig{V4: v4, V6: v6}, func(s *vxlan.Spec) { s.DirectRouting = true }, 1430, 1500, 1500},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			o := newOverlay(t, tc.fabric, tc.change)
			o.apply(t)
			n := o.fabric.Nodes[0]
			network, err := subnet.ParseNetwork([]byte(
				`{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "vxlan"}}`))
			require.NoError(t, err)
			self := subnet.Node{Name: n.Name, Device: "eth0", MTU: underlay, Underlay: subnet.Addrs{V4: n.V4, V6: n.V6}}
			_, published, err := vxlan.Publish(self, network, subnet.Data{})
			require.NoError(t, err)
			require.Equal(t, tc.published, published)
			for _, link := range []struct {
				name string
				mtu  int
			}{{"published MTU in the pod", published}, {"larger MTU in the pod", roomy}} {
				t.Run(link.name, func(t *testing.T) {
					pods := newPods(t, o, link.mtu)
					for _, to := range o.podAddrs(1) {
						carrier := tc.v6
						if to.Is4() {
							carrier = tc.v4
						}
						testMTU(t, n, pods[0], to, min(link.mtu, carrier), underlay-(carrier-min(link.mtu, carrier)))
					}
				})
			}
		})
	}
}

// testMTU sends packets of mtu bytes and of one more; the first come out of the node as packets of outer bytes.
func testMTU(t *testing.T, n, pod *testnet.Node, to netip.Addr, mtu, outer int) {
	t.Helper()
	require.NoError(t, sabotage.Reach(t.Context(), pod, to, testnet.Echo{}))
	eth0, err := n.Capture("eth0")
	require.NoError(t, err)
	defer eth0.Close()
	_, err = pod.Echo(t.Context(), to, testnet.Echo{Size: mtu, DontFragment: true})
	require.NoError(t, err, "%d bytes to %s", mtu, to)
	assert.Equal(t, outer, longestSent(t, eth0), "the whole MTU of the underlay, in one packet, for %s", to)

	_, err = pod.Echo(t.Context(), to, testnet.Echo{Size: mtu + 1, DontFragment: true})
	require.ErrorIs(t, err, unix.EMSGSIZE, "%d bytes to %s", mtu+1, to)
	assert.Zero(t, longestSent(t, eth0), "nothing of it left the node")
}

// longestSent is the length of the longest IP packet that left since the last call. Neighbour discovery and other short ones do
// not count.
func longestSent(t *testing.T, c *testnet.Capture) int {
	t.Helper()
	time.Sleep(10 * time.Millisecond) // what is under way
	const ethernet, short = 14, 1000
	lengths := []int{0}
	_, err := c.Count(func(p testnet.Packet) bool {
		counts := p.Sent && len(p.Frame) > short
		if counts {
			lengths = append(lengths, len(p.Frame)-ethernet)
		}
		return counts
	})
	require.NoError(t, err)
	return slices.Max(lengths)
}
