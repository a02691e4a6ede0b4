package udp

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzFromPods gives the packet path whatever a TUN could hand out, and more: nothing may panic, go on for ever, or come out that is
// not a whole packet.
func FuzzFromPods(f *testing.F) {
	for _, k := range flowsUnderTest {
		k.payload = filled(900)
		f.Add(k.super(200))
		f.Add(k.super(1))
		f.Add(plain(k.build()))
	}
	b := newBench(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		start := time.Now()
		for _, d := range b.send(t, data[:min(len(data), maxRead)]) {
			for _, p := range d.packets() {
				in, ok := parse(p)
				require.True(t, ok)
				require.Equal(t, len(p), in.length)
			}
		}
		b.written()
		require.Less(t, time.Since(start), patienceForOne)
	})
}

// FuzzFromWire gives it whatever a peer could send: what comes out is whole packets, from that peer's pods, for none of another's.
func FuzzFromWire(f *testing.F) {
	for _, k := range flowsUnderTest {
		k.pkt = k.back()
		k.payload = filled(100)
		one := k.build()
		k.sequence = 100
		f.Add(append(one, k.build()...), uint16(len(one)), byte(0))
		f.Add(one, uint16(0), byte(ce))
	}
	b := newBench(f)
	f.Fuzz(func(t *testing.T, data []byte, size uint16, tos byte) {
		start := time.Now()
		for _, w := range b.receive(t, datagram{peer: from(2, false), data: data[:min(len(data), datagramLen-1)], size: int(size), tos: tos}) {
			in, ok := parse(w[virtioLen:])
			require.True(t, ok)
			require.Equal(t, len(w)-virtioLen, in.length)
			p := w[virtioLen:]
			require.Equal(t, b.tables.Load().source(from(2, false)), b.tables.Load().route(addr(in.source(p))))
			require.Nil(t, b.tables.Load().route(addr(in.destination(p))))
			if h := parseVirtio(w); h.gsoType != gsoNone {
				require.True(t, h.fits(&in))
				require.Greater(t, in.length-in.headLen, int(h.gsoSize))
			}
		}
		require.Less(t, time.Since(start), patienceForOne)
	})
}

// patienceForOne is for a machine that is busy with other fuzzers.
const patienceForOne = 10 * time.Second
