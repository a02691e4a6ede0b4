package udp

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

// TestPlainPeer has a peer that is nothing but a socket, and packets that are made and verified as the RFCs have it.
func TestPlainPeer(t *testing.T) {
	NeedTUN(t)
	for _, tt := range []struct {
		pkt
		underlay testnet.FabricConfig
		mtu      int
	}{
		{flowsUnderTest[2].pkt, testnet.FabricConfig{V4: netip.MustParsePrefix(testnet.DefaultV4)}, 1472},
		{flowsUnderTest[3].pkt, testnet.FabricConfig{V6: netip.MustParsePrefix(testnet.DefaultV6)}, 1452},
	} {
		t.Run(tt.src, func(t *testing.T) {
			fabric := testnet.NewFabric(t, tt.underlay)
			near, far := fabric.Nodes[0], fabric.Nodes[1]
			w := &plainWire{flow: tt.pkt, mtu: tt.mtu, near: netip.AddrPortFrom(near.Addrs()[0], DefaultPort)}
			pod := netip.MustParseAddr(tt.dst)
			behind, _ := pod.Prefix(pod.BitLen() - 8)
			w.d = forwardingTo(t, near, Spec{
				Device: "eth0", Local: near.Addrs(), Networks: []netip.Prefix{behind},
				Addresses: []netip.Prefix{host(netip.MustParseAddr(tt.src))},
				Peers:     []Peer{{Node: "two", Underlay: far.Addrs()[0], Prefixes: []netip.Prefix{behind}}},
			})
			w.app = listen(t, near, netip.AddrPortFrom(netip.MustParseAddr(tt.src), 5001))
			w.wire = listen(t, far, netip.AddrPortFrom(far.Addrs()[0], DefaultPort))
			w.warm(t)
			t.Run("sent", w.sent)
			t.Run("received", w.received)
			t.Run("damaged", w.damaged)
			t.Run("congested", w.congested)
		})
	}
}

// forwardingTo forwards in the node as spec says until the test ends.
func forwardingTo(t *testing.T, n *testnet.Node, spec Spec) *Driver {
	t.Helper()
	d, err := New(Config{NetNS: n.NetNS()})
	require.NoError(t, err)
	_, err = d.Apply(t.Context(), spec)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Forward(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-ended)
		assert.NoError(t, d.Close())
	})
	return d
}

// plainWire is a program on our node and a plain socket on a peer's.
type plainWire struct {
	d         *Driver
	flow      pkt
	mtu       int
	near      netip.AddrPort // our node on the underlay
	app, wire *net.UDPConn
}

// listen opens a socket in the node that is told DSCP and ECN.
func listen(t *testing.T, n *testnet.Node, at netip.AddrPort) (c *net.UDPConn) {
	t.Helper()
	require.NoError(t, n.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	}))
	t.Cleanup(func() { c.Close() })
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		if at.Addr().Is4() {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
		}
	}))
	require.NoError(t, err)
	return c
}

// say sends b from c, cut into packets of size where that is not 0.
func say(t *testing.T, c *net.UDPConn, to netip.AddrPort, b []byte, size int, tos byte) {
	t.Helper()
	var extra control
	extra.set(to.Addr().Is6(), size, tos)
	_, _, err := c.WriteMsgUDPAddrPort(b, extra.buf[:extra.len], to)
	require.NoError(t, err)
}

const plainPatience = 20 * time.Second

// hear returns the next that comes to c, and its DSCP and ECN.
func hear(t *testing.T, c *net.UDPConn) (b []byte, tos byte) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(plainPatience)))
	b, extra := make([]byte, 1<<16), make([]byte, 256)
	n, m, _, _, err := c.ReadMsgUDPAddrPort(b, extra)
	require.NoError(t, err)
	all, err := unix.ParseSocketControlMessage(extra[:m])
	require.NoError(t, err)
	for _, one := range all {
		switch {
		case one.Header.Level == unix.IPPROTO_IP && one.Header.Type == unix.IP_TOS:
			tos = one.Data[0]
		case one.Header.Level == unix.IPPROTO_IPV6 && one.Header.Type == unix.IPV6_TCLASS:
			tos = byte(binary.NativeEndian.Uint32(one.Data))
		}
	}
	return b[:n], tos
}

// in is a packet of the flow to our node.
func (w *plainWire) in(payload []byte, tos byte) []byte {
	k := w.flow.back()
	k.payload, k.tos = payload, tos
	return k.build()
}

// warm sends both ways until something comes through: neighbours have to be found first. Whatever comes late is one byte.
func (w *plainWire) warm(t *testing.T) {
	t.Helper()
	for _, way := range []struct {
		send func()
		to   *net.UDPConn
	}{
		{func() { say(t, w.app, w.peer(), []byte{0}, 0, 0) }, w.wire},
		{func() { say(t, w.wire, w.near, w.in([]byte{0}, 0), 0, 0) }, w.app},
	} {
		for start := time.Now(); ; {
			way.send()
			require.NoError(t, way.to.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
			_, _, err := way.to.ReadFromUDPAddrPort(make([]byte, 100))
			if err == nil {
				break
			}
			require.True(t, errors.Is(err, os.ErrDeadlineExceeded) && time.Since(start) < plainPatience, err)
		}
	}
}

// peer is the pod behind the peer.
func (w *plainWire) peer() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(w.flow.dst), 5000)
}

// payload of packet number n that fill the tunnel's MTU.
func (w *plainWire) payload(n byte) []byte {
	b := filled(w.mtu - len(w.in(nil, 0)))
	b[0] = n
	return b
}

// heard is what comes to the program on our node, without what was sent to warm up.
func (w *plainWire) heard(t *testing.T) (b []byte, tos byte) {
	t.Helper()
	for len(b) < 2 {
		b, tos = hear(t, w.app)
	}
	return b, tos
}

// sent is one datagram for each packet, which is whole and bears the marks of the packet.
func (w *plainWire) sent(t *testing.T) {
	const tos = 0xb8 | 2
	var all []byte
	for n := range byte(5) {
		all = append(all, w.payload(n)...)
	}
	say(t, w.app, w.peer(), all, len(all)/5, tos)
	for n := byte(0); n < 5; {
		p, outer := hear(t, w.wire)
		in, ok := parse(p)
		require.True(t, ok && good(p), "packet %d", n)
		if len(p) == in.headLen+1 { // to warm up
			continue
		}
		assert.Len(t, p, w.mtu)
		assert.Equal(t, w.payload(n), p[in.headLen:])
		assert.EqualValues(t, 63, p[in.hops()], "a hop less")
		assert.EqualValues(t, tos, in.tos(p))
		assert.EqualValues(t, tos, outer)
		n++
	}
}

// received is what comes in as it was sent.
func (w *plainWire) received(t *testing.T) {
	for n := range byte(5) {
		say(t, w.wire, w.near, w.in(w.payload(n), 0xb8), 0, 0)
	}
	for n := range byte(5) {
		got, tos := w.heard(t)
		assert.Equal(t, w.payload(n), got)
		assert.EqualValues(t, 0xb8, tos)
	}
}

// damaged is a packet with a wrong checksum among others of its flow: no one hears of it, and the others come. Who drops it depends on
// whether the underlay brought them together: we do when they could be joined, else the pod's kernel, which gets it as it is.
func (w *plainWire) damaged(t *testing.T) {
	var all []byte
	for n := range byte(5) {
		all = append(all, w.in(w.payload(n), 0)...)
	}
	all[len(all)/2] ^= 0x10
	say(t, w.wire, w.near, all, len(all)/5, 0)
	for _, n := range []byte{0, 1, 3, 4} {
		got, _ := w.heard(t)
		assert.Equal(t, w.payload(n), got)
	}
}

// congested is a packet that met congestion on the underlay: its receiver hears of it, or it is lost.
func (w *plainWire) congested(t *testing.T) {
	before := w.d.Stats().Drops[Congested]
	say(t, w.wire, w.near, w.in(w.payload(1), 0xb8), 0, 0xb8|ce)
	say(t, w.wire, w.near, w.in(w.payload(2), 0xb8|2), 0, 0xb8|ce)
	got, tos := w.heard(t)
	assert.Equal(t, w.payload(2), got)
	assert.EqualValues(t, 0xb8|ce, tos)
	w.counted(t, Congested, before+1)
}

// counted waits for a counter.
func (w *plainWire) counted(t *testing.T, why Drop, want uint64) {
	t.Helper()
	assert.Eventually(t, func() bool { return w.d.Stats().Drops[why] == want }, plainPatience, time.Millisecond, why)
}
