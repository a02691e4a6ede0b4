package udp

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Lengths and offsets of IPv4 (RFC 791), IPv6 (RFC 8200), TCP (RFC 9293) and UDP (RFC 768) headers.
const (
	v4HeaderLen  = 20
	v6HeaderLen  = 40
	tcpHeaderLen = 20
	udpHeaderLen = 8

	v4TOS, v4Length, v4ID, v4Fragment, v4TTL, v4Protocol, v4Checksum, v4Source, v4Destination = 1, 2, 4, 6, 8, 9, 10, 12, 16

	v4DontFragment = 0x4000 // in the field at v4Fragment

	v6Length, v6NextHeader, v6HopLimit, v6Source, v6Destination = 4, 6, 7, 8, 24

	tcpSequence, tcpAcknowledgement, tcpDataOffset, tcpFlags, tcpWindow, tcpChecksum = 4, 8, 12, 13, 14, 16

	tcpFIN, tcpPSH, tcpACK, tcpCWR = 0x01, 0x08, 0x10, 0x80

	udpLength, udpChecksum = 4, 6
)

// inner is what the packet path knows of an inner packet.
type inner struct {
	v6     bool
	ipLen  int // of the IP header, with the extension headers that reach has passed
	length int // of the packet, as the IP header says
	// transport is TCP, UDP or, where neither header can be read, 0: in fragments, behind extension headers.
	transport byte
	headLen   int // of IP and transport header; ipLen when there is no transport
}

// parse reads the headers of the packet that b begins with. Whatever b is, what ok says can be indexed.
func parse(b []byte) (in inner, ok bool) {
	if len(b) < v4HeaderLen {
		return in, false
	}
	protocol := byte(0)
	switch b[0] >> 4 {
	case 4:
		in.ipLen = int(b[0]&0xf) * 4
		in.length = int(binary.BigEndian.Uint16(b[v4Length:]))
		if fragment := binary.BigEndian.Uint16(b[v4Fragment:]); fragment&^v4DontFragment == 0 {
			protocol = b[v4Protocol]
		}
		if in.ipLen < v4HeaderLen {
			return in, false
		}
	case 6:
		if len(b) < v6HeaderLen {
			return in, false
		}
		in.v6, in.ipLen = true, v6HeaderLen
		in.length = v6HeaderLen + int(binary.BigEndian.Uint16(b[v6Length:]))
		protocol = b[v6NextHeader]
	default:
		return in, false
	}
	if in.ipLen > in.length || in.length > len(b) {
		return in, false
	}
	in.enter(protocol, b[in.ipLen:in.length])
	return in, true
}

// enter reads the transport header that rest, what is behind the IP header, begins with.
func (in *inner) enter(protocol byte, rest []byte) {
	in.headLen = in.ipLen
	switch {
	case protocol == unix.IPPROTO_TCP && len(rest) >= tcpHeaderLen:
		head := int(rest[tcpDataOffset]>>4) * 4
		if head >= tcpHeaderLen && head <= len(rest) {
			in.transport, in.headLen = protocol, in.ipLen+head
		}
	case protocol == unix.IPPROTO_UDP && len(rest) >= udpHeaderLen:
		if int(binary.BigEndian.Uint16(rest[udpLength:])) == len(rest) {
			in.transport, in.headLen = protocol, in.ipLen+udpHeaderLen
		}
	}
}

// maxExtended is how long an IPv6 header with its extension headers may be in a super-packet.
const maxExtended = 1 << 10

// reach finds the transport header of a super-packet behind extension headers of IPv6: it is where the kernel has checksums begin. The
// extension headers are then part of the IP header.
func (in *inner) reach(h virtioHeader, p []byte) {
	at := int(h.checksumStart)
	if !in.v6 || in.transport != 0 || at%8 != 0 || at <= in.ipLen || at > min(in.length, maxExtended) {
		return
	}
	protocol := byte(unix.IPPROTO_UDP)
	if h.gsoType == gsoTCPv6 {
		protocol = unix.IPPROTO_TCP
	}
	behind := inner{v6: true, ipLen: at, length: in.length}
	if behind.enter(protocol, p[at:in.length]); behind.transport != 0 {
		*in = behind
	}
}

// source and destination are the raw addresses in the packet p.
func (in *inner) source(p []byte) []byte {
	if in.v6 {
		return p[v6Source:v6Destination]
	}
	return p[v4Source:v4Destination]
}

func (in *inner) destination(p []byte) []byte {
	if in.v6 {
		return p[v6Destination:v6HeaderLen]
	}
	return p[v4Destination:v4HeaderLen]
}

// addr is a raw address as a netip.Addr. An IPv4 address in IPv6 clothes stays what it is, and matches no prefix.
func addr(raw []byte) netip.Addr {
	if len(raw) == 4 {
		return netip.AddrFrom4([4]byte(raw))
	}
	return netip.AddrFrom16([16]byte(raw))
}

// tos is the byte of DSCP and ECN.
func (in *inner) tos(p []byte) byte {
	if in.v6 {
		return p[0]<<4 | p[1]>>4
	}
	return p[v4TOS]
}

// pseudo is the sum of the pseudo-header that TCP and UDP checksums cover, without the length. Behind extension headers it is not: see
// left.
func (in *inner) pseudo(p []byte) uint64 {
	addresses := p[v4Source:v4HeaderLen]
	if in.v6 {
		addresses = p[v6Source:v6HeaderLen]
	}
	return sum(addresses, word(uint16(in.transport)))
}

// left is pseudo as the kernel has left it in the checksum field of a super-packet. It knows the last destination, which may stand in
// a routing header.
func (in *inner) left(p []byte) uint64 {
	without := ^word(uint16(in.length-in.ipLen)) & 0xffff
	return plus(uint64(native.Uint16(p[in.checksumAt():])), without)
}

// checksumAt is where the transport's checksum is.
func (in *inner) checksumAt() int {
	if in.transport == unix.IPPROTO_UDP {
		return in.ipLen + udpChecksum
	}
	return in.ipLen + tcpChecksum
}

// hops is where the TTL or hop limit is.
func (in *inner) hops() int {
	if in.v6 {
		return v6HopLimit
	}
	return v4TTL
}

// setLength writes the packet's length into its IP header, and mends the checksum.
func (in *inner) setLength(p []byte, length int) {
	if in.v6 {
		binary.BigEndian.PutUint16(p[v6Length:], uint16(length-v6HeaderLen))
		return
	}
	binary.BigEndian.PutUint16(p[v4Length:], uint16(length))
	sealV4(p[:in.ipLen])
}

// sealV4 writes the checksum of an IPv4 header.
func sealV4(head []byte) {
	head[v4Checksum], head[v4Checksum+1] = 0, 0
	putChecksum(head[v4Checksum:], sum(head, 0))
}

// intact reports whether the checksums of the packet p are right: that of the transport, which covers the payload, and IPv4's. It
// copies the payload to where it is to be.
func (in *inner) intact(p, to []byte) bool {
	if !in.v6 && fold(sum(p[:in.ipLen], 0)) != 0xffff {
		return false
	}
	acc := sum(p[in.ipLen:in.headLen], plus(in.pseudo(p), word(uint16(in.length-in.ipLen))))
	return fold(copySum(to, p[in.headLen:in.length], acc)) == 0xffff
}

// decrementHops takes one off the TTL of a packet whose TTL is above 1, as RFC 1624 mends a checksum.
func (in *inner) decrementHops(p []byte) {
	p[in.hops()]--
	if in.v6 {
		return
	}
	check := uint32(binary.BigEndian.Uint16(p[v4Checksum:])) + 0x0100
	binary.BigEndian.PutUint16(p[v4Checksum:], uint16(check+check>>16))
}

// ECN codepoints (RFC 3168), the low bits of the TOS.
const (
	notECT   = 0
	ce       = 3
	ecnField = 3
)

// congested marks a packet that met congestion in the tunnel: the outer header said so. It reports false for one that cannot be
// told, which has to be dropped instead (RFC 6040, section 4.2).
func (in *inner) congested(p []byte) bool {
	switch in.tos(p) & ecnField {
	case notECT:
		return false
	case ce:
		return true
	}
	if in.v6 {
		p[1] |= ce << 4
		return true
	}
	sum := uint32(binary.BigEndian.Uint16(p[v4Checksum:])) + uint32(p[v4TOS])
	p[v4TOS] |= ce
	// RFC 1624: new = ~(~old + ~m + m'), here for the word of version and TOS, of which only the low byte changes.
	sum += 0xffff - uint32(p[v4TOS])
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(p[v4Checksum:], uint16(sum+sum>>16))
	return true
}
