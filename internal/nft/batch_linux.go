package nft

import (
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// Batch lists requests in the order in which the kernel is to carry them out. Its zero value is empty. One batch may be
// sent again and again, but not be added to meanwhile. It is put into messages when it is sent: what it was given must stay as it is.
type Batch struct {
	requests []request
	sets     uint32  // made so far; numbers them
	scratch  message // where elements are measured
}

// request is one message of a batch and what an error about it is to name.
type request struct {
	kind, flags uint16
	family      Family
	op          string
	object      podweft.Object
	elements    []Element // object is then their Set
	body        func(m *message)
}

// Len is the number of messages. Elements of one set share them.
func (b *Batch) Len() int { return len(b.requests) }

func (b *Batch) request(kind, flags uint16, family Family, op string, object podweft.Object, body func(m *message)) {
	b.requests = append(b.requests, request{kind: kind, flags: flags, family: family, op: op, object: object, body: body})
}

// write appends the request to m.
func (r *request) write(m *message) error {
	m.begin(r.kind, r.family, r.flags)
	r.body(m)
	m.finish()
	if m.err != nil {
		return opError(r.op, r.object, m.err)
	}
	return nil
}

// parcel is the messages of one transaction: requests [from, to) in their envelope.
type parcel struct {
	buf      []byte
	from, to int
}

// envelope is the size of the message that begins a transaction, and of the one that ends it.
const envelope = headerLen

// pack puts requests into messages, from from on as many as one transaction of limit bytes holds, at least one if there is any. Only
// the last asks for an acknowledgement: those that fail are answered anyway (net/netfilter/nfnetlink.c, nfnetlink_rcv_batch), and the
// fewer answers, the fewer can be lost.
func (b *Batch) pack(buf []byte, from, limit int) (parcel, error) {
	m := message{buf: buf[:0]}
	m.header(unix.NFNL_MSG_BATCH_BEGIN, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0)
	m.finish()
	to, last := from, 0
	for ; to < len(b.requests); to++ {
		at := len(m.buf)
		if err := b.requests[to].write(&m); err != nil {
			return parcel{}, err
		}
		if to > from && len(m.buf)+envelope > limit {
			m.buf = m.buf[:at]
			break
		}
		last = at
	}
	native.PutUint16(m.buf[last+6:], native.Uint16(m.buf[last+6:])|unix.NLM_F_ACK)
	m.header(unix.NFNL_MSG_BATCH_END, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0)
	m.finish()
	return parcel{m.buf, from, to}, nil
}
