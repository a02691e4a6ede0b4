package nft

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// loadChunk bounds one transaction of Load: the kernel holds the table's lock for as long as it works on one.
const loadChunk = 4 << 20

// Commit sends the batch as one transaction: all of it happens at once, or nothing. The error is a [*TransactionError]
// when the kernel refused it, [ErrTooLarge] when it is too long for this process, [podweft.ErrNotSupported] when the kernel
// has no nf_tables. ctx is looked at before sending only: the kernel answers at once.
func (c *Conn) Commit(ctx context.Context, b *Batch) error {
	if b.err != nil || b.Len() == 0 {
		return b.err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commit(ctx, b, 0, b.Len())
}

// Load sends the batch in as many transactions as the send buffer makes necessary, most often one, in order; each happens
// at once or not at all. It stops at the first that fails. Order the batch so that every beginning of it is harmless.
func (c *Conn) Load(ctx context.Context, b *Batch) error {
	if b.err != nil {
		return b.err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grow(min(len(b.msg.buf)+2*envelope, loadChunk))
	for from := 0; from < b.Len(); {
		to := b.chunk(from, min(c.limit, loadChunk))
		if err := c.commit(ctx, b, from, to); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// envelope is the size of the message that begins a transaction, and of the one that ends it.
const envelope = headerLen

// chunk returns the end of the longest run of requests from from that one transaction of limit bytes holds, at least one.
func (b *Batch) chunk(from, limit int) int {
	to := from + 1
	for to < b.Len() && b.requests[to].end-b.requests[from].start+2*envelope <= limit {
		to++
	}
	return to
}

// commit sends requests [from, to) as one transaction.
func (c *Conn) commit(ctx context.Context, b *Batch, from, to int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	first := c.frame(b, from, to)
	c.grow(len(c.out))
	err := c.send(c.out)
	if errors.Is(err, unix.EMSGSIZE) {
		return opError("commit", transaction, fmt.Errorf("%w: %d bytes: %w", ErrTooLarge, len(c.out), err))
	}
	if err != nil {
		return opError("commit", transaction, err)
	}
	return c.outcome(b, from, to, first)
}

// frame fills c.out with the messages between their envelope and returns the sequence number of the first one in it. Only
// the last request asks for an acknowledgement: those that fail are answered anyway (net/netfilter/nfnetlink.c,
// nfnetlink_rcv_batch), and the fewer answers, the fewer can be lost.
func (c *Conn) frame(b *Batch, from, to int) (first uint32) {
	m := message{buf: slices.Grow(c.out[:0], b.requests[to-1].end-b.requests[from].start+2*envelope)}
	m.header(unix.NFNL_MSG_BATCH_BEGIN, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0)
	m.finish()
	last := 0
	for _, r := range b.requests[from:to] {
		last = len(m.buf)
		m.buf = append(m.buf, b.msg.buf[r.start:r.end]...)
	}
	native.PutUint16(m.buf[last+6:], native.Uint16(m.buf[last+6:])|unix.NLM_F_ACK)
	m.header(unix.NFNL_MSG_BATCH_END, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0)
	m.finish()
	c.out = m.buf

	first = c.seq + 1
	for at := 0; at < len(c.out); at += int(native.Uint32(c.out[at:])) {
		c.seq++
		native.PutUint32(c.out[at+8:], c.seq)
	}
	return first
}

// outcome reads the answers to the transaction whose first message, the envelope's, had sequence number first.
func (c *Conn) outcome(b *Batch, from, to int, first uint32) error {
	var failed []*podweft.OpError
	acknowledged := false
	var lost error
	for more := true; more; {
		var err error
		more, err = c.receive(func(r reply) {
			i := int(int32(r.seq - first))
			if r.kind != unix.NLMSG_ERROR || i < 0 || i > to-from {
				return // an answer to something older
			}
			f, refused := parseFailure(r)
			acknowledged = acknowledged || i == to-from
			switch {
			case refused && i == 0:
				failed = append(failed, opError("commit", transaction, transactionError(f)))
			case refused:
				request := b.requests[from+i-1]
				failed = append(failed, opError(request.op, request.culprit(b, f), f.err()))
			}
		})
		if err != nil {
			lost = err
		}
	}
	switch {
	case len(failed) > 0:
		return &TransactionError{Failed: failed}
	case lost != nil:
		return opError("commit", transaction, lost)
	case !acknowledged:
		return opError("commit", transaction, errors.New("the kernel did not answer"))
	}
	return nil
}

// transactionError explains a refusal of the envelope itself.
func transactionError(f failure) error {
	if f.errno == unix.EOPNOTSUPP {
		return fmt.Errorf("%w: the kernel has no nf_tables: %w", podweft.ErrNotSupported, f.err())
	}
	return f.err()
}

// culprit is the object that f is about: the very element where the kernel says so (since 5.18 or so), else the set.
func (r request) culprit(b *Batch, f failure) podweft.Object {
	if len(r.elements) == 0 {
		return r.object
	}
	set := r.object.(Set)
	if i, ok := r.elementAt(b.msg.buf[r.start:r.end], int(f.offset)); ok {
		return SetElement{set, r.elements[i]}
	}
	if len(r.elements) == 1 {
		return SetElement{set, r.elements[0]}
	}
	return set
}

// elementAt finds the element whose attribute is at offset in the message. The end of a range belongs to the element
// before it.
func (r request) elementAt(msg []byte, offset int) (int, bool) {
	at, i := 0, -1
	for a := range attrs(msg[headerLen:]) {
		if a.kind == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			at += headerLen + unix.NLA_HDRLEN
			for item := range attrs(a.value) {
				if !parseElement(item.value).closes {
					i++
				}
				size := align(unix.NLA_HDRLEN + len(item.value))
				if offset >= at && offset < at+size {
					return i, true
				}
				at += size
			}
			return 0, false
		}
		at += align(unix.NLA_HDRLEN + len(a.value))
	}
	return 0, false
}
