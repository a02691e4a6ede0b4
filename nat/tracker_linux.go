package nat

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nlsock"
)

// tracker asks the kernel about the connections that it tracks. It reads a list piece by piece, for a node may track a million, while
// mdlayher/netlink gathers it whole first.
type tracker struct {
	sock *nlsock.Socket
	seq  uint32
	buf  []byte // of answers
}

func dialTracker(netns string) (*tracker, error) {
	sock, err := nlsock.Dial(netns, unix.NETLINK_NETFILTER)
	return &tracker{sock: sock, buf: make([]byte, 1<<16)}, err
}

// headerLen is the length of struct nlmsghdr and struct nfgenmsg.
const headerLen = unix.SizeofNlMsghdr + 4

// count is how many connections the namespace has.
func (c *tracker) count() (count int, err error) {
	err = c.ask(ctGetStats, unix.NLM_F_ACK, unix.AF_UNSPEC, nil, func(_ byte, attrs []byte) {
		if v := find(attrs, ctStatsEntries); len(v) == 4 {
			count = int(binary.BigEndian.Uint32(v))
		}
	})
	return count, err
}

// drop removes those of all that the filter lists.
func (c *tracker) drop(f filter, all forgotten) error {
	type found struct {
		family byte
		key    []byte
	}
	var doomed []found
	err := c.ask(ctGet, unix.NLM_F_DUMP, f.family, f.attributes(), func(family byte, attrs []byte) {
		if all.include(attrs) {
			doomed = append(doomed, found{family, keyOf(attrs)})
		}
	})
	for _, d := range doomed {
		if err := c.ask(ctDelete, unix.NLM_F_ACK, d.family, d.key, nil); err != nil && !errors.Is(err, unix.ENOENT) {
			return err // but for what is gone already
		}
	}
	return err
}

// keyOf are the attributes, of those that the kernel lists, by which it finds a connection again, and no other.
func keyOf(attrs []byte) (key []byte) {
	for _, kind := range []uint16{ctTupleOrig, ctID, ctZone} {
		value := find(attrs, kind)
		if value == nil {
			continue
		}
		typed := kind
		if kind == ctTupleOrig {
			typed |= unix.NLA_F_NESTED
		}
		key = binary.NativeEndian.AppendUint16(key, uint16(unix.NLA_HDRLEN+len(value)))
		key = binary.NativeEndian.AppendUint16(key, typed)
		key = append(key, value...)
		key = append(key, make([]byte, -len(value)&3)...)
	}
	return key
}

// ask sends a request and reads the answer to its end. What each gets is valid during the call only.
func (c *tracker) ask(kind, flags uint16, family byte, attrs []byte, each func(family byte, attrs []byte)) error {
	c.seq++
	m := binary.NativeEndian.AppendUint32(nil, uint32(headerLen+len(attrs)))
	m = binary.NativeEndian.AppendUint16(m, unix.NFNL_SUBSYS_CTNETLINK<<8|kind)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|flags)
	m = binary.NativeEndian.AppendUint32(m, c.seq)
	m = append(m, 0, 0, 0, 0, family, unix.NFNETLINK_V0, 0, 0)
	if err := c.send(append(m, attrs...)); err != nil {
		return err
	}
	for {
		answers, err := c.receive()
		if err != nil {
			return err
		}
		for len(answers) >= unix.SizeofNlMsghdr {
			size := int(binary.NativeEndian.Uint32(answers))
			if size < unix.SizeofNlMsghdr || size > len(answers) {
				return unix.EBADMSG
			}
			m := answers[:size]
			answers = answers[min((size+3)&^3, len(answers)):]
			if binary.NativeEndian.Uint32(m[8:]) != c.seq {
				continue // an answer to something older
			}
			switch kind := binary.NativeEndian.Uint16(m[4:]); {
			case kind == unix.NLMSG_ERROR || kind == unix.NLMSG_DONE:
				return failure(m[unix.SizeofNlMsghdr:])
			case size >= headerLen && each != nil:
				each(m[unix.SizeofNlMsghdr], m[headerLen:])
			}
		}
	}
}

// failure is the error in what ends an answer; nil is none.
func failure(body []byte) error {
	if len(body) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(body)); code < 0 {
		return unix.Errno(-code)
	}
	return nil
}

func (c *tracker) send(m []byte) (err error) {
	closed := c.sock.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	return errors.Join(closed, err)
}

func (c *tracker) receive() (answers []byte, err error) {
	n := 0
	closed := c.sock.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), c.buf, 0)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if err := errors.Join(closed, err); err != nil {
		return nil, err
	}
	return c.buf[:n], nil
}
