package udp_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

// forwardFloor is the least that a forwarder between a TUN link and a socket can do: a super-packet is read whole and sent whole, as one
// datagram that is cut where it pleases, and on the other side received and written whole. Nothing is looked at, and nothing has a
// header or a checksum of its own: it is no tunnel for anybody else. What it costs is system calls and the kernel's copies, which
// whoever does the work has to pay too. It has the arguments LINK LOCAL PEER WAY.
func forwardFloor(args []string) error {
	tun, sock, to, err := barePorts(args, unix.IFF_VNET_HDR)
	if err != nil {
		return err
	}
	const checksumTSOUSO = 0x01 | 0x02 | 0x04 | 0x20 | 0x40
	if err := unix.IoctlSetInt(tun, unix.TUNSETOFFLOAD, checksumTSOUSO); err != nil {
		return err
	}
	for _, option := range [][3]int{
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 7 << 20}, {unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 7 << 20},
		{unix.IPPROTO_UDP, unix.UDP_GRO, 1},
	} {
		if err := unix.SetsockoptInt(sock, option[0], option[1], option[2]); err != nil {
			return err
		}
	}
	if err := unix.Connect(sock, to); err != nil {
		return err
	}
	ports := newFloorPorts(tun, sock)
	fmt.Println("ready")
	if args[3] == "lingering" {
		return ports.linger()
	}
	return ports.block()
}

// floorPorts are a TUN link and a socket. Each direction has a buffer of its own.
type floorPorts struct {
	tun, sock uintptr
	out, in   []byte
	whole     unix.Iovec
	message   unix.Msghdr
	cut       [24]byte // ancillary data
}

// floorSize is what the floor's datagrams are cut into, which fits through the underlay over IPv6 too.
const floorSize = 1500 - 48

func newFloorPorts(tun, sock int) *floorPorts {
	p := &floorPorts{tun: uintptr(tun), sock: uintptr(sock), out: make([]byte, 1<<17), in: make([]byte, 1<<17)}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&p.cut[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(p.cut[unix.CmsgLen(0):], floorSize)
	p.whole.Base = &p.out[0]
	p.message.Iov = &p.whole
	p.message.SetIovlen(1)
	return p
}

// send moves one super-packet from the link to the socket; it reports false when there is none.
func (p *floorPorts) send() bool {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, p.tun, uintptr(unsafe.Pointer(&p.out[0])), uintptr(len(p.out)))
	if errno != 0 {
		return false
	}
	p.whole.SetLen(int(n))
	p.message.Control = nil
	p.message.SetControllen(0)
	if n > floorSize {
		p.message.Control = &p.cut[0]
		p.message.SetControllen(len(p.cut))
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SENDMSG, p.sock, uintptr(unsafe.Pointer(&p.message)), 0)
	return true
}

// receive moves one from the socket to the link.
func (p *floorPorts) receive() bool {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, p.sock, uintptr(unsafe.Pointer(&p.in[0])), uintptr(len(p.in)), 0, 0, 0)
	if errno != 0 {
		return false
	}
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, p.tun, uintptr(unsafe.Pointer(&p.in[0])), n)
	return true
}

// block has a thread for each direction, which sleeps in the call that reads. It is the way that gets most through.
func (p *floorPorts) block() error {
	runtime.GOMAXPROCS(4) // or they might keep everybody else from running
	for _, fd := range []uintptr{p.tun, p.sock} {
		if err := unix.SetNonblock(int(fd), false); err != nil {
			return err
		}
	}
	go func() {
		runtime.LockOSThread()
		for {
			p.receive()
		}
	}()
	runtime.LockOSThread()
	for {
		p.send()
	}
}

// linger has one thread, which looks for more for a while before it sleeps: the way with the shortest round trips.
func (p *floorPorts) linger() error {
	runtime.LockOSThread()
	ready := []unix.PollFd{{Fd: int32(p.tun), Events: unix.POLLIN}, {Fd: int32(p.sock), Events: unix.POLLIN}}
	last := time.Now()
	for {
		sent, received := p.send(), p.receive()
		switch {
		case sent || received:
			last = time.Now()
		case time.Since(last) < 100*time.Microsecond:
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		default:
			if _, err := unix.Poll(ready, -1); err != nil && err != unix.EINTR {
				return os.NewSyscallError("poll", err)
			}
		}
	}
}

// limitSuperPackets has the pods send none that does not fit into one datagram.
func limitSuperPackets(b *testing.B, pods []*testnet.Node) {
	b.Helper()
	for _, pod := range pods {
		h := handle(b, pod)
		link, err := h.LinkByName("eth0")
		require.NoError(b, err)
		require.NoError(b, h.LinkSetGSOMaxSize(link, 62000))
	}
}
