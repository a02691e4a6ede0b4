package nl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nlsock"
)

const (
	readSize     = 64 << 10 // the kernel fills at most 32 KiB of a dump per read
	forcedBuffer = 4 << 20  // what we ask for; a user namespace grants about 208 KiB instead
	dumpTries    = 6
	usualSize    = 64 // of a request for a table entry over IPv4, in bytes
)

// ErrInterrupted: the kernel's table changed while it was listed, again and again (NLM_F_DUMP_INTR).
var ErrInterrupted = errors.New("list kept changing while it was read")

// errLost: the kernel's answers did not fit in the socket's buffer, so it is unknown which requests failed.
var errLost = errors.New("answers lost: receive buffer full")

// Conn is an rtnetlink socket in one network namespace. It is safe for concurrent use; requests are sent one batch
// at a time.
type Conn struct {
	sock *nlsock.Socket
	raw  syscall.RawConn // sock

	mu    sync.Mutex
	seq   uint32
	read  []byte
	ahead []byte // beside read, while a listing is long; nil before the first
	chunk int    // messages per send
}

// Dial opens the socket in the namespace at netnsPath; empty is the caller's. Close frees it.
func Dial(netnsPath string) (*Conn, error) {
	sock, err := nlsock.Dial(netnsPath, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, &podweft.OpError{Op: "open", Object: podweft.Named("netlink socket"), Err: err}
	}
	// Acknowledge with the header alone, not the whole request: four times as many fit in the buffer. Listings are of what
	// was asked for, where the kernel can.
	sock.Set(unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK, unix.NETLINK_GET_STRICT_CHK)
	return &Conn{sock: sock, raw: sock, seq: 1, read: make([]byte, readSize), chunk: chunkFor(sock)}, nil
}

// Close frees the socket and changes nothing in the kernel.
func (c *Conn) Close() error { return c.sock.Close() }

// chunkFor enlarges the buffers as far as permitted and returns how many requests may be sent at once so that their
// answers fit even if every one fails: an answer occupies below 1 KiB of the buffer, bookkeeping included.
func chunkFor(raw syscall.RawConn) int {
	granted := 0
	_ = raw.Control(func(fd uintptr) {
		for _, opt := range []int{unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, opt, forcedBuffer) == nil {
				continue
			}
			plain := map[int]int{unix.SO_RCVBUFFORCE: unix.SO_RCVBUF, unix.SO_SNDBUFFORCE: unix.SO_SNDBUF}[opt]
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, plain, forcedBuffer)
		}
		granted, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
	})
	return max(16, min(512, granted/1024))
}

// Batch is a list of requests that are sent together. Its zero value is empty. Requests are carried out in the order in
// which they were put in; one that fails does not stop the others.
type Batch struct {
	msg    message
	starts []int
	fine   map[int]error // by request: the error that is as good as none
}

// Len is the number of requests.
func (b *Batch) Len() int { return len(b.starts) }

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	b.msg.buf = b.msg.buf[:0]
	b.starts = b.starts[:0]
	clear(b.fine)
}

// tolerate makes err as good as success for the request that was added last.
func (b *Batch) tolerate(err error) {
	if b.fine == nil {
		b.fine = map[int]error{}
	}
	b.fine[b.Len()-1] = err
}

func (b *Batch) tolerates(i int, err error) bool {
	fine, ok := b.fine[i]
	return ok && errors.Is(err, fine)
}

// Grow makes room for n more requests of the usual size.
func (b *Batch) Grow(n int) {
	b.starts = slices.Grow(b.starts, n)
	b.msg.buf = slices.Grow(b.msg.buf, n*usualSize)
}

// begin starts a request; the caller writes its body to the message returned and calls finish on it.
func (b *Batch) begin(kind, flags uint16) *message {
	b.starts = append(b.starts, len(b.msg.buf))
	b.msg.begin(kind, flags)
	return &b.msg
}

func (b *Batch) add(kind, flags uint16, body func(m *message)) {
	m := b.begin(kind, flags)
	body(m)
	m.finish()
}

// Do sends the batch and returns nil when every request succeeded, else one error (or nil) for each request, in order.
// An error is the kernel's errno, with its explanation where it gave one. When ctx ends, the rest is not sent and has
// ctx's error.
func (c *Conn) Do(ctx context.Context, b *Batch) []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := results{n: b.Len()}
	for from := 0; from < b.Len(); from += c.chunk {
		to := min(from+c.chunk, b.Len())
		err := ctx.Err()
		if err == nil {
			err = c.doChunk(b, from, to, &r)
		}
		if err != nil {
			r.fill(from, to, err)
		}
	}
	return r.errs
}

// results collects errors by request; there are none while all goes well.
type results struct {
	n    int
	errs []error
}

func (r *results) set(i int, err error) {
	if r.errs == nil {
		r.errs = make([]error, r.n)
	}
	r.errs[i] = err
}

// fill gives err to all requests in [from, to) that have none yet.
func (r *results) fill(from, to int, err error) {
	for i := from; i < to; i++ {
		if r.errs == nil || r.errs[i] == nil {
			r.set(i, err)
		}
	}
}

// doChunk sends requests [from, to) in one system call with an acknowledgement asked for the last alone: a request that
// fails is answered anyway, so whatever was not answered when the last acknowledgement arrives has succeeded.
func (c *Conn) doChunk(b *Batch, from, to int, r *results) error {
	end := len(b.msg.buf)
	if to < b.Len() {
		end = b.starts[to]
	}
	first := c.seq
	for i := from; i < to; i++ {
		at := b.starts[i]
		native.PutUint32(b.msg.buf[at+8:], first+uint32(i-from))
	}
	c.seq += uint32(to - from)
	last := b.starts[to-1]
	native.PutUint16(b.msg.buf[last+6:], native.Uint16(b.msg.buf[last+6:])|unix.NLM_F_ACK)
	if err := c.send(b.msg.buf[b.starts[from]:end]); err != nil {
		return err
	}
	for {
		done := false
		err := c.receive(func(h header, body []byte) {
			i := int(int32(h.seq - first))
			if h.kind != unix.NLMSG_ERROR || i < 0 || i >= to-from {
				return // an answer to an earlier, abandoned request
			}
			if err := answer(h, body); err != nil && !b.tolerates(from+i, err) {
				r.set(from+i, err)
			}
			done = done || i == to-from-1
		})
		if err != nil {
			return err
		}
		if done {
			return nil
		}
	}
}

// dump sends one listing request and calls each for every entry's body (the fixed header and the attributes); the body is
// only valid during the call. Before a new try of an interrupted listing it calls restart: forget what was listed so far.
//
// The kernel owns up to an interruption for links, addresses and nexthops, and IPv4 routes suffer none: it goes on behind the
// last key. Of IPv6 routes, neighbours and forwarding entries it skips as many as it has listed (fib6_dump_table,
// neigh_dump_table, vxlan_fdb_dump), and one too many for each that was deleted meanwhile, without a word.
func (c *Conn) dump(ctx context.Context, kind uint16, body func(m *message), restart func(), each func(body []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range dumpTries {
		if err := ctx.Err(); err != nil {
			return err
		}
		restart()
		interrupted, err := c.ask(kind, unix.NLM_F_DUMP, body, each)
		if err != nil || !interrupted {
			return err
		}
	}
	return ErrInterrupted
}

// get asks for one thing and calls each for its body, which is only valid during the call.
func (c *Conn) get(ctx context.Context, kind uint16, body func(m *message), each func(body []byte)) error {
	return c.getFlagged(ctx, kind, 0, body, each)
}

func (c *Conn) getFlagged(ctx context.Context, kind, flags uint16, body func(m *message), each func(body []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := c.ask(kind, flags|unix.NLM_F_ACK, body, each) // the acknowledgement ends the answer, as DONE ends a listing
	return err
}

func (c *Conn) ask(kind, flags uint16, body func(m *message), each func(body []byte)) (interrupted bool, err error) {
	var m message
	m.begin(kind, flags)
	body(&m)
	m.finish()
	seq := c.seq
	c.seq++
	native.PutUint32(m.buf[8:], seq)
	if err := c.send(m.buf); err != nil {
		return false, err
	}
	a := reply{seq: seq}
	err = c.receiveAll(a.ends, func(b []byte) error { return a.decode(b, each) })
	if err != nil {
		return false, err
	}
	return a.interrupted, a.failure
}

// reply is the answer to one request, of which there may be many messages.
type reply struct {
	seq         uint32
	interrupted bool
	failure     error
}

// ends reports whether the answer's last message is in b. It looks at headers alone.
func (a *reply) ends(b []byte) (done bool, err error) {
	err = messages(b, func(h header, _ []byte) {
		done = done || h.seq == a.seq && (h.kind == unix.NLMSG_DONE || h.kind == unix.NLMSG_ERROR)
	})
	return done, err
}

func (a *reply) decode(b []byte, each func(body []byte)) error {
	return messages(b, func(h header, body []byte) {
		if h.seq != a.seq {
			return
		}
		a.interrupted = a.interrupted || h.flags&unix.NLM_F_DUMP_INTR != 0
		switch h.kind {
		case unix.NLMSG_DONE:
			if len(body) >= 4 {
				a.failure = errnoOf(int32(native.Uint32(body)))
			}
		case unix.NLMSG_ERROR:
			a.failure = answer(h, body)
		default:
			each(body)
		}
	})
}

// shortPiece is the size below which a piece of an answer is decoded before the next is read. What the kernel says about one thing is
// below it, and so is a short listing's only piece: all that follows is the acknowledgement, or DONE. The first piece of a long listing
// nearly fills a page (netlink_dump in net/netlink/af_netlink.c).
const shortPiece = 3 << 10

// receiveAll reads until last says that there is no more, and has each piece decoded while the kernel fills the next: for a
// long listing either takes about as long as the other. When it returns, nothing is being decoded any more.
//
// Short pieces it decodes itself. To wake another thread for one takes longer, some 20 us where the other processor sleeps.
func (c *Conn) receiveAll(last func([]byte) (bool, error), decode func([]byte) error) error {
	for {
		n, err := c.receiveInto(c.read)
		if err != nil {
			return err
		}
		done, err := last(c.read[:n])
		if !done && err == nil && n >= shortPiece {
			return c.receiveLong(n, last, decode)
		}
		if err = errors.Join(err, decode(c.read[:n])); done || err != nil {
			return err
		}
	}
}

// receiveLong is receiveAll when n bytes have been read.
func (c *Conn) receiveLong(n int, last func([]byte) (bool, error), decode func([]byte) error) (err error) {
	if c.ahead == nil {
		c.ahead = make([]byte, readSize)
	}
	pieces, decoded := make(chan []byte), make(chan error)
	go func() {
		var err error
		for b := range pieces {
			err = cmp.Or(err, decode(b))
		}
		decoded <- err
	}()
	filling, full := c.ahead, c.read
	for done := false; !done && err == nil; {
		pieces <- full[:n] // taken when the one before has been decoded, so that its memory is free
		if n, err = c.receiveInto(filling); err == nil {
			done, err = last(filling[:n])
		}
		filling, full = full, filling
	}
	if err == nil {
		pieces <- full[:n]
	}
	close(pieces)
	return errors.Join(err, <-decoded)
}

// header is what we use of a netlink message's header.
type header struct {
	kind, flags uint16
	seq         uint32
}

func (c *Conn) send(b []byte) error {
	var err error
	werr := c.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return err != unix.EAGAIN
	})
	return errors.Join(werr, err)
}

// receive reads once and yields each message. rtnetlink answers within the send, so there is always something to read.
func (c *Conn) receive(yield func(h header, body []byte)) error {
	n, err := c.receiveInto(c.read)
	if err != nil {
		return err
	}
	return messages(c.read[:n], yield)
}

func (c *Conn) receiveInto(buf []byte) (int, error) {
	n, err := readFrom(c.raw, buf)
	if err == unix.ENOBUFS {
		return 0, errors.Join(errLost, drain(c.raw))
	}
	return n, err
}

func readFrom(raw syscall.RawConn, buf []byte) (n int, err error) {
	rerr := raw.Read(func(fd uintptr) bool {
		for {
			n, _, err = unix.Recvfrom(int(fd), buf, unix.MSG_TRUNC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if rerr != nil {
		return 0, rerr
	}
	if err == nil && n > len(buf) {
		err = fmt.Errorf("netlink message of %d bytes does not fit in %d", n, len(buf))
	}
	return n, err
}

// drain discards what is queued. Once the queue was full the kernel drops whatever follows until it is empty, and says ENOBUFS
// the first time only (netlink_overrun and netlink_rcv_wake in net/netlink/af_netlink.c). So until it has been emptied, a
// request would wait for ever for its answer, and a listener would not be told of what it missed.
func drain(raw syscall.RawConn) error {
	var err error
	rerr := raw.Read(func(fd uintptr) bool {
		var rest [1]byte
		for err == nil || err == unix.EINTR || err == unix.ENOBUFS {
			_, _, err = unix.Recvfrom(int(fd), rest[:], 0)
		}
		return true
	})
	if err == unix.EAGAIN {
		err = nil
	}
	return errors.Join(rerr, err)
}

func messages(b []byte, yield func(h header, body []byte)) error {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(native.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return fmt.Errorf("netlink message of %d bytes in a buffer of %d", size, len(b))
		}
		yield(header{kind: native.Uint16(b[4:]), flags: native.Uint16(b[6:]), seq: native.Uint32(b[8:])},
			b[unix.NLMSG_HDRLEN:size])
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// Extended acknowledgement attributes, linux/netlink.h enum nlmsgerr_attrs.
const nlmsgerrMsg = 1

// answer decodes an NLMSG_ERROR: nil for an acknowledgement, else the errno with the kernel's explanation.
func answer(h header, body []byte) error {
	if len(body) < 4 {
		return fmt.Errorf("netlink acknowledgement of %d bytes", len(body))
	}
	err := errnoOf(int32(native.Uint32(body)))
	if err == nil || h.flags&unix.NLM_F_ACK_TLVS == 0 {
		return err
	}
	skip := 4 + unix.NLMSG_HDRLEN // errno and the request's header, and without NLM_F_CAPPED also its body
	if h.flags&unix.NLM_F_CAPPED == 0 && len(body) >= 8 {
		skip = 4 + int(native.Uint32(body[4:]))
	}
	if skip > len(body) {
		return err
	}
	explained := err
	attrs(body[skip:], func(kind uint16, v []byte) {
		if kind == nlmsgerrMsg {
			explained = fmt.Errorf("%w (%s)", err, unix.ByteSliceToString(v))
		}
	})
	return explained
}

func errnoOf(code int32) error {
	if code == 0 {
		return nil
	}
	return unix.Errno(-code)
}
