package hostgw_test

import (
	"bytes"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/testnet"
)

func TestApplyMakesPacketsFlow(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fabric testnet.FabricConfig
		change func(*hostgw.Spec)
	}{
		{"dual stack", testnet.FabricConfig{Nodes: 3}, nil},
		{"IPv4", testnet.FabricConfig{V4: netip.MustParsePrefix("192.0.2.0/24")}, nil},
		{"IPv6", testnet.FabricConfig{V6: netip.MustParsePrefix("2001:db8::/64")}, nil},
		{"with a metric", testnet.FabricConfig{}, func(s *hostgw.Spec) { s.Metric = 77 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, tt.fabric)
			for i := range c.specs {
				if tt.change != nil {
					tt.change(&c.specs[i])
				}
			}
			c.apply(t)
			c.requireReachable(t)
			for i, d := range c.drivers {
				plan, err := d.Plan(t.Context(), c.specs[i])
				require.NoError(t, err)
				assert.Empty(t, plan.String(), "Plan after Apply")
				plan, err = d.Apply(t.Context(), c.specs[i])
				require.NoError(t, err)
				assert.Empty(t, plan.String(), "second Apply")
			}
		})
	}
}

// TestPlan holds the dry run that a person reads.
func TestPlan(t *testing.T) {
	c := newCluster(t, testnet.FabricConfig{Nodes: 1})
	spec := hostgw.Spec{Device: "eth0", Peers: []hostgw.Peer{
		{Node: "two", Underlay: netip.MustParseAddr("2001:db8::2"), Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00:244:0:2::/64")}},
		{Node: "two", Underlay: netip.MustParseAddr("192.0.2.2"), Prefixes: []netip.Prefix{
			netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("10.245.2.0/24"),
		}},
		{Node: "far", Underlay: netip.MustParseAddr("198.51.100.9"), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}},
	}}
	const want = `+ nexthop 2079195136 via 192.0.2.2 dev eth0
+ nexthop 2079195137 via 2001:db8::2 dev eth0
+ route 10.244.2.0/24 via 192.0.2.2 dev eth0 nhid 2079195136
+ route 10.245.2.0/24 via 192.0.2.2 dev eth0 nhid 2079195136
+ route fd00:244:0:2::/64 via 2001:db8::2 dev eth0 nhid 2079195137 metric 1024
+ peer 198.51.100.9 (far) for [10.244.9.0/24]  ! reach peer 198.51.100.9 (far) for [10.244.9.0/24]: not on the link of eth0, ` +
		"which is on [192.0.2.0/24 2001:db8::/64]\n"
	plan, err := c.drivers[0].Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, want, withoutLinkLocal(plan))
	assert.Empty(t, c.routes(t, 0, unix.RT_TABLE_MAIN), "nothing was written")

	plan, err = c.drivers[0].Apply(t.Context(), spec)
	require.ErrorIs(t, err, hostgw.ErrOffLink)
	assert.Equal(t, want, withoutLinkLocal(plan))
	assert.Equal(t, []string{"10.244.2.0/24 via 192.0.2.2 metric 0", "10.245.2.0/24 via 192.0.2.2 metric 0",
		"fd00:244:0:2::/64 via 2001:db8::2 metric 1024"}, c.routes(t, 0, unix.RT_TABLE_MAIN))

	var log bytes.Buffer
	d, err := hostgw.New(hostgw.Config{
		NetNS: c.fabric.Nodes[0].NetNS(), Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	require.NoError(t, err)
	defer d.Close()
	plan, err = d.Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, `- route fd00:244:0:2::/64 via 2001:db8::2 nhid 2079195137 metric 1024
- route 10.245.2.0/24 via 192.0.2.2 nhid 2079195136
- route 10.244.2.0/24 via 192.0.2.2 nhid 2079195136
- nexthop 2079195137 via 2001:db8::2
- nexthop 2079195136 via 192.0.2.2
`, plan.String())
	assert.Contains(t, log.String(), `level=DEBUG msg=delete object="route 10.244.2.0/24 via 192.0.2.2 nhid 2079195136"`)
	assert.Empty(t, c.routes(t, 0, unix.RT_TABLE_MAIN))
}

// withoutLinkLocal is plan's text but for the network that every link with IPv6 is on.
func withoutLinkLocal(plan podweft.Plan) string {
	return string(bytes.ReplaceAll([]byte(plan.String()), []byte(" fe80::/64]"), []byte("]")))
}

func TestOffLinkPeerDelaysNobody(t *testing.T) {
	c := newCluster(t, testnet.FabricConfig{})
	far := netip.MustParseAddr("198.51.100.9")
	c.specs[0].Peers = append([]hostgw.Peer{{Node: "far", Underlay: far, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.9.0/24")}}}, c.specs[0].Peers...)
	_, err := c.drivers[0].Apply(t.Context(), c.specs[0])
	require.ErrorIs(t, err, hostgw.ErrOffLink)
	var failed *podweft.OpError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, "peer 198.51.100.9 (far) for [10.244.9.0/24]", failed.Object.String())
	assert.ErrorContains(t, err, "of eth0, which is on [192.0.2.0/24 2001:db8::/64")
	_, err = c.drivers[1].Apply(t.Context(), c.specs[1])
	require.NoError(t, err)
	c.requireReachable(t)
}

func TestTableIsItsOwn(t *testing.T) {
	c := newCluster(t, testnet.FabricConfig{})
	c.specs[0].Table, c.specs[0].Metric = 1077, 5
	c.apply(t)
	assert.Empty(t, c.routes(t, 0, unix.RT_TABLE_MAIN))
	assert.Equal(t, []string{"10.244.2.0/24 via 192.0.2.2 metric 5", "fd00:244:0:2::/64 via 2001:db8::2 metric 5"}, c.routes(t, 0, 1077))
	c.specs[0].Table, c.specs[0].Metric = 0, 0
	c.apply(t)
	assert.Empty(t, c.routes(t, 0, 1077), "moved, not doubled")
	c.requireReachable(t)
}

func TestForeignRouteStaysAndIsNamed(t *testing.T) {
	c := newCluster(t, testnet.FabricConfig{})
	foreign := &netlink.Route{Dst: ipNet(podSubnet(1, c.fabric.Nodes[0].V4)), LinkIndex: c.link(t, 0, "eth0").Attrs().Index, Protocol: unix.RTPROT_STATIC}
	require.NoError(t, c.handles[0].RouteAdd(foreign))
	for range 2 {
		_, err := c.drivers[0].Apply(t.Context(), c.specs[0])
		require.ErrorIs(t, err, podweft.ErrConflict)
		assert.EqualError(t, err, "create route 10.244.2.0/24 via 192.0.2.2 dev eth0 nhid 2079195136: "+
			"another program's object is in the way: route 10.244.2.0/24 dev eth0 proto static")
		assert.Contains(t, c.routes(t, 0, unix.RT_TABLE_MAIN), "10.244.2.0/24 via <nil> metric 0")
	}
	_, err := c.drivers[0].Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"10.244.2.0/24 via <nil> metric 0"}, c.routes(t, 0, unix.RT_TABLE_MAIN))

	require.NoError(t, c.handles[0].RouteDel(foreign))
	c.apply(t)
	c.requireReachable(t)
}

func TestOwnersDoNotSweepEachOther(t *testing.T) {
	c := newCluster(t, testnet.FabricConfig{})
	c.apply(t)
	before := c.routes(t, 0, unix.RT_TABLE_MAIN)
	blue, err := hostgw.New(hostgw.Config{Owner: "blue", NetNS: c.fabric.Nodes[0].NetNS()})
	require.NoError(t, err)
	defer blue.Close()
	spec := hostgw.Spec{Device: "eth0", Peers: []hostgw.Peer{{
		Node: "blue", Underlay: c.fabric.Nodes[1].V4, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")},
	}}}
	_, err = blue.Apply(t.Context(), spec)
	require.NoError(t, err)
	plan, err := c.drivers[0].Apply(t.Context(), c.specs[0])
	require.NoError(t, err)
	assert.Empty(t, plan.String())
	_, err = c.drivers[0].Teardown(t.Context())
	require.NoError(t, err)
	plan, err = blue.Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Empty(t, plan.String())
	c.apply(t)
	_, err = blue.Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, before, c.routes(t, 0, unix.RT_TABLE_MAIN))
}

func TestPeersComeMoveAndGo(t *testing.T) {
	c := newCluster(t, testnet.FabricConfig{Nodes: 3})
	c.apply(t)
	spec := c.specs[0]
	two := slices.IndexFunc(spec.Peers, func(p hostgw.Peer) bool { return p.Underlay == c.fabric.Nodes[1].V4 })
	moved := spec
	moved.Peers = slices.Clone(spec.Peers)
	moved.Peers[two].Underlay = netip.MustParseAddr("192.0.2.22")
	plan, err := c.drivers[0].Apply(t.Context(), moved)
	require.NoError(t, err)
	assert.Equal(t, `+ nexthop 2079195140 via 192.0.2.22 dev eth0
~ route 10.244.2.0/24 via 192.0.2.22 dev eth0 nhid 2079195140
- nexthop 2079195136 via 192.0.2.2 dev eth0
`, plan.String(), "replaced in place: no moment without")
	gone := spec
	gone.Peers = slices.Delete(slices.Clone(spec.Peers), two, two+1)
	_, err = c.drivers[0].Apply(t.Context(), gone)
	require.NoError(t, err)
	assert.Len(t, c.routes(t, 0, unix.RT_TABLE_MAIN), 3)
	assert.Equal(t, moved.Peers[two].Underlay, netip.MustParseAddr("192.0.2.22"), "a Spec is never changed")
}

func TestInvalidSpecChangesNothing(t *testing.T) {
	c := newCluster(t, testnet.FabricConfig{})
	c.apply(t)
	bad := c.specs[0]
	bad.Peers = append(slices.Clone(bad.Peers), hostgw.Peer{Node: "bad", Underlay: netip.MustParseAddr("224.0.0.1")})
	_, err := c.drivers[0].Apply(t.Context(), bad)
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.ErrorContains(t, err, "Peers[2].Underlay: 224.0.0.1", "as its author numbered them")
	_, err = c.drivers[0].Plan(t.Context(), bad)
	require.ErrorIs(t, err, podweft.ErrInvalid)
	plan, err := c.drivers[0].Plan(t.Context(), c.specs[0])
	require.NoError(t, err)
	assert.Empty(t, plan.String())
}

func TestMissingDeviceIsOneClearError(t *testing.T) {
	n := testnet.NewNode(t, "lonely")
	d, err := hostgw.New(hostgw.Config{NetNS: n.NetNS()})
	require.NoError(t, err)
	defer d.Close()
	spec := hostgw.Spec{Device: "eth7"}
	_, err = d.Apply(t.Context(), spec)
	assert.EqualError(t, err, "find link eth7: no such link")
	_, err = d.Plan(t.Context(), spec)
	assert.EqualError(t, err, "find link eth7: no such link")
}

func TestNewNowhere(t *testing.T) {
	_, err := hostgw.New(hostgw.Config{NetNS: "/run/netns/none"})
	assert.ErrorIs(t, err, unix.ENOENT)
}
