package udp

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// refusal is why an ICMP error is sent to a packet's sender.
type refusal uint8

const (
	unreachable refusal = iota
	timeExceeded
	tooBig
)

// Types and codes of ICMP (RFC 792, RFC 1191) and ICMPv6 (RFC 4443), by refusal.
var (
	icmp4 = [...][2]byte{unreachable: {3, 0}, timeExceeded: {11, 0}, tooBig: {3, 4}}
	icmp6 = [...][2]byte{unreachable: {1, 0}, timeExceeded: {3, 0}, tooBig: {2, 0}}
)

const (
	icmpHeaderLen = 8
	// What an ICMP error may be long, in all: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4(c).
	maxReply4 = 576
	maxReply  = virtioLen + 1280
	// repliesPerSecond and repliesAtOnce limit ICMP errors as routers do (RFC 1812 section 4.3.2.8).
	repliesPerSecond = 1000
	repliesAtOnce    = 50
)

// limiter is a token bucket.
type limiter struct {
	mu     sync.Mutex
	tokens float64
	at     time.Time
}

func newLimiter() *limiter { return &limiter{tokens: repliesAtOnce, at: time.Now()} }

func (l *limiter) allow() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.tokens = min(repliesAtOnce, l.tokens+now.Sub(l.at).Seconds()*repliesPerSecond)
	l.at = now
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}

// refuse tells the sender of p by ICMP why it is not passed on, if it is one to be told (RFC 1122 section 3.2.2, RFC 4443 section
// 2.4(e)).
func (o *outbound) refuse(p []byte, in inner, why refusal) {
	self := o.table.self[0]
	if in.v6 {
		self = o.table.self[1]
	}
	from := addr(in.source(p))
	if !self.IsValid() || !answerable(from) || addr(in.destination(p)).IsMulticast() || in.aboutError(p) || !o.limit.allow() {
		return
	}
	b := o.reply[:]
	clear(b[:virtioLen])
	reply := b[virtioLen:]
	n := 0
	if in.v6 {
		n = icmpError6(reply, self, from, icmp6[why], p, o.table.mtu)
	} else {
		n = icmpError4(reply, self, from, icmp4[why], p, o.table.mtu)
	}
	o.parts = [...]unix.Iovec{part(b[:virtioLen]), part(reply[:n])}
	_ = o.tun.write(o.parts[:]) // it is as unreliable as all of ICMP
}

// answerable reports whether a is one machine's address.
func answerable(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// aboutError reports whether p is an ICMP error or a later fragment, neither of which is answered.
func (in *inner) aboutError(p []byte) bool {
	if in.v6 {
		return p[v6NextHeader] == unix.IPPROTO_ICMPV6 && (in.length == in.ipLen || p[in.ipLen] < 128)
	}
	if binary.BigEndian.Uint16(p[v4Fragment:])&0x1fff != 0 {
		return true
	}
	if p[v4Protocol] != unix.IPPROTO_ICMP {
		return false
	}
	if in.length == in.ipLen {
		return true
	}
	switch p[in.ipLen] {
	case 0, 8, 13, 14, 15, 16: // echo, timestamp, information
		return false
	}
	return true
}

// putAddr writes an address into a header.
func putAddr(b []byte, a netip.Addr) {
	if a.Is4() {
		raw := a.As4()
		copy(b, raw[:])
		return
	}
	raw := a.As16()
	copy(b, raw[:])
}

// icmpError4 writes an ICMP error about p and returns its length.
func icmpError4(b []byte, from, to netip.Addr, what [2]byte, p []byte, mtu int) int {
	quoted := copy(b[v4HeaderLen+icmpHeaderLen:maxReply4], p)
	n := v4HeaderLen + icmpHeaderLen + quoted
	clear(b[:v4HeaderLen+icmpHeaderLen])
	b[0], b[v4TOS], b[v4TTL], b[v4Protocol] = 0x45, 0xc0, 64, unix.IPPROTO_ICMP // precedence: RFC 1812 section 4.3.2.5
	binary.BigEndian.PutUint16(b[v4Length:], uint16(n))
	putAddr(b[v4Source:], from)
	putAddr(b[v4Destination:], to)
	sealV4(b[:v4HeaderLen])
	m := b[v4HeaderLen:n]
	m[0], m[1] = what[0], what[1]
	if what == icmp4[tooBig] {
		binary.BigEndian.PutUint16(m[6:], uint16(mtu))
	}
	putChecksum(m[2:], sum(m, 0))
	return n
}

// icmpError6 writes an ICMPv6 error about p and returns its length.
func icmpError6(b []byte, from, to netip.Addr, what [2]byte, p []byte, mtu int) int {
	quoted := copy(b[v6HeaderLen+icmpHeaderLen:], p)
	n := v6HeaderLen + icmpHeaderLen + quoted
	clear(b[:v6HeaderLen+icmpHeaderLen])
	b[0], b[v6NextHeader], b[v6HopLimit] = 0x60, unix.IPPROTO_ICMPV6, 64
	binary.BigEndian.PutUint16(b[v6Length:], uint16(n-v6HeaderLen))
	putAddr(b[v6Source:], from)
	putAddr(b[v6Destination:], to)
	m := b[v6HeaderLen:n]
	m[0], m[1] = what[0], what[1]
	if what == icmp6[tooBig] {
		binary.BigEndian.PutUint32(m[4:], uint32(mtu))
	}
	pseudo := sum(b[v6Source:v6HeaderLen], word(unix.IPPROTO_ICMPV6)+word(uint16(len(m))))
	putChecksum(m[2:], sum(m, pseudo))
	return n
}
