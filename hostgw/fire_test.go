package hostgw_test

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

// fire is a node under a running loop, about to be sabotaged.
type fire struct {
	*cluster
	conn *nl.Conn // in node 1
	deaf *deaf
	loop *podweft.Loop[hostgw.Spec]
	peer hostgw.Peer
}

// deaf is a driver that hears nothing of what happens while it is locked: the first hint then waits, and the others with it.
type deaf struct {
	*hostgw.Driver
	sync.Mutex
}

func (d *deaf) Watch(ctx context.Context, changed func()) error {
	return d.Driver.Watch(ctx, func() {
		d.Lock()
		defer d.Unlock()
		changed()
	})
}

func keep(t *testing.T, d podweft.Driver[hostgw.Spec], spec hostgw.Spec) *podweft.Loop[hostgw.Spec] {
	t.Helper()
	loop := podweft.NewLoop(d, podweft.LoopConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	_ = loop.Wait(t.Context(), loop.Set(spec))
	return loop
}

// TestUnderFire does what TestRepair leaves out: what other programs do, and what befalls the underlay.
func TestUnderFire(t *testing.T) {
	for _, mode := range []struct {
		name   string
		fabric testnet.FabricConfig
	}{
		{"IPv4", testnet.FabricConfig{V4: netip.MustParsePrefix(testnet.DefaultV4)}},
		{"IPv6", testnet.FabricConfig{V6: netip.MustParsePrefix(testnet.DefaultV6)}},
		{"dual stack", testnet.FabricConfig{}},
	} {
		t.Run(mode.name, func(t *testing.T) {
			c := newCluster(t, mode.fabric)
			c.apply1(t)
			conn, err := nl.Dial(c.fabric.Nodes[0].NetNS())
			require.NoError(t, err)
			t.Cleanup(func() { conn.Close() })
			f := &fire{cluster: c, conn: conn, deaf: &deaf{Driver: c.drivers[0]}, peer: c.specs[0].Peers[0]}
			f.loop = keep(t, f.deaf, c.specs[0])
			f.requireBack(t, time.Now())
			for _, m := range mishaps {
				t.Run(m.name, func(t *testing.T) { m.do(f, t) })
			}
		})
	}
}

var mishaps = []struct {
	name string
	do   func(f *fire, t *testing.T)
}{
	{"route deleted", func(f *fire, t *testing.T) {
		start := time.Now()
		f.deleteRoute(t)
		f.requireBack(t, start)
	}},
	{"nexthop deleted", func(f *fire, t *testing.T) {
		start := time.Now()
		f.deleteNexthop(t, f.route(t).Nexthop)
		f.requireBack(t, start)
	}},
	{"nexthop replaced by a foreign one", (*fire).replaceNexthop},
	{"route replaced by a foreign one", (*fire).replaceRoute},
	{"watch overflowed", (*fire).overflow},
	{"underlay renamed", (*fire).renameUnderlay},
	{"underlay address changed", (*fire).moveUnderlay}, // the last: the node stays there
}

// requireBack waits until the kernel agrees with the Spec and packets flow both ways, and says how long that took.
func (f *fire) requireBack(t *testing.T, since time.Time) {
	t.Helper()
	f.requireRepaired(t, 0)
	f.requireReachable(t)
	t.Logf("traffic was back after %v", time.Since(since).Round(time.Millisecond))
}

func (f *fire) eth0(t *testing.T) int { return f.link(t, 0, "eth0").Attrs().Index }

// route is what the kernel has at the peer's prefix.
func (f *fire) route(t *testing.T) (found nl.Route) {
	t.Helper()
	require.NoError(t, f.conn.Routes(t.Context(), func() {}, func(r nl.Route) {
		if r.Prefix == f.peer.Prefixes[0] && r.Table == nl.TableMain {
			found = r
		}
	}))
	return found
}

func (f *fire) deleteRoute(t *testing.T) {
	t.Helper()
	require.NoError(t, f.handles[0].RouteDel(&vnl.Route{Dst: ipNet(f.peer.Prefixes[0])}))
}

func (f *fire) deleteNexthop(t *testing.T, id uint32) {
	t.Helper()
	var batch nl.Batch
	batch.DeleteNexthop(id)
	require.Nil(t, f.conn.Do(t.Context(), &batch))
}

// replaceNexthop is `ip nexthop replace` by somebody who does not care whose it is: the kernel gives it away with its
// routes. The stranger's stays, and ours moves to another id.
func (f *fire) replaceNexthop(t *testing.T) {
	start := time.Now()
	raw := f.peer.Underlay.AsSlice()
	raw[len(raw)-1] = 200
	wrong, _ := netip.AddrFromSlice(raw)
	theirs := nl.Nexthop{ID: f.route(t).Nexthop, Protocol: unix.RTPROT_STATIC, Gateway: wrong, Link: f.eth0(t)}
	f.seizeNexthop(t, theirs)
	f.requireBack(t, start)
	var all []nl.Nexthop
	require.NoError(t, f.conn.Nexthops(t.Context(), func() { all = nil }, func(nh nl.Nexthop) { all = append(all, nh) }))
	assert.Contains(t, all, theirs, "another program's is not ours to change")
	assert.NotEqual(t, theirs.ID, f.route(t).Nexthop)
	f.deleteNexthop(t, theirs.ID)
	f.requireBack(t, start)
}

// seizeNexthop puts nh in place of the nexthop object with its id, whosever that is.
func (f *fire) seizeNexthop(t *testing.T, nh nl.Nexthop) {
	t.Helper()
	const nhaID, nhaOIF, nhaGateway = 1, 5, 6 // linux/nexthop.h
	attrs := netlink.NewAttributeEncoder()
	attrs.Uint32(nhaID, nh.ID)
	attrs.Uint32(nhaOIF, uint32(nh.Link))
	attrs.Bytes(nhaGateway, nh.Gateway.AsSlice())
	encoded, err := attrs.Encode()
	require.NoError(t, err)
	family := byte(unix.AF_INET6)
	if nh.Gateway.Is4() {
		family = unix.AF_INET
	}
	var conn *netlink.Conn
	require.NoError(t, f.fabric.Nodes[0].Do(func() (err error) {
		conn, err = netlink.Dial(unix.NETLINK_ROUTE, nil)
		return err
	}))
	defer conn.Close()
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_NEWNEXTHOP, Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Replace},
		Data:   append([]byte{family, 0, nh.Protocol, 0, 0, 0, 0, 0}, encoded...),
	})
	require.NoError(t, err)
}

// replaceRoute is `ip route replace` by somebody else, who gets away with it: the conflict is reported. When theirs goes,
// ours is back at once.
func (f *fire) replaceRoute(t *testing.T) {
	theirs := &vnl.Route{
		Dst: ipNet(f.peer.Prefixes[0]), LinkIndex: f.eth0(t), Protocol: unix.RTPROT_STATIC, Priority: int(f.route(t).Metric),
	}
	require.NoError(t, f.handles[0].RouteReplace(theirs))
	require.Eventually(t, func() bool { return len(f.loop.Status().Failing) == 1 }, patience, time.Millisecond)
	assert.ErrorIs(t, f.loop.Status().Failing[0].Err, podweft.ErrConflict)
	assert.EqualValues(t, unix.RTPROT_STATIC, f.route(t).Protocol, "another program's is not ours to change")
	start := time.Now()
	require.NoError(t, f.handles[0].RouteDel(theirs))
	f.requireBack(t, start)
	require.Eventually(t, func() bool { return len(f.loop.Status().Failing) == 0 }, patience, time.Millisecond)
}

// overflow lets the loop miss a sabotage: the notification is among those that do not fit in the socket, behind 100,000 foreign
// routes. Then the routes go again, in a storm that the loop hears, with another sabotage in it.
func (f *fire) overflow(t *testing.T) {
	foreign := 100_000
	if testing.Short() { // on an emulated processor they take long
		foreign = 20_000
	}
	before := f.lostMessages(t)
	f.deaf.Lock()
	f.deleteRoute(t) // for the loop to wake up to, and go deaf
	f.storm(t, 0, foreign, (*nl.Batch).AddRoute)
	f.deleteNexthop(t, f.nexthopID(t))
	require.Greater(t, f.lostMessages(t), before, "the storm fits in the socket")
	start := time.Now()
	f.deaf.Unlock()
	f.requireBack(t, start)

	passes := f.loop.Status().Passes
	start = time.Now()
	f.storm(t, 0, foreign/2, (*nl.Batch).DeleteRoute)
	f.deleteRoute(t)
	f.storm(t, foreign/2, foreign, (*nl.Batch).DeleteRoute)
	f.requireBack(t, start)
	settle(t, f.loop)
	passes = f.loop.Status().Passes - passes
	t.Logf("%d passes while %d foreign routes went", passes, foreign)
	assert.Less(t, passes, uint64(100), "the loop runs in circles")
	start = time.Now()
	f.deleteRoute(t)
	f.requireBack(t, start)
}

// nexthopID is the id of the object that the peer's gateway has, with a route or without.
func (f *fire) nexthopID(t *testing.T) (id uint32) {
	t.Helper()
	require.NoError(t, f.conn.Nexthops(t.Context(), func() {}, func(nh nl.Nexthop) {
		if nh.Gateway == f.peer.Underlay {
			id = nh.ID
		}
	}))
	require.NotZero(t, id)
	return id
}

// storm sends requests for foreign routes, in a table that is nobody's.
func (f *fire) storm(t *testing.T, from, to int, request func(*nl.Batch, nl.Route)) {
	t.Helper()
	eth0 := f.eth0(t)
	var batch nl.Batch
	batch.Grow(to - from)
	for i := from; i < to; i++ {
		a := netip.AddrFrom4([4]byte{100, 64 + byte(i>>16), byte(i >> 8), byte(i)})
		request(&batch, nl.Route{
			RouteKey: nl.RouteKey{Table: 4242, Prefix: netip.PrefixFrom(a, 32)}, Protocol: unix.RTPROT_STATIC, Link: eth0,
		})
	}
	require.Nil(t, f.conn.Do(t.Context(), &batch))
}

// lostMessages is how many the kernel could not put into the netlink sockets of the node.
func (f *fire) lostMessages(t *testing.T) (lost int) {
	t.Helper()
	var table []byte
	require.NoError(t, f.fabric.Nodes[0].Do(func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/netlink")
		return err
	}))
	for line := range strings.Lines(string(table)) {
		const protocol, drops = 1, 8 // columns: sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
		if column := strings.Fields(line); column[protocol] == strconv.Itoa(unix.NETLINK_ROUTE) {
			dropped, err := strconv.Atoi(column[drops])
			require.NoError(t, err)
			lost += dropped
		}
	}
	return lost
}

// renameUnderlay gives the underlay interface another name, and then the Spec, as node finds it out.
func (f *fire) renameUnderlay(t *testing.T) {
	v6, err := f.handles[0].AddrList(f.link(t, 0, "eth0"), unix.AF_INET6)
	require.NoError(t, err)
	rename := func(from, to string) {
		l := f.link(t, 0, from)
		require.NoError(t, f.handles[0].LinkSetDown(l)) // kernels before 6.2 demand it
		require.NoError(t, f.handles[0].LinkSetName(l, to))
		require.NoError(t, f.handles[0].LinkSetUp(l))
		for _, a := range v6 { // they went with the link
			require.NoError(t, f.handles[0].AddrReplace(l, &vnl.Addr{IPNet: a.IPNet, Flags: unix.IFA_F_NODAD}))
		}
	}
	for _, to := range []string{"uplink0", "eth0"} {
		start := time.Now()
		rename(f.specs[0].Device, to)
		f.specs[0].Device = to
		require.Eventually(t, func() bool {
			return f.loop.Wait(t.Context(), f.loop.Set(f.specs[0])) == nil
		}, patience, 5*time.Millisecond)
		f.requireBack(t, start)
	}
}

// moveUnderlay gives node 1 other underlay addresses, as a lease of DHCP does, and both nodes the Specs that follow.
func (f *fire) moveUnderlay(t *testing.T) {
	far := keep(t, f.drivers[1], f.specs[1])
	moved := map[netip.Addr]netip.Addr{}
	eth0 := f.link(t, 0, "eth0")
	start := time.Now()
	for _, old := range f.fabric.Nodes[0].Addrs() {
		bits := map[bool]int{true: 24, false: 64}[old.Is4()]
		raw := old.AsSlice()
		raw[len(raw)-1] = 77
		to, _ := netip.AddrFromSlice(raw)
		moved[old] = to
		require.NoError(t, f.handles[0].AddrDel(eth0, &vnl.Addr{IPNet: ipNet(netip.PrefixFrom(old, bits))}))
		f.addAddress(t, 0, "eth0", netip.PrefixFrom(to, bits))
	}
	spec := f.specs[1]
	spec.Peers = slices.Clone(spec.Peers)
	for i, p := range spec.Peers {
		spec.Peers[i].Underlay = moved[p.Underlay]
	}
	f.specs[1] = spec
	require.NoError(t, far.Wait(t.Context(), far.Set(spec)))
	f.requireBack(t, start)
	f.requireRepaired(t, 1)
}
