package nft

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/netns"
	"github.com/podweft/podweft/internal/nlsock"
)

const (
	readSize      = 64 << 10 // the kernel puts at most 32 KiB in one read
	receiveBuffer = 4 << 20  // what we ask for; a user namespace grants about 416 KiB instead
	maxSend       = 64 << 20 // a million elements; more is a mistake, or a case for Load
)

// Conn is a lasting nf_tables socket in one network namespace. It is safe for concurrent use: transactions and lists go one
// at a time.
type Conn struct {
	path string // of the namespace, where Watch opens its sockets
	sock *nlsock.Socket
	port uint32 // that the kernel knows the socket by

	mu    sync.Mutex
	seq   uint32
	out   []byte
	in    []byte
	limit int // bytes that one transaction may have now
	most  int // and that we would make it

	watch    sync.Mutex
	watchers map[*netlink.Conn]struct{} // nil once closed
}

// Open opens the socket in the namespace at netnsPath; empty is the caller's. It needs no privilege; changes and lists need
// CAP_NET_ADMIN in the namespace's user namespace. The error is [podweft.ErrNotSupported] where the kernel has no netfilter
// netlink at all.
func Open(netnsPath string) (*Conn, error) {
	sock, err := nlsock.Dial(netnsPath, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, openError(err)
	}
	// Answers without the request they answer, but with what is wrong with it. Kernels that cannot just do neither.
	sock.Set(unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK)
	c := &Conn{path: netnsPath, sock: sock, in: make([]byte, readSize), most: maxSend, watchers: map[*netlink.Conn]struct{}{}}
	force(sock, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer)
	if c.port, c.limit, err = inspect(sock); err != nil {
		return nil, opError("open", socketName, errors.Join(err, sock.Close()))
	}
	return c, nil
}

// force sets the size of a buffer, by force if we may, else as large as an ordinary socket's; overruns are handled anyway.
func force(sock *nlsock.Socket, forced, plain, size int) {
	_ = sock.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, forced, size) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, plain, size)
		}
	})
}

const socketName = podweft.Named("nf_tables socket")

// dial opens a socket to listen on.
func dial(netnsPath string) (sock *netlink.Conn, err error) {
	err = netns.Do(netnsPath, func() (err error) {
		sock, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	})
	if err != nil {
		return nil, openError(err)
	}
	// By force if we may, else as large as an ordinary socket's; overruns are handled anyway.
	_ = sock.SetReadBuffer(receiveBuffer)
	return sock, nil
}

func openError(err error) error {
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		err = fmt.Errorf("%w: %w", podweft.ErrNotSupported, err)
	}
	return opError("open", socketName, err)
}

// Close frees the socket, ends every Watch and changes nothing in the kernel. It may wait some 10 ms for the kernel if
// something was deleted.
func (c *Conn) Close() error {
	c.watch.Lock()
	for sock := range c.watchers {
		_ = sock.Close()
	}
	c.watchers = nil
	c.watch.Unlock()
	return c.sock.Close()
}

// inspect returns the socket's port and how much may be sent through it at once.
func inspect(raw syscall.RawConn) (port uint32, limit int, err error) {
	cerr := raw.Control(func(fd uintptr) {
		var sa unix.Sockaddr
		if sa, err = unix.Getsockname(int(fd)); err != nil {
			return
		}
		port = sa.(*unix.SockaddrNetlink).Pid
		limit, err = sendLimit(int(fd))
	})
	return port, limit, errors.Join(cerr, err)
}

// sendOverhead is what netlink_sendmsg keeps back of the send buffer (net/netlink/af_netlink.c: len > sk_sndbuf - 32).
const sendOverhead = 32

func sendLimit(fd int) (int, error) {
	size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	return size - sendOverhead, err
}

// grow makes room for a transaction of n bytes: by force, else as far as any process may.
func (c *Conn) grow(n int) {
	if n <= c.limit || n > c.most {
		return
	}
	force(c.sock, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, n+sendOverhead) // the kernel doubles it
	_ = c.sock.Control(func(fd uintptr) {
		if limit, err := sendLimit(int(fd)); err == nil {
			c.limit = limit
		}
	})
}

// send sends b in one system call, which is also when the kernel acts on it.
func (c *Conn) send(b []byte) error {
	var err error
	werr := c.sock.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return err != unix.EAGAIN && err != unix.EINTR
	})
	return errors.Join(werr, os.NewSyscallError("sendto", err))
}

// receive reads what the kernel has answered, which it did within send: it never waits. more is false when nothing was
// there, and err is errLost when some of it did not fit in the buffer.
func (c *Conn) receive(each func(reply)) (more bool, err error) {
	n := 0
	rerr := c.sock.Read(func(fd uintptr) bool {
		n, err = recv(int(fd), c.in)
		return true
	})
	switch {
	case rerr != nil:
		return false, rerr
	case err == unix.EAGAIN:
		return false, nil
	case err == unix.ENOBUFS:
		return true, fmt.Errorf("%w: %w", errLost, err)
	case err != nil:
		return false, os.NewSyscallError("recvfrom", err)
	}
	for r := range replies(c.in[:n]) {
		each(r)
	}
	return true, nil
}

// recv reads once from the kernel; what another process sends is as good as nothing.
func recv(fd int, b []byte) (int, error) {
	for {
		n, from, err := unix.Recvfrom(fd, b, unix.MSG_TRUNC|unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue
		}
		if n > len(b) {
			return 0, unix.ENOBUFS // cut short: the same as lost
		}
		return n, nil
	}
}
