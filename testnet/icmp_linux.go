package testnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// icmp is what differs between ICMP (RFC 792) and ICMPv6 (RFC 4443).
type icmp interface {
	format() echoFormat
	// listen names the socket for package net. The protocol goes by its number: names are looked up in /etc/protocols,
	// which a small image lacks.
	listen() (network, address string)
	// prepare lets answers and errors in, and above all keeps out the requests of others, which the kernel answers.
	prepare(fd int) error
	setFragment(fd int, allowed bool) error
	// source is the control message that chooses the source address.
	source(from netip.Addr) []byte
	// quoted is the ICMP message in the packet that an error quotes; nil if it is something else.
	quoted(packet []byte) []byte
	// verdict is what an error message means; nil if it is not an error.
	verdict(msg []byte) error
}

type echoFormat struct {
	header     int  // length of the IP header
	size       int  // of the IP packet, unless the caller wants another
	ask, reply byte // types
	checksum   bool // ours to compute
}

const (
	icmpHeader = 8
	cookieSize = 8
	maxPacket  = 65535
)

// errHopLimit has the errno that the kernel gives it too (icmp_err_convert in net/ipv4/icmp.c).
var errHopLimit = fmt.Errorf("hop limit reached: %w", unix.EHOSTUNREACH)

func tooBig(mtu uint32) error {
	return fmt.Errorf("%w: the next link takes %d bytes", unix.EMSGSIZE, mtu)
}

// request makes an echo request: key is its identifier and sequence number, the cookie begins its data.
func (f echoFormat) request(key uint32, cookie [cookieSize]byte, size int) ([]byte, error) {
	if size == 0 {
		size = f.size
	}
	if least := f.header + icmpHeader + cookieSize; size < least || size > maxPacket {
		return nil, &podweft.FieldError{
			Field: "Size", Value: size, Problem: "is not the size of an echo request",
			Remedy: fmt.Sprintf("use %d to %d", least, maxPacket),
		}
	}
	msg := make([]byte, size-f.header)
	msg[0] = f.ask
	binary.BigEndian.PutUint32(msg[4:], key)
	copy(msg[icmpHeader:], cookie[:])
	if f.checksum {
		binary.BigEndian.PutUint16(msg[2:], checksum(msg))
	}
	return msg, nil
}

// parse reads an ICMP message: the answer to a request with the cookie, or an error that quotes one.
func parse(p icmp, msg []byte, cookie [cookieSize]byte) (key uint32, ours bool, verdict error) {
	if len(msg) < icmpHeader {
		return 0, false, nil
	}
	if msg[0] == p.format().reply {
		key, ours = echoKey(msg, cookie)
		return key, ours, nil
	}
	echo := p.quoted(msg[icmpHeader:])
	if len(echo) < icmpHeader || echo[0] != p.format().ask {
		return 0, false, nil
	}
	key, ours = echoKey(echo, cookie)
	verdict = p.verdict(msg)
	if !ours || verdict == nil {
		return 0, false, nil
	}
	return key, true, verdict
}

// echoKey returns identifier and sequence number of an echo message if it bears the cookie. One that is cut off before the
// cookie passes: an error need quote no more than 8 bytes.
func echoKey(echo []byte, cookie [cookieSize]byte) (key uint32, ours bool) {
	data := echo[icmpHeader:]
	if len(data) >= cookieSize && [cookieSize]byte(data) != cookie {
		return 0, false
	}
	return binary.BigEndian.Uint32(echo[4:]), true
}

// checksum is the Internet checksum (RFC 1071) of b, whose own field is still zero.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
