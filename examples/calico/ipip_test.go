package calico_test

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/testnet"
)

// TestIPIP: pods of pools with ipipMode reach each other, in a packet's packet (protocol 4 or 41) where the mode says so and only there,
// with all that the pods' MTU allows. A kernel without the module is told of, which with PODWEFT_REQUIRE_IPIP=1 in the environment, as
// in hack/vmtest, is a failure.
func TestIPIP(t *testing.T) {
	for mode, within := range map[calico.Mode]string{calico.Always: "ipip", calico.CrossSubnet: "direct"} {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, 2)
			pools := pools(calico.Never)
			for i := range pools {
				pools[i].IPIP = mode
			}
			nodes := w.Nodes()[:3] // the third is in the other rack
			if !hasIPIP(t) {
				require.NotEqual(t, "1", os.Getenv("PODWEFT_REQUIRE_IPIP"), "this kernel has no ipip")
				agent, _ := start(t, w.config(t, nodes[0], pools))
				waitFor(t, agent, "the module's name", func(s calico.Status) bool {
					return slices.ContainsFunc(s.Parts, func(p calico.PartStatus) bool {
						return strings.Contains(strings.Join(p.Failing, "; "), "it lacks the module ipip")
					})
				})
				return
			}
			var agents []*calico.Agent
			var pods []*pod
			for i, n := range nodes {
				agent, _ := start(t, w.config(t, n, pools))
				agents = append(agents, agent)
				pods = append(pods, w.add(t, n, "pod"+string(rune('a'+i))))
			}
			from := pods[0]
			mtu := agents[0].Status(t.Context()).MTU
			assert.Equal(t, 1500-40, mtu, "less an IPv6 header, the larger one")
			s := waitFor(t, agents[0], "routes", func(s calico.Status) bool { return len(s.Routes) >= 4 })
			assert.Zero(t, s.Failing(), "%+v", s.Parts)
			for _, to := range pods[1:] {
				want := map[*pod]string{pods[1]: within, pods[2]: "ipip"}[to]
				for _, a := range to.addrs {
					reaches(t, from.Node, a)
					i := slices.IndexFunc(s.Routes, func(r calico.Route) bool { return r.Prefix.Contains(a) })
					require.NotEqual(t, -1, i, "%s: %+v", a, s.Routes)
					assert.Equal(t, want, s.Routes[i].Way, s.Routes[i].String())
					assert.Equal(t, want == "ipip", wrapped(t, from, a, mtu), "%s in %s", a, to.host.Name)
				}
			}
		})
	}
}

// hasIPIP reports whether the kernel has links of both families.
func hasIPIP(t *testing.T) bool {
	t.Helper()
	var err error
	require.NoError(t, testnet.NewNode(t, "probe").Do(func() error {
		for _, kind := range []string{"ipip", "ip6tnl"} {
			added := netlink.LinkAdd(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: kind}, LinkType: kind})
			if !errors.Is(added, unix.EEXIST) { // the kernel's own, tunl0 and the like
				err = errors.Join(err, added)
			}
		}
		return nil
	}))
	return !errors.Is(err, unix.EOPNOTSUPP)
}

// wrapped sends an echo request of exactly the pods' MTU and reports whether it was seen on the wire in another packet.
func wrapped(t *testing.T, from *pod, to netip.Addr, mtu int) bool {
	t.Helper()
	c, err := from.host.Capture("eth0")
	require.NoError(t, err)
	defer c.Close()
	_, err = from.Echo(t.Context(), to, testnet.Echo{Size: mtu, DontFragment: true})
	require.NoError(t, err)
	inner, bare := 0, 0
	_, err = c.Count(func(p testnet.Packet) bool {
		if !p.Sent || len(p.Frame) < mtu {
			return false
		}
		protocol := p.Frame[23] // of IPv4, RFC 791, 3.1
		if p.Frame[12] == 0x86 {
			protocol = p.Frame[20] // of IPv6, RFC 8200, 3
		}
		switch protocol {
		case unix.IPPROTO_IPIP, unix.IPPROTO_IPV6:
			inner++
		case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
			bare++
		}
		return true
	})
	require.NoError(t, err)
	require.Equal(t, 1, inner+bare, "one packet, %d of them wrapped up and %d not", inner, bare)
	return inner > 0
}
