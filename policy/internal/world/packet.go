package world

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/policy"
)

// magic stands before the number of a packet, at its end.
const magic = 0x706f6477

// Datagram is the first packet of a connection, as the kernel's connection tracking wants it. Its source port and its last bytes
// tell it from all others.
func Datagram(p policy.Packet, id uint32) []byte {
	mark := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, magic), id)
	source := 1024 + uint16(id%60_000)
	var payload []byte
	checksumAt := -1
	switch p.Protocol {
	case policy.TCP: // SYN
		payload = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, source), p.Port)
		payload = append(payload, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, 2, 0xff, 0xff, 0, 0, 0, 0)
		payload, checksumAt = append(payload, mark...), 16
	case policy.UDP:
		payload = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, source), p.Port)
		payload = append(payload, 0, 16, 0, 0)
		payload, checksumAt = append(payload, mark...), 6
	case policy.SCTP: // INIT; the number of streams and the first TSN are the mark
		payload = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, source), p.Port)
		payload = append(payload, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20)
		payload = binary.BigEndian.AppendUint32(payload, id|1)
		payload = append(append(payload, 0, 1, 0, 0), mark...)
		sum := crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli))
		binary.LittleEndian.PutUint32(payload[8:], sum)
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6: // echo request
		payload = []byte{8, 0, 0, 0}
		if p.Protocol == unix.IPPROTO_ICMPV6 {
			payload[0] = 128
		}
		payload = binary.BigEndian.AppendUint16(payload, source)
		payload, checksumAt = append(append(payload, 0, 1), mark...), 2
	default: // the first four bytes are a GRE header
		payload = append([]byte{0, 0, 0x08, 0}, mark...)
	}
	if checksumAt >= 0 {
		sum := checksum(payload, pseudo(p, len(payload)))
		binary.BigEndian.PutUint16(payload[checksumAt:], sum)
	}
	return append(header(p, len(payload)), payload...)
}

func header(p policy.Packet, size int) []byte {
	if p.Src.Is4() {
		h := make([]byte, 20)
		h[0], h[8], h[9] = 0x45, 64, byte(p.Protocol)
		binary.BigEndian.PutUint16(h[2:], uint16(20+size)) // the kernel fills in the checksum
		copy(h[12:], p.Src.AsSlice())
		copy(h[16:], p.Dst.AsSlice())
		return h
	}
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, byte(p.Protocol), 64
	binary.BigEndian.PutUint16(h[4:], uint16(size))
	copy(h[8:], p.Src.AsSlice())
	copy(h[24:], p.Dst.AsSlice())
	return h
}

// pseudo is the sum of the pseudo-header, which ICMP alone has none of.
func pseudo(p policy.Packet, size int) uint32 {
	if p.Protocol == unix.IPPROTO_ICMP {
		return 0
	}
	return sum(append(p.Src.AsSlice(), p.Dst.AsSlice()...)) + uint32(p.Protocol) + uint32(size)
}

func sum(b []byte) (s uint32) {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return s
}

func checksum(b []byte, initial uint32) uint16 {
	s := initial + sum(b)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// SourcePort is where a TCP packet comes from.
func SourcePort(b []byte) uint16 { return binary.BigEndian.Uint16(b[transport(b):]) }

// Answer makes a TCP packet of ours the answer of a server on that port to what was its first packet.
func Answer(b []byte, port uint16) {
	tcp := b[transport(b):]
	binary.BigEndian.PutUint16(tcp, port)
	binary.BigEndian.PutUint32(tcp[8:], 2) // acknowledges the sequence number 1
	tcp[13] = 0x12                         // SYN, ACK
	seal(b, 16)
}

// Unreachable is the error about a packet of which the destination says that its host is unreachable.
func Unreachable(p policy.Packet, b []byte, id uint32) []byte {
	about := policy.Packet{Src: p.Dst, Dst: p.Src, Protocol: unix.IPPROTO_ICMP}
	payload := []byte{3, 1, 0, 0, 0, 0, 0, 0}
	if p.Src.Is6() {
		about.Protocol = unix.IPPROTO_ICMPV6
		payload[0], payload[1] = 1, 3
	}
	payload = append(payload, b[:len(b)-8]...) // as much as a router sends, less the mark
	payload = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(payload, magic), id)
	whole := append(header(about, len(payload)), payload...)
	seal(whole, 2)
	return whole
}

// seal writes the checksum of a packet that is at that place behind its IP header.
func seal(b []byte, at int) {
	payload := b[transport(b):]
	p := policy.Packet{Protocol: policy.Protocol(b[9])}
	from, size := 12, 4
	if b[0]>>4 == 6 {
		p.Protocol, from, size = policy.Protocol(b[6]), 8, 16
	}
	p.Src, _ = netip.AddrFromSlice(b[from : from+size])
	p.Dst, _ = netip.AddrFromSlice(b[from+size : from+2*size])
	binary.BigEndian.PutUint16(payload[at:], 0)
	binary.BigEndian.PutUint16(payload[at:], checksum(payload, pseudo(p, len(payload))))
}

// transport is where a packet's IP header ends.
func transport(b []byte) int {
	if b[0]>>4 == 6 {
		return 40
	}
	return 20
}

// Received reads the number of a packet and where it went; ok is false for packets that are not ours.
func Received(b []byte) (id uint32, dst netip.Addr, ok bool) {
	if len(b) < 28 || binary.BigEndian.Uint32(b[len(b)-8:]) != magic {
		return 0, dst, false
	}
	switch b[0] >> 4 {
	case 4:
		dst, ok = netip.AddrFromSlice(b[16:20])
	case 6:
		if len(b) >= 48 {
			dst, ok = netip.AddrFromSlice(b[24:40])
		}
	}
	return binary.BigEndian.Uint32(b[len(b)-4:]), dst, ok
}
