package ipip_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/ipip"
	"github.com/podweft/podweft/testnet"
)

const patience = sabotage.Patience

var (
	underlay4 = netip.MustParsePrefix(testnet.DefaultV4)
	underlay6 = netip.MustParsePrefix(testnet.DefaultV6)
)

// scenario is an underlay, and which pods there are on it.
type scenario struct {
	name   string
	fabric testnet.FabricConfig
	v4Only bool // pods
}

// scenarios are all combinations of what a tunnel can carry over what.
var scenarios = []scenario{
	{"IPv4 over IPv4", testnet.FabricConfig{V4: underlay4}, true},
	{"both over IPv6", testnet.FabricConfig{V6: underlay6}, false},
	{"IPv4 over IPv4 and IPv6 over IPv6", testnet.FabricConfig{}, false},
}

// overlay is an IP-in-IP network over a testnet fabric, its Specs written by hand: node i (from 1) has the pod subnets 10.244.i.0/24
// and fd00:244:0:i::/64, and its tunnels answer at their zero addresses.
type overlay struct {
	scenario
	fabric  *testnet.Fabric
	drivers []*ipip.Driver
	specs   []ipip.Spec
}

// eachOverlay runs test for each scenario. Where the kernel lacks a module that the scenario needs, it sees to it that the driver says
// so instead; with PODWEFT_REQUIRE_IPIP=1 in the environment, as in hack/vmtest, that is a failure.
func eachOverlay(t *testing.T, test func(t *testing.T, o *overlay)) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			if o := newOverlay(t, s); o.supported(t) {
				test(t, o)
			}
		})
	}
}

func newOverlay(t testing.TB, s scenario) *overlay {
	t.Helper()
	o := &overlay{scenario: s, fabric: testnet.NewFabric(t, s.fabric)}
	for i, n := range o.fabric.Nodes {
		o.specs = append(o.specs, o.handMade(i))
		o.drivers = append(o.drivers, newDriver(t, n, ""))
	}
	return o
}

func newDriver(t testing.TB, n *testnet.Node, owner string) *ipip.Driver {
	t.Helper()
	d, err := ipip.New(ipip.Config{Owner: owner, NetNS: n.NetNS()})
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// podSubnets are those of node number i, from 0, by the address of its that leads to them.
func (o *overlay) podSubnets(i int) map[netip.Addr][]netip.Prefix {
	n := o.fabric.Nodes[i]
	by := map[netip.Addr][]netip.Prefix{}
	for _, prefix := range []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%x::/64", i+1)),
	} {
		to := n.V4
		if !n.V4.IsValid() || prefix.Addr().Is6() && n.V6.IsValid() {
			to = n.V6
		}
		if prefix.Addr().Is4() || !o.v4Only {
			by[to] = append(by[to], prefix)
		}
	}
	return by
}

func (o *overlay) handMade(own int) ipip.Spec {
	var spec ipip.Spec
	for _, local := range o.fabric.Nodes[own].Addrs() {
		t := ipip.Tunnel{Device: "eth0", Local: local}
		for _, prefix := range o.podSubnets(own)[local] {
			t.Addresses = append(t.Addresses, netip.PrefixFrom(prefix.Addr(), prefix.Addr().BitLen()))
		}
		spec.Tunnels = append(spec.Tunnels, t)
	}
	for i, n := range o.fabric.Nodes {
		if i == own {
			continue
		}
		for _, to := range n.Addrs() {
			spec.Peers = append(spec.Peers, ipip.Peer{Node: n.Name, Underlay: to, Prefixes: o.podSubnets(i)[to]})
		}
	}
	return spec
}

// supported reports whether the kernel has the modules for the overlay.
func (o *overlay) supported(t *testing.T) bool {
	t.Helper()
	missing := map[string]bool{}
	for _, spec := range o.specs[:1] {
		for _, tunnel := range spec.Tunnels {
			if kind, module := kindOf(tunnel); !kernelHas(t, kind) {
				missing[module] = true
			}
		}
	}
	if len(missing) == 0 {
		return true
	}
	_, err := o.drivers[0].Apply(t.Context(), o.specs[0])
	require.ErrorIs(t, err, podweft.ErrNotSupported)
	require.ErrorIs(t, err, unix.EOPNOTSUPP)
	for module := range missing {
		require.ErrorContains(t, err, "not supported by this kernel: it lacks the module "+module)
	}
	require.NotEqual(t, "1", os.Getenv("PODWEFT_REQUIRE_IPIP"), "%v", err)
	t.Logf("not tested with packets, which make vmtest does: %v", err)
	return false
}

func kindOf(t ipip.Tunnel) (kind, module string) {
	if t.Local.Is4() {
		return "ipip", "ipip"
	}
	return "ip6tnl", "ip6_tunnel"
}

// kernelHas asks a namespace that has no other purpose: the kernel loads the module if it can.
func kernelHas(t testing.TB, kind string) bool {
	t.Helper()
	h := inNode(t, testnet.NewNode(t, "probe"))
	err := h.LinkAdd(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, LinkType: kind})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		require.ErrorIs(t, err, unix.EEXIST) // the kernel's own, tunl0 and the like, has the same addresses: none
	}
	return !errors.Is(err, unix.EOPNOTSUPP)
}

func (o *overlay) apply(t testing.TB) {
	t.Helper()
	for i, d := range o.drivers {
		_, err := d.Apply(t.Context(), o.specs[i])
		require.NoError(t, err, o.fabric.Nodes[i].Name)
	}
}

// targets are the overlay addresses of node number i.
func (o *overlay) targets(i int) []netip.Addr {
	var all []netip.Addr
	for _, t := range o.specs[i].Tunnels {
		for _, a := range t.Addresses {
			all = append(all, a.Addr())
		}
	}
	return all
}

// requireReachable pings every node from every other, over every family.
func (o *overlay) requireReachable(t testing.TB) {
	t.Helper()
	for i, from := range o.fabric.Nodes {
		for j := range o.fabric.Nodes {
			if i == j {
				continue
			}
			for _, to := range o.targets(j) {
				require.NoError(t, sabotage.Reach(t.Context(), from, to, testnet.Echo{}), "%s to %s", from.Name, to)
			}
		}
	}
}

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

func linkNamed(t testing.TB, h *netlink.Handle, name string) netlink.Link {
	t.Helper()
	l, err := h.LinkByName(name)
	require.NoError(t, err)
	return l
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
