package udp

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// run is packets of one flow, each the continuation of the one before, that are given to the kernel as one super-packet.
//
// The kernel takes our word for the checksums of a super-packet and makes new ones when it cuts it. So every packet is verified
// before it is joined: a damaged one would get a good checksum.
type run struct {
	in    inner // of the first packet
	first []byte
	count int
	size  int // of each packet's payload; only the last may have less
	bytes int // of payload
	// closed: a packet with less payload was the last, or the first had PSH, with whose flags all are compared.
	closed bool
	// pushed: a packet had PSH. What follows is joined all the same, and the last has it: nothing waits for what is to come.
	pushed   bool
	verified bool // the first packet; it is not while it is alone
	sequence uint32
	// What is the same in every packet's headers, summed: of the IPv4 header, and of what the transport's checksum covers.
	ipSum, transportSum uint64
	header              [virtioLen]byte
	buf                 []byte // the super-packet
}

// runRoom is where the payload begins in a run's buffer. There is room for the longest header in front of it; the kernel copies faster
// from where a cache line begins.
const runRoom = 128

// joinable reports whether a packet may be in a run at all.
func joinable(in *inner, p []byte, takes supers) bool {
	if in.length == in.headLen || !in.v6 && in.ipLen != v4HeaderLen {
		return false // without payload, or with IP options
	}
	if in.transport == unix.IPPROTO_UDP {
		return takes.udp && native.Uint16(p[in.ipLen+udpChecksum:]) != 0
	}
	return takes.tcp && p[in.ipLen+tcpFlags]&^tcpPSH == tcpACK
}

// sameFlow reports whether p has the run's addresses, protocol and ports.
func (r *run) sameFlow(in *inner, p []byte) bool {
	if in.v6 != r.in.v6 || in.transport != r.in.transport || in.ipLen != r.in.ipLen ||
		native.Uint32(p[in.ipLen:]) != native.Uint32(r.first[in.ipLen:]) {
		return false
	}
	if in.v6 {
		return string(p[v6Source:v6HeaderLen]) == string(r.first[v6Source:v6HeaderLen])
	}
	return native.Uint64(p[v4Source:]) == native.Uint64(r.first[v4Source:])
}

// begin makes p the first packet of the run.
func (r *run) begin(in *inner, p []byte) {
	r.in, r.first, r.count, r.verified = *in, p, 1, false
	r.size = in.length - in.headLen
	r.bytes, r.closed, r.pushed = r.size, false, false
	if in.transport == unix.IPPROTO_TCP {
		t := p[in.ipLen:]
		r.sequence = binary.BigEndian.Uint32(t[tcpSequence:]) + uint32(r.size)
		r.closed = t[tcpFlags]&tcpPSH != 0
	}
}

type addition uint8

const (
	added addition = iota
	refused
	damaged // and nothing is to follow it
)

// add adds a packet of the same flow that continues it.
func (r *run) add(in *inner, p []byte) addition {
	payload := in.length - in.headLen
	if r.closed || r.count == maxSegments || payload == 0 || payload > r.size || in.headLen != r.in.headLen ||
		r.in.headLen+r.bytes+payload > 65535 || !r.continues(in, p) {
		return refused
	}
	if !in.intact(p, r.buf[runRoom+r.bytes:]) {
		return damaged
	}
	if !r.verified {
		if !r.in.intact(r.first, r.buf[runRoom:]) {
			return refused // the kernel will drop the first
		}
		r.verified = true
		r.sumHeaders()
	}
	r.count++
	r.bytes += payload
	r.closed = payload < r.size
	if in.transport == unix.IPPROTO_TCP {
		r.sequence += uint32(payload)
		r.pushed = r.pushed || p[in.ipLen+tcpFlags]&tcpPSH != 0
	}
	return added
}

// sumHeaders sums those of the first packet, without what differs in the next: IPv4's ID, TCP's sequence number, the checksums.
func (r *run) sumHeaders() {
	f, t := r.first, r.first[r.in.ipLen:r.in.headLen]
	if !r.in.v6 {
		r.ipSum = uint64(fold(sum(f[:v4ID], 0))) + uint64(fold(sum(f[v4Fragment:v4Checksum], 0))) + uint64(fold(sum(f[v4Source:v4HeaderLen], 0)))
	}
	pseudo := plus(r.in.pseudo(f), word(uint16(r.in.length-r.in.ipLen)))
	if r.in.transport == unix.IPPROTO_UDP {
		r.transportSum = uint64(fold(sum(t[:udpChecksum], pseudo)))
		return
	}
	r.transportSum = uint64(fold(sum(t[:tcpSequence], pseudo))) + uint64(fold(sum(t[tcpAcknowledgement:tcpChecksum], 0))) +
		uint64(fold(sum(t[tcpChecksum+2:], 0)))
}

// next is parse, sameFlow and add in one for a packet that differs from the run's first in nothing but what counts on, as most do. It
// reports false for any other, and for a damaged one, and has then changed nothing.
func (r *run) next(p []byte) bool {
	f, ipLen, headLen := r.first, r.in.ipLen, r.in.headLen
	if r.count == 0 || !r.verified || r.closed || r.count == maxSegments || len(p) != len(f) || headLen+r.bytes+r.size > 65535 {
		return false
	}
	if r.in.v6 {
		if string(p[:v6HeaderLen]) != string(f[:v6HeaderLen]) {
			return false
		}
	} else if native.Uint32(p) != native.Uint32(f) || native.Uint32(p[v4Fragment:]) != native.Uint32(f[v4Fragment:]) ||
		native.Uint64(p[v4Source:]) != native.Uint64(f[v4Source:]) ||
		fold(r.ipSum+uint64(native.Uint16(p[v4ID:]))+uint64(native.Uint16(p[v4Checksum:]))) != 0xffff {
		return false
	}
	t, ft := p[ipLen:headLen], f[ipLen:headLen]
	acc := r.transportSum
	if r.in.transport == unix.IPPROTO_UDP {
		check := native.Uint16(t[udpChecksum:])
		if native.Uint32(t) != native.Uint32(ft) || native.Uint16(t[udpLength:]) != native.Uint16(ft[udpLength:]) || check == 0 {
			return false
		}
		acc += uint64(check)
	} else {
		if native.Uint32(t) != native.Uint32(ft) || binary.BigEndian.Uint32(t[tcpSequence:]) != r.sequence ||
			native.Uint64(t[tcpAcknowledgement:]) != native.Uint64(ft[tcpAcknowledgement:]) || // and offset, flags, window
			string(t[tcpChecksum+2:]) != string(ft[tcpChecksum+2:]) { // urgent pointer, options
			return false
		}
		acc += uint64(native.Uint32(t[tcpSequence:])) + uint64(native.Uint16(t[tcpChecksum:]))
	}
	if fold(copySum(r.buf[runRoom+r.bytes:], p[headLen:], acc)) != 0xffff {
		return false
	}
	r.count++
	r.bytes += r.size
	r.sequence += uint32(r.size)
	return true
}

// continues reports whether p has the header that cutting the run would give its next packet.
func (r *run) continues(in *inner, p []byte) bool {
	f := r.first
	if in.v6 {
		if native.Uint32(p) != native.Uint32(f) || p[v6HopLimit] != f[v6HopLimit] { // version, class, flow label
			return false
		}
	} else if p[v4TOS] != f[v4TOS] || p[v4TTL] != f[v4TTL] || native.Uint16(p[v4Fragment:]) != native.Uint16(f[v4Fragment:]) {
		return false
	}
	t, ft := p[in.ipLen:in.headLen], f[in.ipLen:in.headLen]
	if in.transport == unix.IPPROTO_UDP {
		return native.Uint16(t[udpChecksum:]) != 0
	}
	return binary.BigEndian.Uint32(t[tcpSequence:]) == r.sequence && t[tcpFlags]&^tcpPSH == tcpACK &&
		native.Uint32(t[tcpAcknowledgement:]) == native.Uint32(ft[tcpAcknowledgement:]) && t[tcpDataOffset] == ft[tcpDataOffset] &&
		native.Uint16(t[tcpWindow:]) == native.Uint16(ft[tcpWindow:]) &&
		bytes.Equal(t[tcpChecksum+2:], ft[tcpChecksum+2:]) // urgent pointer, options
}

// seal makes the super-packet, and the virtio header for it.
func (r *run) seal() (header, p []byte) {
	in, length := &r.in, r.in.headLen+r.bytes
	p = r.buf[runRoom-in.headLen:][:length]
	head := p[:in.headLen]
	copy(head, r.first)
	if r.pushed {
		head[in.ipLen+tcpFlags] |= tcpPSH // each cut packet but the last loses it again
	}
	in.setLength(head, length)
	rest := uint16(length - in.ipLen)
	h := virtioHeader{
		needsChecksum: true, headLen: uint16(in.headLen), gsoSize: uint16(r.size),
		checksumStart: uint16(in.ipLen), checksumOffset: uint16(in.checksumAt() - in.ipLen),
	}
	switch {
	case in.transport == unix.IPPROTO_UDP:
		h.gsoType = gsoUDP
		binary.BigEndian.PutUint16(head[in.ipLen+udpLength:], rest)
	case in.v6:
		h.gsoType = gsoTCPv6
	default:
		h.gsoType = gsoTCPv4
	}
	h.put(r.header[:])
	native.PutUint16(head[in.checksumAt():], fold(plus(in.pseudo(head), word(rest))))
	return r.header[:], p
}
