package udp

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// flowsUnderTest are one of each family and transport, from our pod to a peer's.
var flowsUnderTest = []struct {
	name string
	pkt
}{
	{"TCP over IPv4", pkt{src: "10.244.1.5", dst: "10.244.2.6", tcp: true}},
	{"TCP over IPv6", pkt{src: "fd00:244:0:1::5", dst: "fd00:244:0:2::6", tcp: true}},
	{"UDP over IPv4", pkt{src: "10.244.1.5", dst: "10.244.2.6"}},
	{"UDP over IPv6", pkt{src: "fd00:244:0:1::5", dst: "fd00:244:0:2::6"}},
}

func (k pkt) v6() bool { return netip.MustParseAddr(k.src).Is6() }

// back is the same flow in the other direction.
func (k pkt) back() pkt {
	k.src, k.dst = k.dst, k.src
	return k
}

func TestSum(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 1500 {
		b := make([]byte, n+n%9)[n%9:] // at any address
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		var got [2]byte
		putChecksum(got[:], sum(b, 0))
		require.Equal(t, rfc1071(b), binary.BigEndian.Uint16(got[:]), n)
		to := make([]byte, n+9)
		putChecksum(got[:], copySum(to[n%5:], b, 0))
		require.Equal(t, rfc1071(b), binary.BigEndian.Uint16(got[:]), n)
		require.Equal(t, append(b, make([]byte, 9-n%5)...), to[n%5:], "and nothing behind it")
	}
	for _, n := range []int{200, 1 << 16} {
		ones := bytes.Repeat([]byte{0xff}, n)
		assert.Equal(t, uint16(0xffff), fold(sum(ones, ^uint64(0))), "carries on carries")
		assert.Equal(t, uint16(0xffff), fold(copySum(make([]byte, n), ones, ^uint64(0))))
	}
}

func TestSuperPacketsAreCut(t *testing.T) {
	for _, tt := range flowsUnderTest {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{65000, 1000, 1001, 4321} {
				b := newBench(t)
				k := tt.pkt
				k.sequence, k.id, k.payload, k.flags = 1<<32-500, 0xfffe, filled(size), tcpACK|tcpPSH|tcpCWR|tcpFIN
				var got []byte
				n := 0
				for _, d := range b.send(t, k.super(1000)) {
					assert.Equal(t, from(2, k.v6()), d.peer)
					assert.LessOrEqual(t, len(d.data), maxDatagram)
					for i, p := range d.packets() {
						require.True(t, good(p), "packet %d of %d", n, i)
						in, _ := parse(p)
						assert.EqualValues(t, 63, p[in.hops()])
						if k.tcp {
							assert.Equal(t, k.sequence+uint32(len(got)), binary.BigEndian.Uint32(p[in.ipLen+4:]))
							last := len(got)+in.length-in.headLen == size
							assert.Equal(t, last, p[in.ipLen+tcpFlags]&(tcpPSH|tcpFIN) != 0)
							assert.Equal(t, n == 0, p[in.ipLen+tcpFlags]&tcpCWR != 0)
						}
						if !k.v6() {
							assert.Equal(t, k.id+uint16(n), binary.BigEndian.Uint16(p[v4ID:]))
						}
						got = append(got, p[in.headLen:]...)
						n++
					}
				}
				assert.Equal(t, (size+999)/1000, n)
				assert.Equal(t, k.payload, got)
				assert.Empty(t, b.dropped())
			}
		})
	}
}

// TestExtensionHeaders has a routing header between the IPv6 header and the transport: the checksum is for the last destination, which
// only the kernel has read.
func TestExtensionHeaders(t *testing.T) {
	for _, tt := range flowsUnderTest {
		if !tt.v6() {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			k := tt.pkt
			k.payload = filled(3500)
			last := k
			last.dst = "fd00:244:0:3::9"
			plain := last.build()
			in, _ := parse(plain)
			l4 := plain[in.ipLen:]
			copy(l4[in.checksumAt()-in.ipLen:], be16(int(^rfc1071(in.source(plain), in.destination(plain), be16(int(in.transport)), be16(len(l4))))))
			extension := []byte{in.transport, 0, 4, 0, 0, 0, 0, 0}
			p := slices.Concat(k.build()[:v6HeaderLen], extension, l4)
			p[v6NextHeader] = unix.IPPROTO_ROUTING
			copy(p[v6Length:], be16(len(p)-v6HeaderLen))
			h := parseVirtio(k.super(1000))
			h.checksumStart += uint16(len(extension))
			head := make([]byte, virtioLen)
			h.put(head)
			var got []byte
			for _, d := range b.send(t, append(head, p...)) {
				for _, p := range d.packets() {
					require.Equal(t, len(p)-v6HeaderLen, int(binary.BigEndian.Uint16(p[v6Length:])))
					assert.Equal(t, extension, p[v6HeaderLen:][:len(extension)])
					bare := slices.Concat(plain[:v6HeaderLen], p[v6HeaderLen+len(extension):])
					copy(bare[v6Length:], be16(len(bare)-v6HeaderLen))
					require.True(t, good(bare))
					got = append(got, bare[in.headLen:]...)
				}
			}
			assert.Equal(t, k.payload, got)
			assert.Empty(t, b.dropped())
		})
	}
}

// TestJoinedAndCutAgain has what was joined cut by the other direction: the same packets have to come out.
func TestJoinedAndCutAgain(t *testing.T) {
	for _, tt := range flowsUnderTest {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			k := tt.back()
			k.flags = tcpACK | tcpPSH
			k.payload = filled(30500)
			wire := newBenchOfTwo(t).send(t, k.super(1000))
			require.Len(t, wire, 1)
			var came []datagram
			for _, d := range wire {
				d.peer = from(2, k.v6())
				came = append(came, d)
			}
			written := b.receive(t, came...)
			require.Len(t, written, 1, "one super-packet")
			h := parseVirtio(written[0])
			assert.True(t, h.needsChecksum)
			assert.EqualValues(t, 1000, h.gsoSize)
			assert.Empty(t, b.dropped())

			again := newBenchOfTwo(t)
			hops := 7
			if !k.v6() {
				hops = v4TTL
			}
			written[0][virtioLen+hops]++ // which cutting takes off again
			got := again.send(t, written[0])
			require.Len(t, got, 1)
			want := wire[0].packets()
			for i, p := range got[0].packets() {
				assert.Equal(t, want[i], p, i)
			}
		})
	}
}

// newBenchOfTwo is peer number 2's, where number 1 is the peer.
func newBenchOfTwo(t testing.TB) *bench {
	b := newBench(t)
	table := newTable().with(newUsers(), DefaultPort, nil, []Peer{
		{Node: "one", Underlay: netip.MustParseAddr("192.0.2.1"), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}},
		{Node: "one", Underlay: netip.MustParseAddr("2001:db8::1"), Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00:244:0:1::/64")}},
	})
	table.mtu = 1452
	b.tables.Store(table)
	return b
}

// run5 is five packets of a flow that follow one another.
func run5(k pkt) (all [][]byte) {
	for i := range 5 {
		k.sequence, k.id, k.payload = uint32(1000*i), uint16(i), bytes.Repeat([]byte{byte(i)}, 1000)
		all = append(all, k.build())
	}
	return all
}

// TestPushIsJoined has a packet amid others with PSH: all are written at once, and pushed.
func TestPushIsJoined(t *testing.T) {
	for _, tt := range flowsUnderTest {
		if !tt.tcp {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			b, again := newBench(t), newBenchOfTwo(t)
			pushed := []int{-1, 1, 2, 4} // -1: none
			for _, at := range pushed {
				k := tt.back()
				var packets [][]byte
				for i := range 5 {
					k.sequence, k.payload, k.flags = uint32(1000*i), filled(1000), tcpACK
					if i == at {
						k.flags |= tcpPSH
					}
					packets = append(packets, k.build())
				}
				written := b.receive(t, datagram{peer: from(2, tt.v6()), data: bytes.Join(packets, nil), size: len(packets[0])})
				require.Len(t, written, 1, at)
				wire := again.send(t, written[0])
				require.Len(t, wire, 1, at)
				for i, p := range wire[0].packets() {
					in, ok := parse(p)
					require.True(t, ok)
					require.True(t, good(p), "packet %d", i)
					assert.Equal(t, i == 4 && at >= 0, p[in.ipLen+tcpFlags]&tcpPSH != 0, "packet %d, pushed at %d", i, at)
				}
			}
			assert.Empty(t, b.dropped())
		})
	}
}

// TestDamagedPacketsAreNotJoined damages one bit after the other: no damaged byte may come out in a super-packet, whose checksum
// the kernel makes anew, nor anything that was not damaged be lost.
func TestDamagedPacketsAreNotJoined(t *testing.T) {
	for _, tt := range flowsUnderTest {
		t.Run(tt.name, func(t *testing.T) {
			b, again := newBench(t), newBenchOfTwo(t)
			for victim := range 5 {
				places := []int{45, 50, 70, 71, 500, 999}
				if victim == 3 { // which is compared with others before anything else is looked at
					for at := range 72 { // all headers
						places = append(places, at)
					}
				}
				for _, at := range places {
					packets := run5(tt.back())
					bad := packets[victim]
					bad[at] ^= 0x10
					undamaged := map[string]bool{}
					for i, p := range packets {
						if i != victim {
							undamaged[nameless(p)] = true
						}
					}
					for _, w := range b.receive(t, datagram{peer: from(2, tt.v6()), data: bytes.Join(packets, nil), size: len(packets[0])}) {
						if parseVirtio(w).gsoType == gsoNone {
							delete(undamaged, nameless(w[virtioLen:]))
							continue // the kernel verifies it
						}
						w[virtioLen+map[bool]int{true: v6HopLimit, false: v4TTL}[tt.v6()]]++
						for _, d := range again.send(t, w) {
							for _, p := range d.packets() {
								assert.True(t, undamaged[nameless(p)], "a damaged packet has a good checksum")
								delete(undamaged, nameless(p))
							}
						}
					}
					assert.Empty(t, undamaged, "bit %d of packet %d", at, victim)
				}
			}
		})
	}
}

// nameless is a packet without its IPv4 ID, which counts on where one has been dropped: with DF it means nothing (RFC 6864).
func nameless(p []byte) string {
	p = bytes.Clone(p)
	if p[0]>>4 == 4 {
		p[v4ID], p[v4ID+1] = 0, 0
		sealV4(p[:v4HeaderLen])
	}
	return string(p)
}

func TestWhatIsNotJoined(t *testing.T) {
	base := pkt{src: "10.244.2.6", dst: "10.244.1.5", tcp: true}
	for _, tt := range []struct {
		name   string
		change func(*pkt)
	}{
		{"a gap", func(k *pkt) { k.sequence++ }},
		{"another window", func(k *pkt) { k.window = 1 }},
		{"another TTL", func(k *pkt) { k.hops = 9 }},
		{"another TOS", func(k *pkt) { k.tos = 4 }},
		{"may be fragmented", func(k *pkt) { k.noDF = true }},
		{"FIN", func(k *pkt) { k.flags = tcpACK | tcpFIN }},
		{"SYN", func(k *pkt) { k.flags = 2 }},
		{"longer", func(k *pkt) { k.payload = filled(1001) }},
		{"empty", func(k *pkt) { k.payload = nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			first, second := base, base
			first.payload, second.payload, second.sequence = filled(1000), filled(1000), 1000
			tt.change(&second)
			want := [][]byte{plain(first.build()), plain(second.build())}
			got := b.receive(t, datagram{peer: from(2, false), data: first.build()}, datagram{peer: from(2, false), data: second.build()})
			assert.Equal(t, want, got, "in order, as they came")
		})
	}
}

func TestInterleavedFlowsAreJoinedInOrder(t *testing.T) {
	b := newBench(t)
	var came []datagram
	for i := range 40 {
		for flow := range 4 {
			k := pkt{src: "10.244.2.6", dst: "10.244.1." + string(rune('1'+flow)), tcp: true, sequence: uint32(i * 100), payload: filled(100)}
			came = append(came, datagram{peer: from(2, false), data: k.build()})
		}
	}
	next := map[string]uint32{}
	written := b.receive(t, came...)
	for _, w := range written {
		p := w[virtioLen:]
		in, ok := parse(p)
		require.True(t, ok)
		flow := string(in.destination(p))
		assert.Equal(t, next[flow], binary.BigEndian.Uint32(p[in.ipLen+tcpSequence:]))
		next[flow] += uint32(in.length - in.headLen)
	}
	assert.Len(t, next, 4)
	assert.Less(t, len(written), 20, "160 packets")
}

// TestFlowsKeepTheirOrder sends packets of many sizes of few flows: those of a flow may not overtake one another.
func TestFlowsKeepTheirOrder(t *testing.T) {
	b := newBench(t)
	random := rand.New(rand.NewPCG(3, 4))
	var packets [][]byte
	for i := range 300 {
		k := pkt{src: "10.244.1.5", dst: "10.244.2." + string(rune('1'+random.IntN(5))), sequence: uint32(i) * 1000, tcp: true, payload: filled(100 * (1 + random.IntN(3)))}
		if random.IntN(5) == 0 {
			packets = append(packets, k.super(100))
			continue
		}
		packets = append(packets, plain(k.build()))
	}
	last := map[string]uint32{}
	sent, n := b.send(t, packets...), 0
	for _, d := range sent {
		for _, p := range d.packets() {
			n++
			require.True(t, good(p))
			in, _ := parse(p)
			flow := string(in.destination(p))
			sequence := binary.BigEndian.Uint32(p[in.ipLen+tcpSequence:])
			require.GreaterOrEqual(t, sequence, last[flow])
			last[flow] = sequence
		}
	}
	assert.Less(t, len(sent), n, "they share datagrams")
}

// TestManyAtOnce has more to read than is read before anything is sent: all of it has to come out whole and in order, and what is left of one
// super-packet shares a datagram with the next one's first packets.
func TestManyAtOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for _, flows := range []int{1, 4} {
		b := newBench(t)
		var packets [][]byte
		want, got := make([][]byte, flows), make([][]byte, flows)
		for i := range 40 {
			flow := i % flows
			k := pkt{src: "10.244.1.5", dst: "10.244.2." + string(rune('1'+flow)), sequence: uint32(len(want[flow])), tcp: true, payload: make([]byte, 46*1400)}
			for i := range k.payload {
				k.payload[i] = byte(random.Uint32())
			}
			want[flow] = append(want[flow], k.payload...)
			packets = append(packets, k.super(1400))
		}
		sent := b.send(t, packets...)
		for _, d := range sent {
			for _, p := range d.packets() {
				in, _ := parse(p)
				flow := in.destination(p)[3] - 1
				require.EqualValues(t, len(got[flow]), binary.BigEndian.Uint32(p[in.ipLen+tcpSequence:]))
				got[flow] = append(got[flow], p[in.headLen:]...)
			}
		}
		for i := range want {
			assert.True(t, bytes.Equal(want[i], got[i]), "flow %d", i)
		}
		assert.LessOrEqual(t, len(sent), 40*46/44+40/6+1)
	}
}

func TestDrops(t *testing.T) {
	for _, tt := range flowsUnderTest {
		in := tt.back()
		in.payload = filled(100)
		with := func(src, dst string) []byte {
			k := in
			k.src, k.dst = cmp.Or(src, k.src), cmp.Or(dst, k.dst)
			return k.build()
		}
		ours, third, world := "10.244.1.9", "10.244.3.1", "203.0.113.1"
		if in.v6() {
			ours, third, world = "fd00:244:0:1::9", "fd00:244:0:3::1", "2001:db8:ffff::1"
		}
		two := from(2, in.v6())
		for _, c := range []struct {
			name string
			from netip.AddrPort
			data []byte
			tos  byte
			want Drop
		}{
			{"from nobody we know", from(9, in.v6()), in.build(), 0, UnknownSource},
			{"nothing, from nobody", from(9, in.v6()), nil, 0, UnknownSource},
			{"from another port", netip.AddrPortFrom(two.Addr(), 8286), in.build(), 0, UnknownSource},
			{"from another peer's pod", from(3, in.v6()), in.build(), 0, Spoofed},
			{"from a pod of ours", two, with(ours, ""), 0, Spoofed},
			{"from the world", two, with(world, ""), 0, Spoofed},
			{"for another node", two, with("", third), 0, Misdirected},
			{"congestion it cannot tell", two, in.build(), ce, Congested},
			{"cut short", two, in.build()[:60], 0, Malformed},
			{"not IP", two, []byte("hello, world, I am not an IP packet"), 0, Malformed},
			{"a byte", two, []byte{in.build()[0]}, 0, Malformed},
			{"nothing", two, nil, 0, Malformed},
		} {
			t.Run(tt.name+", "+c.name, func(t *testing.T) {
				b := newBench(t)
				assert.Empty(t, b.receive(t, datagram{peer: c.from, data: c.data, tos: c.tos}))
				assert.Equal(t, map[Drop]uint64{c.want: 1}, b.dropped())
			})
		}
	}
}

// TestDamaged is what becomes of a flow with a damaged packet in its midst.
func TestDamaged(t *testing.T) {
	for _, tt := range flowsUnderTest {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			packets := run5(tt.back())
			packets[2][900] ^= 1
			b.receive(t, datagram{peer: from(2, tt.v6()), data: bytes.Join(packets, nil), size: len(packets[0])})
			assert.Equal(t, map[Drop]uint64{BadChecksum: 1}, b.dropped())
		})
	}
}

// TestSpoofedContinuation: a packet that goes on where another peer's stopped is nobody's, also where that peer has just sent a good one.
func TestSpoofedContinuation(t *testing.T) {
	for _, tt := range flowsUnderTest {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			packets := run5(tt.back())
			size := len(packets[0])
			other := tt.back()
			other.src = map[bool]string{false: "10.244.3.6", true: "fd00:244:0:3::6"}[other.v6()]
			other.payload = nil // it goes alone
			written := b.receive(t,
				datagram{peer: from(2, tt.v6()), data: bytes.Join(packets[:3], nil), size: size},
				datagram{peer: from(3, tt.v6()), data: packets[3]},
				datagram{peer: from(3, tt.v6()), data: other.build()},
				datagram{peer: from(3, tt.v6()), data: packets[3]},
				datagram{peer: from(2, tt.v6()), data: bytes.Join(packets[3:], nil), size: size},
			)
			assert.Equal(t, map[Drop]uint64{Spoofed: 2}, b.dropped())
			require.Len(t, written, 2)
			alone := 0
			for _, w := range written {
				if parseVirtio(w).gsoType == gsoNone {
					alone++
				} else {
					assert.Len(t, w, virtioLen+size+4*1000)
				}
			}
			assert.Equal(t, 1, alone)
		})
	}
}

// TestFullLink is what becomes of packets that the kernel does not take.
func TestFullLink(t *testing.T) {
	b := newBench(t)
	b.tun.out = nil
	packets := run5(flowsUnderTest[0].back())
	b.receive(t, datagram{peer: from(2, false), data: bytes.Join(packets, nil), size: len(packets[0])}, datagram{peer: from(2, false), data: packets[0]})
	assert.Equal(t, map[Drop]uint64{WriteFailed: 6}, b.dropped())
}

// TestICMP is what the sender is told of packets that go nowhere.
func TestICMP(t *testing.T) {
	v4 := pkt{src: "10.244.1.5", dst: "10.244.9.9", payload: filled(1000)}
	v6 := pkt{src: "fd00:244:0:1::5", dst: "fd00:244:0:9::9", payload: filled(1300)}
	with := func(k pkt, change func(*pkt)) pkt {
		change(&k)
		return k
	}
	near := func(k *pkt) { k.hops, k.dst = 1, map[bool]string{false: "10.244.2.6", true: "fd00:244:0:2::6"}[k.v6()] }
	big := func(k *pkt) { near(k); k.hops, k.payload = 64, filled(1452) }
	for _, tt := range []struct {
		name       string
		packet     pkt
		want       Drop
		kind, code byte
		mtu        int
		silent     bool
	}{
		{"no peer, IPv4", v4, NoPeer, 3, 0, 0, false},
		{"no peer, IPv6", v6, NoPeer, 1, 0, 0, false},
		{"TTL", with(v4, near), HopLimit, 11, 0, 0, false},
		{"hop limit", with(v6, near), HopLimit, 3, 0, 0, false},
		{"too big, IPv4", with(v4, big), TooBig, 3, 4, 1452, false},
		{"too big, IPv6", with(v6, big), TooBig, 2, 0, 1452, false},
		{"to all", with(v4, func(k *pkt) { k.dst = "224.0.0.1" }), NoPeer, 0, 0, 0, true},
		{"from nobody", with(v4, func(k *pkt) { k.src = "0.0.0.0" }), NoPeer, 0, 0, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			p := tt.packet.build()
			assert.Empty(t, b.send(t, plain(p)))
			assert.Equal(t, map[Drop]uint64{tt.want: 1}, b.dropped())
			written := b.written()
			if tt.silent {
				assert.Empty(t, written)
				return
			}
			require.Len(t, written, 1)
			reply := written[0][virtioLen:]
			in, ok := parse(reply)
			require.True(t, ok)
			require.Equal(t, len(reply), in.length)
			assert.Equal(t, tt.packet.src, addr(in.destination(reply)).String())
			body := reply[in.ipLen:]
			mtu := int(binary.BigEndian.Uint16(body[6:]))
			if in.v6 {
				assert.Equal(t, "fd00:244:0:1::", addr(in.source(reply)).String())
				assert.Zero(t, rfc1071(in.source(reply), in.destination(reply), be16(unix.IPPROTO_ICMPV6), be16(len(body)), body))
				assert.LessOrEqual(t, len(reply), 1280)
				mtu = int(binary.BigEndian.Uint32(body[4:]))
			} else {
				assert.Equal(t, "10.244.1.0", addr(in.source(reply)).String())
				assert.Zero(t, rfc1071(reply[:20]))
				assert.Zero(t, rfc1071(body))
				assert.LessOrEqual(t, len(reply), 576)
			}
			assert.Equal(t, []byte{tt.kind, tt.code}, body[:2])
			assert.Equal(t, tt.mtu, mtu)
			assert.Equal(t, p[:len(body)-8], body[8:], "quotes the packet as it came")

			if body[0] != 0 {
				b.send(t, plain(swapped(reply)))
				assert.Empty(t, b.written(), "an error about an error")
			}
		})
	}
	t.Run("limited", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { // in no time
			b := newBench(t)
			for range 1000 {
				b.send(t, plain(v4.build()))
			}
			assert.Len(t, b.written(), repliesAtOnce)
			assert.EqualValues(t, 1000, b.dropped()[NoPeer])
		})
	})
}

// swapped is an ICMP error from a pod of ours to nobody.
func swapped(p []byte) []byte {
	p = bytes.Clone(p)
	in, _ := parse(p)
	copy(in.destination(p), in.source(p))
	copy(in.destination(p)[2:], []byte{0x09, 0x09})
	return p
}

func TestDSCPAndECN(t *testing.T) {
	for _, tt := range flowsUnderTest {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			k := tt.pkt
			k.tos, k.payload = 0xb8|2, filled(3000)
			sent := b.send(t, k.super(1000))
			require.Len(t, sent, 1)
			assert.Equal(t, k.tos, sent[0].tos, "what the underlay sees")
			for _, p := range sent[0].packets() {
				in, _ := parse(p)
				assert.Equal(t, k.tos, in.tos(p))
			}
			k = tt.back()
			k.tos, k.payload = 0xb8|2, filled(1000)
			got := b.receive(t, datagram{peer: from(2, k.v6()), data: k.build(), tos: 0xb8 | ce})
			require.Len(t, got, 1)
			k.tos = 0xb8 | ce
			assert.Equal(t, k.build(), got[0][virtioLen:], "congestion is passed on")

			packets := run5(tt.back()) // whose sender would not understand
			b.receive(t, datagram{peer: from(2, k.v6()), data: bytes.Join(packets[:3], nil), size: len(packets[0])},
				datagram{peer: from(2, k.v6()), data: packets[3], tos: ce})
			assert.Equal(t, map[Drop]uint64{Congested: 1}, b.dropped())
		})
	}
}

func TestChecksumsLeftToUs(t *testing.T) {
	b := newBench(t)
	for _, tt := range flowsUnderTest {
		k := tt.pkt
		k.payload = filled(333)
		p := k.build()
		in, _ := parse(p)
		h := virtioHeader{needsChecksum: true, checksumStart: uint16(in.ipLen), checksumOffset: uint16(in.checksumAt() - in.ipLen)}
		pseudo := ^rfc1071(in.source(p), in.destination(p), be16(int(in.transport)), be16(len(p)-in.ipLen))
		copy(p[in.checksumAt():], be16(int(pseudo)))
		head := make([]byte, virtioLen)
		h.put(head)
		sent := b.send(t, append(head, p...))
		require.Len(t, sent, 1, tt.name)
		assert.True(t, good(sent[0].data), tt.name)
	}
}

// TestFallbacks is what happens where the kernel does not take datagrams to be cut.
func TestFallbacks(t *testing.T) {
	for _, tt := range []struct {
		name  string
		errno unix.Errno
		again bool // it is tried again with the next
	}{
		{"no checksums by the device", unix.EIO, false},
		{"wider than the device", unix.EMSGSIZE, true},
		{"wider than the device, before 5.19", unix.EINVAL, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			asked := 0
			b.sockets[0].refuse = func(d datagram) error {
				if d.size != 0 {
					asked++
					return tt.errno
				}
				return nil
			}
			k := pkt{src: "10.244.1.5", dst: "10.244.2.6", tcp: true, payload: filled(5500)}
			for range 3 {
				sent := b.send(t, k.super(1000))
				require.Len(t, sent, 6)
				for i, d := range sent {
					assert.True(t, good(d.data), i)
				}
			}
			assert.Equal(t, map[bool]int{true: 3, false: 1}[tt.again], asked)
			assert.Empty(t, b.dropped())
			assert.EqualValues(t, 18, b.total.stats().SentPackets)
		})
	}
	t.Run("nothing at all", func(t *testing.T) {
		b := newBench(t)
		b.sockets[0].refuse = func(datagram) error { return unix.ENETUNREACH }
		k := pkt{src: "10.244.1.5", dst: "10.244.2.6", tcp: true, payload: filled(5500)}
		assert.Empty(t, b.send(t, k.super(1000), plain(pkt{src: "10.244.1.5", dst: "10.244.2.6"}.build())))
		assert.Equal(t, map[Drop]uint64{SendFailed: 7}, b.dropped())
	})
}

func TestFragmentsPass(t *testing.T) {
	b := newBench(t)
	k := pkt{src: "10.244.1.5", dst: "10.244.2.6", payload: filled(800), noDF: true}
	p := k.build()
	p[v4Fragment] = 0x20 // more are to come
	sealV4(p[:20])
	sent := b.send(t, plain(p))
	require.Len(t, sent, 1)
	p[v4TTL]--
	sealV4(p[:20])
	assert.Equal(t, p, sent[0].data)
	k = k.back()
	p = k.build()
	p[v4Fragment+1] = 100
	sealV4(p[:20])
	got := b.receive(t, datagram{peer: from(2, false), data: p}, datagram{peer: from(2, false), data: p})
	assert.Equal(t, [][]byte{plain(p), plain(p)}, got)
}
