package nft

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// loadChunk bounds one transaction of Load: the kernel holds the table's lock for as long as it works on one, and the next is put
// into messages meanwhile.
const loadChunk = 4 << 20

// Commit sends the batch as one transaction: all of it happens at once, or nothing. The error is a [*TransactionError]
// when the kernel refused it, [ErrTooLarge] when it is too long for this process, [podweft.ErrNotSupported] when the kernel
// has no nf_tables. ctx is looked at before sending only: the kernel answers at once.
func (c *Conn) Commit(ctx context.Context, b *Batch) error {
	if b.Len() == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := b.pack(c.out, 0, math.MaxInt)
	if err != nil {
		return err
	}
	c.out = p.buf
	return c.commit(ctx, b, p)
}

// Load sends the batch in as many transactions as its size makes necessary, most often one, in order; each happens at once or
// not at all. It stops at the first that fails. Order the batch so that every beginning of it is harmless. ctx is looked at before
// the first only.
func (c *Conn) Load(ctx context.Context, b *Batch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grow(loadChunk)
	limit := min(c.limit, loadChunk)
	p, err := b.pack(c.out, 0, limit)
	c.out = nil // is the parcel's; from now on the one that is free
	for err == nil && p.from < p.to {
		var next parcel
		var nextErr error
		packed := make(chan struct{})
		go func() {
			defer close(packed)
			next, nextErr = b.pack(c.out, p.to, limit)
		}()
		err = c.commit(ctx, b, p)
		<-packed
		c.out, ctx = p.buf, context.WithoutCancel(ctx)
		p, err = next, cmp.Or(err, nextErr)
	}
	return err
}

// commit sends the parcel as one transaction.
func (c *Conn) commit(ctx context.Context, b *Batch, p parcel) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	first := c.number(p.buf)
	c.grow(len(p.buf))
	err := c.send(p.buf)
	if errors.Is(err, unix.EMSGSIZE) {
		return opError("commit", transaction, fmt.Errorf("%w: %d bytes: %w", ErrTooLarge, len(p.buf), err))
	}
	if err != nil {
		return opError("commit", transaction, err)
	}
	return c.outcome(b, p.from, p.to, first)
}

// number gives sequence numbers to messages and returns that of the first.
func (c *Conn) number(messages []byte) (first uint32) {
	first = c.seq + 1
	for at := 0; at < len(messages); at += int(native.Uint32(messages[at:])) {
		c.seq++
		native.PutUint32(messages[at+8:], c.seq)
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
				request := &b.requests[from+i-1]
				failed = append(failed, opError(request.op, request.culprit(f), f.err()))
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
func (r *request) culprit(f failure) podweft.Object {
	if len(r.elements) == 0 {
		return r.object
	}
	set := r.object.(Set)
	var m message
	if r.write(&m) == nil {
		if i, ok := elementAt(m.buf, int(f.offset)); ok {
			return SetElement{set, r.elements[i]}
		}
	}
	if len(r.elements) == 1 {
		return SetElement{set, r.elements[0]}
	}
	return set
}

// elementAt finds the element whose attribute is at offset in the message. The end of a range belongs to the element
// before it.
func elementAt(msg []byte, offset int) (int, bool) {
	if len(msg) < headerLen {
		return 0, false
	}
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
