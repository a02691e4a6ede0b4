package udp

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tunPort is one queue of a TUN link: packets with a virtio header in front, one for each call. What is read and written may be a
// super-packet (see virtioHeader).
type tunPort interface {
	// read returns errAgain when there is no packet.
	read(b []byte) (int, error)
	// write writes one packet, made of parts. The first is the virtio header.
	write(parts []unix.Iovec) error
}

// virtioHeader is struct virtio_net_hdr of linux/virtio_net.h, in this machine's byte order: what the kernel says of a packet, and
// we to the kernel. A packet with a gsoType is a super-packet: many packets of one flow with one header, which says what is common
// to all, and gsoSize bytes of payload in each but the last.
type virtioHeader struct {
	needsChecksum                 bool // from checksumStart on; at checksumOffset from there stands the sum of the pseudo-header
	gsoType                       byte
	headLen                       uint16 // not to be trusted when read
	gsoSize                       uint16
	checksumStart, checksumOffset uint16
}

const (
	virtioLen = 10

	virtioNeedsChecksum = 1 // flag

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoTCPv6 = 4
	gsoUDP   = 5    // VIRTIO_NET_HDR_GSO_UDP_L4
	gsoECN   = 0x80 // with TCP: the first packet has CWR set, and only that
)

func parseVirtio(b []byte) virtioHeader {
	return virtioHeader{
		needsChecksum: b[0]&virtioNeedsChecksum != 0, gsoType: b[1] &^ gsoECN, headLen: native.Uint16(b[2:]),
		gsoSize: native.Uint16(b[4:]), checksumStart: native.Uint16(b[6:]), checksumOffset: native.Uint16(b[8:]),
	}
}

func (h virtioHeader) put(b []byte) {
	b[0], b[1] = 0, h.gsoType
	if h.needsChecksum {
		b[0] = virtioNeedsChecksum
	}
	native.PutUint16(b[2:], h.headLen)
	native.PutUint16(b[4:], h.gsoSize)
	native.PutUint16(b[6:], h.checksumStart)
	native.PutUint16(b[8:], h.checksumOffset)
}

// tunQueue is the kernel's tunPort.
type tunQueue struct {
	fd   uintptr
	bare bool // there are no virtio headers
}

// Requests and flags of linux/if_tun.h that x/sys/unix lacks.
const (
	tunOffloadChecksum = 0x01
	tunOffloadTSO4     = 0x02
	tunOffloadTSO6     = 0x04
	tunOffloadUSO4     = 0x20
	tunOffloadUSO6     = 0x40
)

func (q *tunQueue) read(b []byte) (n int, err error) {
	if q.bare {
		clear(b[:virtioLen])
		n, b = virtioLen, b[virtioLen:]
	}
	got, err := direct(unix.SYS_READ, q.fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return n + got, err
}

func (q *tunQueue) write(parts []unix.Iovec) error {
	if q.bare {
		parts = parts[1:]
	}
	_, err := direct(unix.SYS_WRITEV, q.fd, uintptr(unsafe.Pointer(&parts[0])), uintptr(len(parts)))
	return err
}

func (q *tunQueue) close() error { return unix.Close(int(q.fd)) }

// part is b as one part of a packet.
func part(b []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return v
}

// complete computes the checksum that the kernel has left to us. It reports false where the header points outside.
func (h virtioHeader) complete(p []byte) bool {
	if !h.needsChecksum {
		return true
	}
	start, at := int(h.checksumStart), int(h.checksumStart)+int(h.checksumOffset)
	if at+2 > len(p) {
		return false
	}
	putChecksum(p[at:], sum(p[start:], 0))
	if binary.BigEndian.Uint16(p[at:]) == 0 && h.checksumOffset == udpChecksum {
		p[at], p[at+1] = 0xff, 0xff // 0 means that there is none; no other protocol has its checksum there
	}
	return true
}
