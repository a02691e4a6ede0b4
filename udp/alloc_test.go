package udp

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// endless is a TUN and a socket that always have the same to read, and take everything.
type endless struct {
	packet []byte // for the TUN
	data   datagram
	left   int

	// What the first message came out with. The others are the same: what is written into them is headers that stay as they are.
	filled bool
	first  message
}

func (e *endless) read(b []byte) (int, error) {
	if e.left == 0 {
		return 0, errAgain
	}
	e.left--
	return copy(b, e.packet), nil
}

func (e *endless) write([]unix.Iovec) error { return nil }

func (e *endless) send(m []message) (int, error) { return len(m), nil }

func (e *endless) receive(m []message) (int, error) {
	if e.left == 0 {
		return 0, errAgain
	}
	e.left--
	if !e.filled {
		(*fakeSocket)(nil).fill(&m[0], e.data)
		e.first, e.filled = m[0], true
	}
	m[0] = e.first
	return 1, nil
}

// way is one that a packet can go.
type way struct {
	name    string
	packets int // in one read
	pump    pump
	again   func() // has the next pump find something
}

func ways(t testing.TB) []way {
	t.Helper()
	b := newBench(t)
	out := func(packet []byte, whole bool) (pump, func()) {
		e, l := &endless{packet: packet}, newLimiter()
		o := newOutbound(e, [2]socketPort{e, e}, &b.tables, l, &b.total)
		o.whole = [2]bool{whole, whole}
		return o, func() { e.left, l.tokens = 1, repliesAtOnce }
	}
	big := flowsUnderTest[0].pkt
	big.payload = filled(44 * 1400)
	small := flowsUnderTest[3].pkt
	small.payload = filled(64)
	lost := pkt{src: "10.244.1.5", dst: "10.244.9.9", payload: filled(64)}
	e := &endless{data: datagram{peer: from(2, false), data: bytes.Join(run5(flowsUnderTest[0].back()), nil), size: len(run5(flowsUnderTest[0].back())[0])}}
	cut, cutAgain := out(big.super(1400), false)
	singly, singlyAgain := out(big.super(1400), true)
	one, oneAgain := out(plain(small.build()), false)
	refused, refusedAgain := out(plain(lost.build()), false)
	lost.src, lost.dst = "fd00:244:0:1::5", "fd00:244:0:9::9"
	refused6, refused6Again := out(plain(lost.build()), false)
	return []way{
		{"cut", 44, cut, cutAgain},
		{"cut, sent singly", 44, singly, singlyAgain},
		{"small", 1, one, oneAgain},
		{"refused", 1, refused, refusedAgain},
		{"refused, IPv6", 1, refused6, refused6Again},
		{"joined", 5, newInbound(e, e, &b.tables, supers{tcp: true, udp: true}, &b.total), func() { e.left = 1 }},
	}
}

func TestNoAllocations(t *testing.T) {
	for _, p := range ways(t) {
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			p.again()
			_, err := p.pump.pump()
			require.NoError(t, err)
		}), p.name)
	}
}

// BenchmarkPacket is what the packet path itself costs, without any system call.
func BenchmarkPacket(b *testing.B) {
	for _, p := range ways(b) {
		b.Run(p.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.again()
				if _, err := p.pump.pump(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*p.packets), "ns/packet")
		})
	}
}
