package nl

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// Sizes of the fixed headers, linux/netlink.h, rtnetlink.h, neighbour.h, nexthop.h and if_link.h.
const (
	sizeofNexthopMsg = 8
	attrAlign        = unix.NLA_ALIGNTO
	nested           = unix.NLA_F_NESTED
)

var native = binary.NativeEndian

// message appends netlink messages to a buffer. Attributes are padded to four bytes (NLA_ALIGN) as they are written, so
// a message's length is always a multiple of four.
type message struct {
	buf   []byte
	start int // of the message being written
}

// begin starts a message with its header, leaving length, sequence and port to finish and to the sender.
func (m *message) begin(kind, flags uint16) {
	m.start = len(m.buf)
	m.buf = append(m.buf, make([]byte, unix.NLMSG_HDRLEN)...)
	native.PutUint16(m.buf[m.start+4:], kind)
	native.PutUint16(m.buf[m.start+6:], flags|unix.NLM_F_REQUEST)
}

func (m *message) finish() {
	native.PutUint32(m.buf[m.start:], uint32(len(m.buf)-m.start))
}

// fixed appends the family's fixed header, whose length is a multiple of four.
func (m *message) fixed(b ...byte) { m.buf = append(m.buf, b...) }

func (m *message) bytes(kind uint16, v []byte) {
	m.buf = native.AppendUint16(m.buf, uint16(unix.NLA_HDRLEN+len(v)))
	m.buf = native.AppendUint16(m.buf, kind)
	m.buf = append(m.buf, v...)
	for len(m.buf)%attrAlign != 0 {
		m.buf = append(m.buf, 0)
	}
}

func (m *message) u8(kind uint16, v uint8) { m.bytes(kind, []byte{v}) }

func (m *message) u16(kind uint16, v uint16) { m.bytes(kind, native.AppendUint16(nil, v)) }

func (m *message) u32(kind uint16, v uint32) {
	m.buf = native.AppendUint16(m.buf, unix.NLA_HDRLEN+4)
	m.buf = native.AppendUint16(m.buf, kind)
	m.buf = native.AppendUint32(m.buf, v)
}

func (m *message) flag(kind uint16) { m.bytes(kind, nil) }

func (m *message) str(kind uint16, v string) { m.bytes(kind, append([]byte(v), 0)) }

func (m *message) addr(kind uint16, a netip.Addr) {
	if a.Is4() {
		b := a.As4()
		m.bytes(kind, b[:])
		return
	}
	b := a.As16()
	m.bytes(kind, b[:])
}

// hardware writes a neighbour's NDA_LLADDR.
func (m *message) hardware(a podweft.MAC) { m.bytes(unix.NDA_LLADDR, a[:]) }

// nest writes an attribute made of attributes.
func (m *message) nest(kind uint16, inner func()) {
	at := len(m.buf)
	m.buf = append(m.buf, 0, 0, 0, 0)
	inner()
	native.PutUint16(m.buf[at:], uint16(len(m.buf)-at))
	native.PutUint16(m.buf[at+2:], kind|nested)
}

// family is the address family of a, as rtnetlink headers name it.
func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// attrs calls yield for each attribute of b and stops at the first that does not fit: the kernel never sends such, and
// a truncated one must not be read beyond its end. The nested and byte order flags are cut off the kind.
func attrs(b []byte, yield func(kind uint16, v []byte)) {
	for len(b) >= unix.NLA_HDRLEN {
		size := int(native.Uint16(b))
		if size < unix.NLA_HDRLEN || size > len(b) {
			return
		}
		yield(native.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.NLA_HDRLEN:size])
		b = b[min((size+attrAlign-1)&^(attrAlign-1), len(b)):]
	}
}

func asU32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return native.Uint32(v)
}

// asAddr returns the zero Addr for anything that is not 4 or 16 bytes long.
func asAddr(v []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(v)
	return a
}
