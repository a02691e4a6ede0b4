package udp

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// pkt is an inner packet to be made. Its checksums are made by rfc1071, which shares nothing with what is tested.
type pkt struct {
	src, dst string
	tcp      bool // else UDP
	sequence uint32
	flags    byte // of TCP; 0 means ACK
	payload  []byte
	hops     byte // 0 means 64
	tos      byte
	id       uint16
	noDF     bool
	window   uint16
}

// rfc1071 is the checksum as the RFC has it.
func rfc1071(parts ...[]byte) uint16 {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	sum := uint32(0)
	for i := 0; i < len(all); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(all[i:]))
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func be16(v int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(v)) }

func (k pkt) build() []byte {
	src, dst := netip.MustParseAddr(k.src), netip.MustParseAddr(k.dst)
	protocol := byte(unix.IPPROTO_UDP)
	l4 := []byte{0x13, 0x88, 0x13, 0x89} // ports
	at := 6
	if k.tcp {
		protocol, at = unix.IPPROTO_TCP, 16
		l4 = binary.BigEndian.AppendUint32(l4, k.sequence)
		l4 = binary.BigEndian.AppendUint32(l4, 77)
		flags := k.flags
		if flags == 0 {
			flags = tcpACK
		}
		l4 = append(l4, 8<<4, flags)
		l4 = append(l4, be16(500+int(k.window))...)
		l4 = append(l4, 0, 0, 0, 0)
		l4 = append(l4, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2) // timestamps
	} else {
		l4 = append(l4, be16(8+len(k.payload))...)
		l4 = append(l4, 0, 0)
	}
	l4 = append(l4, k.payload...)
	sum := rfc1071(src.AsSlice(), dst.AsSlice(), be16(int(protocol)), be16(len(l4)), l4)
	if sum == 0 && !k.tcp {
		sum = 0xffff
	}
	copy(l4[at:], be16(int(sum)))
	hops := k.hops
	if hops == 0 {
		hops = 64
	}
	if src.Is6() {
		ip := []byte{0x60 | k.tos>>4, k.tos << 4, 0, 0}
		ip = append(ip, be16(len(l4))...)
		ip = append(ip, protocol, hops)
		return append(append(append(ip, src.AsSlice()...), dst.AsSlice()...), l4...)
	}
	ip := []byte{0x45, k.tos}
	ip = append(ip, be16(20+len(l4))...)
	ip = append(ip, be16(int(k.id))...)
	fragment := 0x4000
	if k.noDF {
		fragment = 0
	}
	ip = append(ip, be16(fragment)...)
	ip = append(ip, hops, protocol, 0, 0)
	ip = append(append(ip, src.AsSlice()...), dst.AsSlice()...)
	copy(ip[10:], be16(int(rfc1071(ip))))
	return append(ip, l4...)
}

// plain is a packet as a TUN hands it out.
func plain(p []byte) []byte { return append(make([]byte, virtioLen), p...) }

// super is a super-packet as a TUN hands it out: the checksum is the pseudo-header's sum.
func (k pkt) super(size int) []byte {
	p := k.build()
	in, _ := parse(p)
	h := virtioHeader{
		needsChecksum: true, gsoType: gsoUDP, headLen: 1, gsoSize: uint16(size), // headLen is not to be trusted
		checksumStart: uint16(in.ipLen), checksumOffset: uint16(in.checksumAt() - in.ipLen),
	}
	switch {
	case k.tcp && in.v6:
		h.gsoType = gsoTCPv6
	case k.tcp:
		h.gsoType = gsoTCPv4
	}
	copy(p[in.checksumAt():], []byte{0x12, 0x34}) // whatever it is
	b := make([]byte, virtioLen)
	h.put(b)
	return append(b, p...)
}

// good reports whether p is a whole packet with good checksums.
func good(p []byte) bool {
	in, ok := parse(p)
	if !ok || in.length != len(p) || in.transport == 0 || !in.v6 && rfc1071(p[:in.ipLen]) != 0 {
		return false
	}
	l4 := p[in.ipLen:]
	return rfc1071(in.source(p), in.destination(p), be16(int(in.transport)), be16(len(l4)), l4) == 0
}

func filled(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}
