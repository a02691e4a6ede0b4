package udp

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fakeTUN is a tunPort over channels: what the kernel would send by the tunnel, and what it would be given.
type fakeTUN struct{ in, out chan []byte }

func (f *fakeTUN) read(b []byte) (int, error) {
	select {
	case p := <-f.in:
		return copy(b, p), nil
	default:
		return 0, errAgain
	}
}

func (f *fakeTUN) write(parts []unix.Iovec) error {
	select {
	case f.out <- gather(parts):
		return nil
	default:
		return unix.ENOBUFS
	}
}

func gather(parts []unix.Iovec) (all []byte) {
	for _, v := range parts {
		all = append(all, unsafe.Slice(v.Base, int(v.Len))...)
	}
	return all
}

// datagram is what passes a fakeSocket. size is that of the packets in it; 0 if it is one.
type datagram struct {
	peer netip.AddrPort
	data []byte
	size int
	tos  byte
}

// packets are the packets in the datagram.
func (d datagram) packets() (all [][]byte) {
	if d.size == 0 {
		return [][]byte{d.data}
	}
	for b := d.data; len(b) > 0; b = b[min(d.size, len(b)):] {
		all = append(all, b[:min(d.size, len(b))])
	}
	return all
}

// fakeSocket is a socketPort over channels.
type fakeSocket struct {
	in, out chan datagram
	refuse  func(datagram) error // what the kernel says to a datagram; nil takes all
}

func (f *fakeSocket) receive(m []message) (n int, err error) {
	for n < len(m) {
		select {
		case d := <-f.in:
			f.fill(&m[n], d)
			n++
			continue
		default:
		}
		break
	}
	if n == 0 {
		return 0, errAgain
	}
	return n, nil
}

func (f *fakeSocket) fill(m *message, d datagram) {
	p := newPeer(d.peer)
	copy(unsafe.Slice(m.Name, sockaddrLen), p.sockaddr[:])
	m.Namelen = p.size
	m.Len = uint32(copy(unsafe.Slice(m.Iov.Base, int(m.Iov.Len)), d.data))
	if int(m.Len) < len(d.data) {
		m.Flags |= unix.MSG_TRUNC
	}
	var c control
	if d.size != 0 {
		c.add(unix.IPPROTO_UDP, udpGRO, binary.NativeEndian.AppendUint32(nil, uint32(d.size)))
	}
	switch {
	case d.tos != 0 && p.v6():
		c.add(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, binary.NativeEndian.AppendUint32(nil, uint32(d.tos)))
	case d.tos != 0:
		c.add(unix.IPPROTO_IP, unix.IP_TOS, []byte{d.tos})
	}
	copy(unsafe.Slice(m.Control, ancillary), c.buf[:c.len])
	m.SetControllen(c.len)
}

func (f *fakeSocket) send(m []message) (int, error) {
	for n := range m {
		d := datagram{data: gather(unsafe.Slice(m[n].Iov, int(m[n].Iovlen)))}
		d.peer, _ = parseSockaddr(unsafe.Slice(m[n].Name, int(m[n].Namelen)))
		if m[n].Controllen > 0 {
			d.size, d.tos = sentControl(unsafe.Slice(m[n].Control, int(m[n].Controllen)))
		}
		if f.refuse != nil {
			if err := f.refuse(d); err != nil {
				return n, err
			}
		}
		select {
		case f.out <- d:
		default:
			return n, unix.ENOBUFS
		}
	}
	return len(m), nil
}

// sentControl reads what control.set has written, with the standard parser.
func sentControl(b []byte) (size int, tos byte) {
	all, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		panic(err)
	}
	for _, c := range all {
		switch {
		case c.Header.Level == unix.IPPROTO_UDP && c.Header.Type == udpSegment:
			size = int(binary.NativeEndian.Uint16(c.Data))
		case c.Header.Level == unix.IPPROTO_IP && c.Header.Type == unix.IP_TOS, c.Header.Level == unix.IPPROTO_IPV6 && c.Header.Type == unix.IPV6_TCLASS:
			tos = byte(binary.NativeEndian.Uint32(c.Data))
		}
	}
	return size, tos
}

// bench is the packet path of one node over fakes. Its own pods are in 10.244.1.0/24 and fd00:244:0:1::/64; peers number 2 and 3
// have 10.244.N.0/24 at 192.0.2.N and fd00:244:0:N::/64 at 2001:db8::N.
type bench struct {
	tun     *fakeTUN
	sockets [2]*fakeSocket
	tables  tables
	total   counters
	out     *outbound
	in      [2]*inbound
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{tun: &fakeTUN{make(chan []byte, 4096), make(chan []byte, 4096)}}
	var ports [2]socketPort
	for f := range b.sockets {
		b.sockets[f] = &fakeSocket{in: make(chan datagram, 4096), out: make(chan datagram, 4096)}
		ports[f] = b.sockets[f]
	}
	table := newTable().with(newUsers(), DefaultPort, nil, benchPeers)
	table.mtu = 1452
	table.self = [2]netip.Addr{netip.MustParseAddr("10.244.1.0"), netip.MustParseAddr("fd00:244:0:1::")}
	b.tables.Store(table)
	b.out = newOutbound(b.tun, ports, &b.tables, newLimiter(), &b.total)
	for f := range b.in {
		b.in[f] = newInbound(ports[f], b.tun, &b.tables, supers{tcp: true, udp: true}, &b.total)
	}
	return b
}

var benchPeers = []Peer{
	{Node: "two", Underlay: netip.MustParseAddr("192.0.2.2"), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}},
	{Node: "two", Underlay: netip.MustParseAddr("2001:db8::2"), Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00:244:0:2::/64")}},
	{Node: "three", Underlay: netip.MustParseAddr("192.0.2.3"), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24")}},
	{Node: "three", Underlay: netip.MustParseAddr("2001:db8::3"), Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00:244:0:3::/64")}},
}

// send puts packets into the TUN and returns what came out of the sockets.
func (b *bench) send(t testing.TB, packets ...[]byte) (all []datagram) {
	t.Helper()
	for _, p := range packets {
		b.tun.in <- p
	}
	for worked := true; worked; {
		var err error
		worked, err = b.out.pump()
		require.NoError(t, err)
	}
	for _, s := range b.sockets {
		for len(s.out) > 0 {
			all = append(all, <-s.out)
		}
	}
	return all
}

// receive puts datagrams into the socket of their family and returns what came out of the TUN.
func (b *bench) receive(t testing.TB, datagrams ...datagram) (all [][]byte) {
	t.Helper()
	for _, d := range datagrams {
		f := d.peer.Addr().BitLen() / 128
		b.sockets[f].in <- d
	}
	for _, in := range b.in {
		for worked := true; worked; {
			var err error
			worked, err = in.pump()
			require.NoError(t, err)
		}
	}
	return b.written()
}

// written is what came out of the TUN.
func (b *bench) written() (all [][]byte) {
	for len(b.tun.out) > 0 {
		all = append(all, <-b.tun.out)
	}
	return all
}

// dropped is the counters of drops that are not 0.
func (b *bench) dropped() map[Drop]uint64 {
	all := b.total.stats().Drops
	for why, n := range all {
		if n == 0 {
			delete(all, why)
		}
	}
	return all
}

// from is the address that peer number n sends from.
func from(n int, v6 bool) netip.AddrPort {
	a := netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
	if v6 {
		a = netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 15: byte(n)})
	}
	return netip.AddrPortFrom(a, DefaultPort)
}
