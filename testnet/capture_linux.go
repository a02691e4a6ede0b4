package testnet

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is a frame that passed a link.
type Packet struct {
	Sent  bool   // it left the node by the link rather than arriving
	Frame []byte // from the link's own header on: Ethernet's, or none for a TUN
}

// Capture is what passes a link since it was opened. It is for one goroutine at a time. What is not read in time is lost
// when some 200 KiB have accumulated.
type Capture struct {
	name string
	file *os.File
	raw  syscall.RawConn
	buf  []byte
}

// Capture begins to record what passes a link of the node. It must be closed.
func (n *Node) Capture(link string) (*Capture, error) {
	c := &Capture{name: "capture on " + link + " of " + n.Name, buf: make([]byte, 128<<10)}
	err := n.Do(func() error {
		at, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		// Protocol 0 records nothing until bind names the link, so nothing of other links gets in.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		c.file = os.NewFile(uintptr(fd), c.name)
		return errors.Join(
			largestBuffer(fd),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything(), Ifindex: at.Index}),
		)
	})
	if err == nil {
		c.raw, err = c.file.SyscallConn()
	}
	if err != nil {
		_ = c.file.Close() // of a nil File: no more than an error
		return nil, opError("open", c.name, err)
	}
	return c, nil
}

// Close ends the recording; a call that waits ends too.
func (c *Capture) Close() error { return c.file.Close() }

// Next returns the next packet and waits for it until ctx ends.
func (c *Capture) Next(ctx context.Context) (Packet, error) {
	if err := c.file.SetReadDeadline(time.Time{}); err != nil {
		return Packet{}, opError("read", c.name, err)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = c.file.SetReadDeadline(time.Unix(1, 0)) // long ago
	})
	defer func() {
		if !stop() {
			<-interrupted // else it would interrupt the next call
		}
	}()

	var p Packet
	var err error
	waited := c.raw.Read(func(fd uintptr) bool {
		p, err = c.receive(int(fd))
		return !errors.Is(err, unix.EAGAIN)
	})
	if errors.Is(waited, os.ErrDeadlineExceeded) {
		waited = fmt.Errorf("no packet: %w", ctx.Err())
	}
	return p, opError("read", c.name, cmp.Or(waited, err))
}

// Await returns the next packet that match accepts, skips the others, and waits for it until ctx ends.
func (c *Capture) Await(ctx context.Context, match func(Packet) bool) (Packet, error) {
	for {
		p, err := c.Next(ctx)
		if err != nil || match(p) {
			return p, err
		}
	}
}

// Count reads, without waiting, what has been recorded and not been read yet, and returns how many packets match accepts.
// It is an error if some were lost since the last Count.
func (c *Capture) Count(match func(Packet) bool) (n int, err error) {
	err = onFD(c.raw, func(fd int) error {
		for {
			p, err := c.receive(fd)
			if errors.Is(err, unix.EAGAIN) {
				return checkLosses(fd)
			}
			if err != nil {
				return err
			}
			if match(p) {
				n++
			}
		}
	})
	return n, opError("read", c.name, err)
}

// checkLosses reads and resets the kernel's counters.
func checkLosses(fd int) error {
	stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err == nil && stats.Drops > 0 {
		err = fmt.Errorf("%d packets were lost: read more often", stats.Drops)
	}
	return err
}

// receive returns EAGAIN when there is nothing to read.
func (c *Capture) receive(fd int) (Packet, error) {
	n, from, err := unix.Recvfrom(fd, c.buf, 0)
	if err != nil {
		return Packet{}, err
	}
	at, ok := from.(*unix.SockaddrLinklayer)
	return Packet{Sent: ok && at.Pkttype == unix.PACKET_OUTGOING, Frame: slices.Clone(c.buf[:n])}, nil
}

// everything is ETH_P_ALL in network byte order.
func everything() uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
}
