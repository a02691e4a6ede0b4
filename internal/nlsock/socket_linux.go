// Package nlsock opens netlink sockets for asking the kernel.
//
// They are plain descriptors that Go's poller knows nothing of. The kernel answers a request before the system call that
// sends it returns, so nothing is ever waited for, whereas a socket with the poller wakes a second thread of the process for
// every answer: with a hundred answers, that was a quarter of the time in which a pod is attached. Sockets that wait for what
// the kernel says of its own accord are better off with the poller; this package has none.
package nlsock

import (
	"errors"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/netns"
)

// Socket is a netlink socket. It is a [syscall.RawConn] and safe for concurrent use.
type Socket struct {
	mu   sync.RWMutex
	fd   int
	shut bool
}

// Dial opens a socket of that protocol (unix.NETLINK_ROUTE) in the namespace at netnsPath; empty is the caller's.
func Dial(netnsPath string, protocol int) (*Socket, error) {
	fd := -1
	err := netns.Visit(netnsPath, func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &Socket{fd: fd}, nil
}

// Set turns on options of level SOL_NETLINK that the kernel has.
func (s *Socket) Set(options ...int) {
	_ = s.Control(func(fd uintptr) {
		for _, o := range options {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, o, 1)
		}
	})
}

// Control calls f with the descriptor.
func (s *Socket) Control(f func(fd uintptr)) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.shut {
		return net.ErrClosed
	}
	f(uintptr(s.fd))
	return nil
}

// Read calls f until it returns true, and whenever it does not, waits until there is something to read.
func (s *Socket) Read(f func(fd uintptr) (done bool)) error { return s.until(unix.POLLIN, f) }

// Write calls f until it returns true, and whenever it does not, waits until something can be written.
func (s *Socket) Write(f func(fd uintptr) (done bool)) error { return s.until(unix.POLLOUT, f) }

func (s *Socket) until(event int16, f func(fd uintptr) bool) error {
	for done := false; !done; {
		err := s.Control(func(fd uintptr) {
			if done = f(fd); !done {
				wait := []unix.PollFd{{Fd: int32(fd), Events: event}}
				_, _ = unix.Poll(wait, lookAgain)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// lookAgain bounds how long Close waits for one who waits, in milliseconds.
const lookAgain = 50

// Close closes the descriptor; who waits in Read or Write, and whoever comes later, gets [net.ErrClosed].
func (s *Socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shut {
		return net.ErrClosed
	}
	s.shut = true
	return unix.Close(s.fd)
}
