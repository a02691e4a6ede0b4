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
