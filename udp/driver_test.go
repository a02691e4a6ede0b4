package udp_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/udp"
)

// handle is netlink in a node, for what a person would do there with ip.
func handle(t testing.TB, n *testnet.Node) *netlink.Handle {
	t.Helper()
	var h *netlink.Handle
	require.NoError(t, n.Do(func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}))
	t.Cleanup(h.Close)
	return h
}

func tunnel(t testing.TB, h *netlink.Handle) netlink.Link {
	t.Helper()
	l, err := h.LinkByName(udp.DefaultName)
	require.NoError(t, err)
	return l
}

// keep runs a loop and forwards until the test ends.
func keep(t testing.TB, d *udp.Driver, spec udp.Spec) *podweft.Loop[udp.Spec] {
	t.Helper()
	loop := podweft.NewLoop(d, podweft.LoopConfig{Coalesce: -1})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	forwarding(t, d)
	require.NoError(t, loop.Wait(t.Context(), loop.Set(spec)))
	return loop
}

// TestTransfer sends megabytes from pod to pod over TCP, both ways at once, and looks whether they arrive as they were sent.
func TestTransfer(t *testing.T) {
	for _, mode := range []struct {
		name   string
		fabric testnet.FabricConfig
		change func(*udp.Spec)
	}{
		{"dual stack", testnet.FabricConfig{}, nil},
		{"both over IPv4", onlyV4, bothFamilies},
		{"both over IPv6", onlyV6, bothFamilies},
	} {
		t.Run(mode.name, func(t *testing.T) {
			o := newOverlay(t, mode.fabric, mode.change)
			o.start(t)
			pods := o.pods(t)
			for _, to := range o.podAddrs(1) {
				require.NoError(t, reach(t.Context(), pods[0], to))
				transfer(t, pods[0], pods[1], to)
			}
			for _, d := range o.drivers {
				s := d.Stats()
				share := uint64(4)
				if testing.Short() { // an emulated processor takes them out as slowly as they come
					share = 1
				}
				assert.Less(t, s.Sends*share, s.SentPackets, "packets share datagrams")
				assert.Less(t, s.Writes*share, s.ReceivedPackets, "and writes")
				for _, why := range []udp.Drop{udp.UnknownSource, udp.Spoofed, udp.Misdirected, udp.Malformed, udp.BadChecksum, udp.TooBig} {
					assert.Zero(t, s.Drops[why], why)
				}
			}
		})
	}
}

// bothFamilies gives a Spec over one underlay family pods of both.
func bothFamilies(s *udp.Spec) {
	add := func(node int) netip.Prefix {
		other := netip.IPv4Unspecified()
		if s.Local[0].Is4() {
			other = netip.IPv6Unspecified()
		}
		return podSubnet(node, other)
	}
	own := int(s.Local[0].AsSlice()[len(s.Local[0].AsSlice())-1]) - 1
	s.Addresses = append(s.Addresses, netip.PrefixFrom(add(own).Addr(), add(own).Addr().BitLen()))
	s.Networks = append(s.Networks, podNetwork(add(own).Addr()))
	for i, p := range s.Peers {
		node := int(p.Underlay.AsSlice()[len(p.Underlay.AsSlice())-1]) - 1
		s.Peers[i].Prefixes = append(s.Peers[i].Prefixes, add(node))
	}
}

func transfer(t *testing.T, from, to *testnet.Node, addr netip.Addr) {
	t.Helper()
	var listener net.Listener
	require.NoError(t, to.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(addr.String(), "0"))
		return err
	}))
	defer listener.Close()
	var near net.Conn
	require.NoError(t, from.Do(func() (err error) {
		near, err = net.Dial("tcp", listener.Addr().String())
		return err
	}))
	defer near.Close()
	far, err := listener.Accept()
	require.NoError(t, err)
	defer far.Close()
	data := make([]byte, 4<<20)
	for i := range data {
		data[i] = byte(i ^ i>>8 ^ i>>16)
	}
	errs := make(chan error, 4)
	for _, end := range []net.Conn{near, far} {
		require.NoError(t, end.SetDeadline(time.Now().Add(patience)))
		go func() {
			_, err := end.Write(data)
			errs <- err
		}()
		go func() {
			got := make([]byte, len(data))
			_, err := io.ReadFull(end, got)
			if err == nil && !bytes.Equal(got, data) {
				err = fmt.Errorf("what arrived differs")
			}
			errs <- err
		}()
	}
	for range 4 {
		require.NoError(t, <-errs)
	}
}

// TestWire is wire compatibility with a simple forwarder that knows nothing of ours: one datagram, one packet, both ways.
func TestWire(t *testing.T) {
	o := newOverlay(t, onlyV4, nil)
	_, err := o.drivers[0].Apply(t.Context(), o.specs[0])
	require.NoError(t, err)
	forwarding(t, o.drivers[0])
	capture, err := o.fabric.Nodes[1].Capture("eth0")
	require.NoError(t, err)
	defer capture.Close()
	bareNode(t, o.fabric, 1, "one-by-one")
	zeros := func(i int) []netip.Addr { return o.targets(i)[:1] }
	pods := newPods(t, o.fabric, 1472, zeros)
	require.NoError(t, reach(t.Context(), pods[0], o.podAddrs(1)[0]))
	for _, way := range [][2]int{{0, 1}, {1, 0}} {
		_, err := pods[way[0]].Echo(t.Context(), o.podAddrs(way[1])[0], testnet.Echo{Size: 1472, DontFragment: true})
		require.NoError(t, err, "a packet of the whole MTU")
		_, err = pods[way[0]].Echo(t.Context(), o.podAddrs(way[1])[0], testnet.Echo{Size: 1473, DontFragment: true})
		require.ErrorIs(t, err, unix.EMSGSIZE)
	}
	transfer(t, pods[0], pods[1], o.podAddrs(1)[0])
	s := o.drivers[0].Stats()
	assert.Greater(t, s.SentPackets, uint64(4<<20/1472))
	assert.Greater(t, s.ReceivedPackets, uint64(4<<20/1472))
	assert.Zero(t, s.Drops[udp.Malformed]+s.Drops[udp.UnknownSource])
	p, err := capture.Await(t.Context(), func(p testnet.Packet) bool {
		return len(p.Frame) > 62 && p.Frame[12] == 8 && p.Frame[23] == unix.IPPROTO_UDP && p.Frame[51] == unix.IPPROTO_ICMP
	})
	require.NoError(t, err)
	inner := p.Frame[42:] // behind Ethernet, IPv4 and UDP headers
	assert.EqualValues(t, 0x45, inner[0], "the payload is a bare IP packet")
	assert.Len(t, inner, int(inner[2])<<8|int(inner[3]), "and nothing else")
}

// TestRouter is what a sender is told by the router that Forward is.
func TestRouter(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	o.start(t)
	o.requireReachable(t)
	pods := o.pods(t)
	for _, to := range o.podAddrs(1) {
		require.NoError(t, reach(t.Context(), pods[0], to))
	}
	for _, to := range []string{"10.244.77.7", "fd00:244:0:77::7"} {
		_, err := pods[0].Ping(t.Context(), netip.MustParseAddr(to))
		assert.ErrorIs(t, err, unix.ENETUNREACH, to)
	}
	o.requireDropped(t, 0, udp.NoPeer, 2)
	for _, to := range o.podAddrs(1) {
		_, err := pods[0].Echo(t.Context(), to, testnet.Echo{Size: 4000})
		assert.NoError(t, err, "in fragments")
	}
}

// TestRefusals has the kernel hand us what it would have refused itself, as when a link is changed by hand: senders hear of it from us.
func TestRefusals(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	o.start(t)
	h := handle(t, o.fabric.Nodes[0])
	require.NoError(t, h.LinkSetMTU(tunnel(t, h), 1500))
	pods := newPods(t, o.fabric, 1500, o.targets)
	for _, to := range o.podAddrs(1) {
		require.NoError(t, reach(t.Context(), pods[0], to))
		_, err := pods[0].Echo(t.Context(), to, testnet.Echo{Size: 1453, DontFragment: true})
		assert.ErrorIs(t, err, unix.EMSGSIZE, to)
		_, err = pods[0].Echo(t.Context(), to, testnet.Echo{Size: 1452, DontFragment: true})
		assert.NoError(t, err, to)
	}
	o.requireDropped(t, 0, udp.TooBig, 2)
	for _, key := range []string{"net/ipv4/ip_default_ttl", "net/ipv6/conf/eth0/hop_limit"} {
		require.NoError(t, sysctl.Ensure(pods[0].NetNS(), key, "2")) // the node takes one off
	}
	for _, to := range o.podAddrs(1) {
		_, err := pods[0].Ping(t.Context(), to)
		assert.ErrorIs(t, err, unix.EHOSTUNREACH, to)
	}
	o.requireDropped(t, 0, udp.HopLimit, 2)
}

// TestNarrowUnderlay has the underlay become narrower than the tunnel thinks: packets still arrive, in fragments.
func TestNarrowUnderlay(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, func(s *udp.Spec) { s.MTU = 1452 })
	o.start(t)
	pods := o.pods(t)
	for i, n := range o.fabric.Nodes {
		h := handle(t, n)
		eth0, err := h.LinkByName("eth0")
		require.NoError(t, err)
		require.NoError(t, h.LinkSetMTU(eth0, 1400), i)
	}
	for _, to := range o.podAddrs(1) {
		require.NoError(t, reach(t.Context(), pods[0], to))
		transfer(t, pods[0], pods[1], to)
	}
}

// TestRepair breaks what a Spec made, under a running loop: traffic has to come back.
func TestRepair(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	for i, d := range o.drivers {
		keep(t, d, o.specs[i])
	}
	o.requireReachable(t)
	h := handle(t, o.fabric.Nodes[0])
	for _, sabotage := range []struct {
		name string
		do   func() error
	}{
		{"link deleted", func() error { return h.LinkDel(tunnel(t, h)) }},
		{"link deleted again", func() error { return h.LinkDel(tunnel(t, h)) }},
		{"link down", func() error { return h.LinkSetDown(tunnel(t, h)) }},
		{"MTU changed", func() error { return h.LinkSetMTU(tunnel(t, h), 1300) }},
		{"address deleted", func() error { return h.AddrDel(tunnel(t, h), &netlink.Addr{IPNet: ipNet(o.specs[0].Addresses[0])}) }},
		{"route deleted", func() error { return h.RouteDel(&netlink.Route{Dst: ipNet(podNetwork(netip.IPv4Unspecified()))}) }},
	} {
		t.Run(sabotage.name, func(t *testing.T) {
			require.NoError(t, sabotage.do())
			start := time.Now()
			require.Eventually(t, func() bool {
				plan, err := o.drivers[0].Plan(t.Context(), o.specs[0])
				return err == nil && len(plan) == 0
			}, patience, time.Millisecond)
			o.requireReachable(t)
			t.Logf("back after %v", time.Since(start).Round(time.Millisecond))
		})
	}
}

func TestUnderlayAddressChanges(t *testing.T) {
	for _, tt := range []struct {
		underlay testnet.FabricConfig
		moved    string
	}{{onlyV4, "192.0.2.77/24"}, {onlyV6, "2001:db8::77/64"}} {
		t.Run(tt.moved, func(t *testing.T) {
			o := newOverlay(t, tt.underlay, nil)
			var loops []*podweft.Loop[udp.Spec]
			for i, d := range o.drivers {
				loops = append(loops, keep(t, d, o.specs[i]))
			}
			o.requireReachable(t)
			h := handle(t, o.fabric.Nodes[0])
			eth0, err := h.LinkByName("eth0")
			require.NoError(t, err)
			moved := netip.MustParsePrefix(tt.moved)
			require.NoError(t, h.AddrDel(eth0, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(o.specs[0].Local[0], moved.Bits()))}))
			spec := o.specs[0]
			spec.Local = []netip.Addr{moved.Addr()}
			generation := loops[0].Set(spec)
			assert.ErrorIs(t, loops[0].Wait(t.Context(), generation), unix.EADDRNOTAVAIL, "it is not there yet")
			require.NoError(t, h.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(moved), Flags: unix.IFA_F_NODAD}))
			far := o.specs[1]
			far.Peers = slices.Clone(far.Peers)
			far.Peers[0].Underlay = moved.Addr()
			require.NoError(t, loops[1].Wait(t.Context(), loops[1].Set(far)))
			o.requireReachable(t)
		})
	}
}

// TestKilled is kill -9 of the process and the start of another: the link, its addresses and routes stay, and traffic flows again as
// soon as the new process is there.
func TestKilled(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	agents := []*agent{startAgent(t, o.fabric.Nodes[0]), startAgent(t, o.fabric.Nodes[1])}
	for i, a := range agents {
		a.keep(t, o.specs[i])
	}
	o.requireReachable(t)
	h := handle(t, o.fabric.Nodes[0])
	before := tunnel(t, h).Attrs().Index
	agents[0].kill(t)
	assert.Equal(t, before, tunnel(t, h).Attrs().Index, "the link stays")
	start := time.Now()
	startAgent(t, o.fabric.Nodes[0]).keep(t, o.specs[0])
	o.requireReachable(t)
	t.Logf("traffic flows %v after the start of the new process", time.Since(start).Round(time.Millisecond))
	assert.Equal(t, before, tunnel(t, h).Attrs().Index, "the new process has taken it over")
}

// TestChurn has peers come and go, a thousand a second, while a neighbour is pinged: none is lost, and the kernel hears nothing of it.
func TestChurn(t *testing.T) {
	o := newOverlay(t, onlyV4, nil)
	loop := keep(t, o.drivers[0], o.specs[0])
	keep(t, o.drivers[1], o.specs[1])
	o.requireReachable(t)
	pinger, err := o.fabric.Nodes[0].Pinger()
	require.NoError(t, err)
	defer pinger.Close()
	base := o.specs[0]
	for i := range 2000 {
		base.Peers = append(slices.Clone(base.Peers), udp.Peer{
			Node: "many", Underlay: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}),
			Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, 128 + byte(i>>4), byte(i << 4)}), 28)},
		})
		if i%200 == 0 {
			require.NoError(t, loop.Wait(t.Context(), loop.Set(base)))
		}
	}
	require.NoError(t, loop.Wait(t.Context(), loop.Set(base)))
	listings := o.drivers[0].Stats().Listings
	start, lost := time.Now(), 0
	changes := 1000
	if testing.Short() { // an emulated processor has enough to do
		changes = 200
	}
	for i := range changes {
		spec := base
		spec.Peers = slices.Delete(slices.Clone(base.Peers), 1+i, 3+i)
		require.NoError(t, loop.Wait(t.Context(), loop.Set(spec)))
		if i%20 == 0 {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if _, err := pinger.Ping(ctx, o.targets(1)[0]); err != nil {
				lost++
			}
			cancel()
		}
	}
	t.Logf("%d changes of two or four peers in %v", changes, time.Since(start).Round(time.Millisecond))
	assert.Zero(t, lost)
	assert.Less(t, o.drivers[0].Stats().Listings-listings, uint64(5), "the kernel was not asked, but for a late echo")
}

func TestQueues(t *testing.T) {
	udp.NeedTUN(t)
	f := testnet.NewFabric(t, testnet.FabricConfig{})
	o := &overlay{fabric: f}
	for i, n := range f.Nodes {
		d, err := udp.New(udp.Config{NetNS: n.NetNS(), Queues: 1 + 2*i})
		require.NoError(t, err)
		t.Cleanup(func() { d.Close() })
		o.drivers, o.specs = append(o.drivers, d), append(o.specs, handMade(f, i))
	}
	o.start(t)
	pods := o.pods(t)
	for _, to := range o.podAddrs(1) {
		require.NoError(t, reach(t.Context(), pods[0], to))
		transfer(t, pods[0], pods[1], to)
	}
	_, err := udp.New(udp.Config{Queues: -1})
	assert.ErrorIs(t, err, podweft.ErrInvalid)
}

func TestConflict(t *testing.T) {
	o := newOverlay(t, onlyV4, nil)
	h := handle(t, o.fabric.Nodes[0])
	require.NoError(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: udp.DefaultName}}))
	_, err := o.drivers[0].Apply(t.Context(), o.specs[0])
	require.ErrorIs(t, err, podweft.ErrConflict)
	assert.ErrorContains(t, err, `create link flannel0 type tun mtu 1472: another program's object is in the way: link flannel0, of kind "bridge"`)
	require.NoError(t, h.LinkDel(tunnel(t, h)))
	_, err = o.drivers[0].Apply(t.Context(), o.specs[0])
	require.NoError(t, err)
}

func TestTeardown(t *testing.T) {
	o := newOverlay(t, testnet.FabricConfig{}, nil)
	o.start(t)
	o.requireReachable(t)
	plan, err := o.drivers[0].Teardown(t.Context())
	require.NoError(t, err)
	assert.Contains(t, plan.String(), "- link flannel0 type tun mtu 1452\n")
	h := handle(t, o.fabric.Nodes[0])
	_, err = h.LinkByName(udp.DefaultName)
	assert.Error(t, err)
	plan, err = o.drivers[0].Teardown(t.Context())
	require.NoError(t, err)
	assert.Empty(t, plan)
	_, err = o.drivers[0].Apply(t.Context(), o.specs[0])
	require.NoError(t, err)
	o.requireReachable(t)
}

func TestClose(t *testing.T) {
	o := newOverlay(t, onlyV4, nil)
	ended := make(chan error, 1)
	_, err := o.drivers[0].Apply(t.Context(), o.specs[0])
	require.NoError(t, err)
	go func() { ended <- o.drivers[0].Forward(context.Background()) }()
	require.NoError(t, o.drivers[0].Close())
	assert.ErrorIs(t, <-ended, os.ErrClosed)
	assert.NotNil(t, tunnel(t, handle(t, o.fabric.Nodes[0])), "it stays")
	_, err = o.drivers[0].Apply(t.Context(), o.specs[0])
	assert.ErrorIs(t, err, os.ErrClosed)
	_, err = o.drivers[0].Teardown(t.Context())
	assert.ErrorIs(t, err, os.ErrClosed)
}

// TestSmallBuffers is a node that may not have the memory it asks for, as in a user namespace: it works, and says so once.
func TestSmallBuffers(t *testing.T) {
	udp.NeedTUN(t)
	f := testnet.NewFabric(t, onlyV4)
	var log bytes.Buffer
	d, err := udp.New(udp.Config{NetNS: f.Nodes[0].NetNS(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	defer d.Close()
	spec := handMade(f, 0)
	for _, port := range []uint16{8285, 8286, 8287} {
		spec.Port = port
		_, err := d.Apply(t.Context(), spec)
		require.NoError(t, err)
	}
	want := 1
	if granted(t, 7<<20) >= 7<<20 {
		want = 0
	}
	assert.Equal(t, want, strings.Count(log.String(), "small socket buffers"))
	assert.Equal(t, want, strings.Count(log.String(), "\n"), log.String())
}

// granted is what a socket of ours gets that asks for so many bytes.
func granted(t *testing.T, wanted int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, wanted) != nil {
		require.NoError(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, wanted))
	}
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	require.NoError(t, err)
	return n
}
