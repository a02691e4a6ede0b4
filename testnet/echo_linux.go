package testnet

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// inFlight bounds the requests of a socket that await an answer; more callers wait their turn. In a user namespace the
// receive buffer has some 400 KiB (twice net.core.rmem_max), an answer of the usual size takes nearly 1 KiB of it, and one
// that finds it full is lost.
const inFlight = 128

// echoSocket is a raw socket of one family. (A datagram ICMP socket would need net.ipv4.ping_group_range, which excludes
// everybody in a new namespace.)
type echoSocket struct {
	icmp   icmp
	conn   *net.IPConn
	raw    syscall.RawConn
	cookie [cookieSize]byte // tells our answers from those to other sockets of the node: a raw socket gets them all
	slots  chan struct{}
	done   sync.WaitGroup

	mu       sync.Mutex
	next     uint32 // identifier and sequence number of the next request
	fragment bool   // what the socket is set to
	waiting  map[uint32]chan<- answer
	closed   bool
}

type answer struct {
	at  time.Time
	err error
}

func openEchoSocket(p icmp) (*echoSocket, error) {
	s := &echoSocket{icmp: p, slots: make(chan struct{}, inFlight), fragment: true, waiting: map[uint32]chan<- answer{}}
	rand.Read(s.cookie[:])
	s.next = binary.NativeEndian.Uint32(s.cookie[:])

	network, address := p.listen()
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return onFD(raw, func(fd int) error { return errors.Join(largestBuffer(fd), p.prepare(fd)) })
	}}
	conn, err := lc.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	s.conn = conn.(*net.IPConn)
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.conn.Close())
	}
	s.done.Go(s.receive)
	return s, nil
}

func (s *echoSocket) Close() error {
	err := s.conn.Close()
	s.done.Wait()
	return err
}

func (s *echoSocket) echo(ctx context.Context, to netip.Addr, e Echo) (time.Duration, error) {
	got := make(chan answer, 1)
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return 0, fmt.Errorf("not sent: %w", ctx.Err())
	}
	sent, key, err := s.send(to, e, got)
	if err != nil {
		return 0, err
	}
	select {
	case a := <-got:
		return a.at.Sub(sent), a.err
	case <-ctx.Done():
		s.forget(key)
		select {
		case a := <-got: // both were there when a busy machine let us look
			return a.at.Sub(sent), a.err
		default:
			return 0, fmt.Errorf("no answer: %w", ctx.Err())
		}
	}
}

func (s *echoSocket) send(to netip.Addr, e Echo, got chan<- answer) (sent time.Time, key uint32, err error) {
	control, err := s.control(e.From, to)
	if err != nil {
		return sent, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return sent, 0, net.ErrClosed
	}
	if err := s.setFragment(!e.DontFragment); err != nil {
		return sent, 0, err
	}
	key = s.next
	s.next++
	msg, err := s.icmp.format().request(key, s.cookie, e.Size)
	if err != nil {
		return sent, 0, err
	}
	s.waiting[key] = got
	sent = time.Now()
	if _, _, err = s.conn.WriteMsgIP(msg, control, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		delete(s.waiting, key)
		// The kernel's word is enough; package net's has the protocol number and both addresses.
		if errno := unix.Errno(0); errors.As(err, &errno) {
			err = errno
		}
	}
	return sent, key, err
}

// control is the control message for a request; nil leaves the source address to the kernel.
func (s *echoSocket) control(from, to netip.Addr) ([]byte, error) {
	from = from.Unmap()
	switch {
	case to.Zone() != "":
		return nil, &podweft.FieldError{
			Field: "address", Value: to, Problem: "has a zone", Remedy: "ping an address that is not link-local",
		}
	case !from.IsValid():
		return nil, nil
	case from.Is4() != to.Is4():
		return nil, &podweft.FieldError{
			Field: "From", Value: from, Problem: "is of another family than " + to.String(), Remedy: "use one of the same",
		}
	}
	return s.icmp.source(from), nil
}

// setFragment is called with mu held, so that no other request is sent under this one's setting.
func (s *echoSocket) setFragment(allowed bool) error {
	if s.fragment == allowed {
		return nil
	}
	err := onFD(s.raw, func(fd int) error { return s.icmp.setFragment(fd, allowed) })
	if err == nil {
		s.fragment = allowed
	}
	return err
}

func (s *echoSocket) forget(key uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, key)
}

// receive hands answers to those who wait for them, until the socket is closed.
func (s *echoSocket) receive() {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := s.conn.ReadFromIP(buf)
		at := time.Now()
		if errors.Is(err, net.ErrClosed) {
			s.end()
			return
		}
		if err != nil {
			continue // an error of some earlier packet, which the kernel leaves on the socket
		}
		key, ours, verdict := parse(s.icmp, buf[:n], s.cookie)
		if !ours {
			continue
		}
		if verdict != nil {
			verdict = fmt.Errorf("%w, says %s", verdict, from)
		}
		s.deliver(key, answer{at: at, err: verdict})
	}
}

func (s *echoSocket) deliver(key uint32, a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if got, ok := s.waiting[key]; ok {
		delete(s.waiting, key)
		got <- a // has room for one
	}
}

func (s *echoSocket) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, got := range s.waiting {
		got <- answer{err: net.ErrClosed}
	}
	clear(s.waiting)
}

// largestBuffer makes the receive buffer as large as this user may have it: twice net.core.rmem_max.
func largestBuffer(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
}

func onFD(raw syscall.RawConn, fn func(fd int) error) error {
	var err error
	if closed := raw.Control(func(fd uintptr) { err = fn(int(fd)) }); closed != nil {
		return closed
	}
	return err
}
