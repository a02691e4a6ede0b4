package nft

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// headerLen is the netlink header and the netfilter header behind it (linux/netfilter/nfnetlink.h struct nfgenmsg).
const headerLen = unix.NLMSG_HDRLEN + nfgenLen

const nfgenLen = 4

var (
	native  = binary.NativeEndian
	network = binary.BigEndian // of the numbers in nf_tables attributes
)

// message appends netlink messages to a buffer. Attributes are padded to four bytes as they are written, so every message
// begins aligned.
type message struct {
	buf   []byte
	start int   // of the message being written
	err   error // the first thing that could not be written
}

// begin starts a message of nf_tables; finish ends it. The sender fills in sequence number and port.
func (m *message) begin(kind uint16, family Family, flags uint16) {
	m.header(unix.NFNL_SUBSYS_NFTABLES<<8|kind, uint8(family), 0, flags)
}

func (m *message) header(kind uint16, family uint8, resource uint16, flags uint16) {
	m.start = len(m.buf)
	m.buf = append(m.buf, 0, 0, 0, 0)
	m.buf = native.AppendUint16(m.buf, kind)
	m.buf = native.AppendUint16(m.buf, flags|unix.NLM_F_REQUEST)
	m.buf = append(m.buf, 0, 0, 0, 0, 0, 0, 0, 0)
	m.buf = append(m.buf, family, unix.NFNETLINK_V0)
	m.buf = network.AppendUint16(m.buf, resource)
}

func (m *message) finish() { native.PutUint32(m.buf[m.start:], uint32(len(m.buf)-m.start)) }

func (m *message) attrHeader(kind uint16, size int) {
	m.buf = native.AppendUint16(m.buf, uint16(unix.NLA_HDRLEN+size))
	m.buf = native.AppendUint16(m.buf, kind)
}

func (m *message) pad() {
	for len(m.buf)%unix.NLA_ALIGNTO != 0 {
		m.buf = append(m.buf, 0)
	}
}

func (m *message) bytes(kind uint16, v []byte) {
	m.attrHeader(kind, len(v))
	m.buf = append(m.buf, v...)
	m.pad()
}

// key writes bytes that are kept in a string, since elements must be comparable.
func (m *message) key(kind uint16, v string) {
	m.attrHeader(kind, len(v))
	m.buf = append(m.buf, v...)
	m.pad()
}

// str writes a name, which nf_tables wants with a zero at its end.
func (m *message) str(kind uint16, v string) {
	m.attrHeader(kind, len(v)+1)
	m.buf = append(append(m.buf, v...), 0)
	m.pad()
}

func (m *message) u32(kind uint16, v uint32) {
	m.attrHeader(kind, 4)
	m.buf = network.AppendUint32(m.buf, v)
}

func (m *message) u64(kind uint16, v uint64) {
	m.attrHeader(kind, 8)
	m.buf = network.AppendUint64(m.buf, v)
}

// open starts an attribute made of attributes and returns what close needs.
func (m *message) open(kind uint16) (at int) {
	at = len(m.buf)
	m.attrHeader(kind|unix.NLA_F_NESTED, 0)
	return at
}

func (m *message) close(at int) { native.PutUint16(m.buf[at:], uint16(len(m.buf)-at)) }

const attrFlags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER

// attr is one attribute as it came.
type attr struct {
	kind   uint16 // without its flags
	nested bool   // said to be made of attributes; the kernel often does not say so
	value  []byte
}

// attrs yields the attributes of b and stops at the first that does not fit.
func attrs(b []byte) iter.Seq[attr] {
	return func(yield func(attr) bool) {
		for len(b) >= unix.NLA_HDRLEN {
			size := int(native.Uint16(b))
			if size < unix.NLA_HDRLEN || size > len(b) {
				return
			}
			kind := native.Uint16(b[2:])
			a := attr{kind &^ attrFlags, kind&unix.NLA_F_NESTED != 0, b[unix.NLA_HDRLEN:size]}
			if !yield(a) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

func align(n int) int { return (n + 3) &^ 3 }

// find returns the value of the first attribute of the given kind, nil if there is none.
func find(b []byte, kind uint16) []byte {
	for a := range attrs(b) {
		if a.kind == kind {
			return a.value
		}
	}
	return nil
}

// u32, u64 and str decode a value; one that is too short is zero, as if it were missing.
func u32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return network.Uint32(v)
}

func u64(v []byte) uint64 {
	if len(v) < 8 {
		return 0
	}
	return network.Uint64(v)
}

func str(v []byte) string { return unix.ByteSliceToString(v) }

// reply is one message from the kernel.
type reply struct {
	kind, flags uint16
	seq, port   uint32
	body        []byte
}

// is reports whether the reply is a message of nf_tables of the given kind, and has its header.
func (r reply) is(kind uint16) bool {
	return r.kind == unix.NFNL_SUBSYS_NFTABLES<<8|kind && len(r.body) >= nfgenLen
}

func (r reply) family() Family { return Family(r.body[0]) }
func (r reply) attrs() []byte  { return r.body[nfgenLen:] }

// replies yields the messages of one read and stops at the first that does not fit.
func replies(b []byte) iter.Seq[reply] {
	return func(yield func(reply) bool) {
		for len(b) >= unix.NLMSG_HDRLEN {
			size := int(native.Uint32(b))
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return
			}
			r := reply{
				kind: native.Uint16(b[4:]), flags: native.Uint16(b[6:]), seq: native.Uint32(b[8:]), port: native.Uint32(b[12:]),
				body: b[unix.NLMSG_HDRLEN:size],
			}
			if !yield(r) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}
