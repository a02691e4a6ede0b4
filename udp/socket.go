package udp

import (
	"errors"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is struct mmsghdr: a datagram, or many in one.
type message struct {
	unix.Msghdr
	Len uint32
}

// socketPort sends and receives datagrams of one underlay family.
type socketPort interface {
	// receive fills in as many datagrams as there are; it returns errAgain when there is none.
	receive(m []message) (int, error)
	// send returns how many it has sent, and waits while the underlay is slower than we. The error is that of the one behind them.
	send(m []message) (int, error)
}

// Ancillary data of linux/udp.h and linux/in.h.
const (
	udpSegment = 103 // cut the datagram into many of this size
	udpGRO     = 104 // many of this size have been joined

	// wantedBuffer is what the socket asks the kernel to hold for us while we are busy, in each direction.
	wantedBuffer = 7 << 20
)

// udpSocket is the kernel's socketPort.
type udpSocket struct {
	fd    uintptr
	gate  *gate
	local netip.AddrPort
	cuts  bool // it cuts datagrams into many
	many  bool // it takes and gives many messages in one call
}

// openSocket opens the socket that outer packets are sent from and received at. granted is what the kernel holds for it, in bytes.
func openSocket(local netip.AddrPort, shared bool, g *gate) (s *udpSocket, granted int, err error) {
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(local.Port()), Addr: local.Addr().As16()})
	if local.Addr().Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: int(local.Port()), Addr: local.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return nil, 0, err
	}
	if err = prepare(fd, family); err == nil && shared {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	if err == nil {
		err = unix.Bind(fd, address)
	}
	if err != nil {
		unix.Close(fd)
		return nil, 0, err
	}
	granted, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return &udpSocket{fd: uintptr(fd), gate: g, local: local, cuts: cuts(fd), many: many(uintptr(fd))}, granted, nil
}

// cuts reports whether the kernel knows udpSegment. Before Linux 4.18 it takes no notice of it, and would send what is to be cut as one
// large datagram.
func cuts(fd int) bool {
	_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, udpSegment)
	return err == nil
}

// many reports whether there are calls for many messages at once. It has them move none.
func many(fd uintptr) bool {
	none := make([]message, 1)
	for _, trap := range [...]uintptr{unix.SYS_SENDMMSG, unix.SYS_RECVMMSG} {
		if _, err := direct(trap, fd, uintptr(unsafe.Pointer(&none[0])), 0); err != nil {
			return false
		}
	}
	return true
}

// prepare sets what the packet path wants of a socket.
func prepare(fd, family int) error {
	for _, b := range [...][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		// Beyond the system's limit goes only who is root, and not that of a user namespace.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, b[0], wantedBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, b[1], wantedBuffer)
		}
	}
	// Kernels before 5.0 deliver datagrams one by one.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, udpGRO, 1)
	if family == unix.AF_INET {
		// The inner packet fits, or else the outer one is cut: its size is not the inner sender's doing.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT); err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
}

func (s *udpSocket) receive(m []message) (int, error) {
	return s.move(unix.SYS_RECVMMSG, unix.SYS_RECVMSG, m)
}

// move makes the call for many messages or, where there is none, that for one for each of them.
func (s *udpSocket) move(all, each uintptr, m []message) (n int, err error) {
	if s.many {
		return direct(all, s.fd, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)))
	}
	for n < len(m) {
		size, err := direct(each, s.fd, uintptr(unsafe.Pointer(&m[n].Msghdr)), 0)
		if err != nil && n == 0 {
			return 0, err
		}
		if err != nil { // the next call will tell
			break
		}
		m[n].Len = uint32(size)
		n++
	}
	return n, nil
}

func (s *udpSocket) send(m []message) (int, error) {
	for {
		n, err := s.move(unix.SYS_SENDMMSG, unix.SYS_SENDMSG, m)
		if !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
		if err := s.gate.await([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}, s.gate.entry()}); err != nil {
			return 0, err
		}
	}
}

func (s *udpSocket) close() error { return unix.Close(int(s.fd)) }

// control is the ancillary data of a datagram to be sent.
type control struct {
	buf [2 * controlLen]byte
	len int
}

// controlLen is the room for one item: its header and an int, padded.
const controlLen = unix.SizeofCmsghdr + 8

func (c *control) add(level, kind int32, data []byte) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.buf[c.len]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(c.buf[c.len+unix.CmsgLen(0):], data)
	c.len += unix.CmsgSpace(len(data))
}

// set says that the datagram is to be cut into packets of size, or not where that is 0, and which DSCP and ECN they bear.
func (c *control) set(v6 bool, size int, tos byte) {
	c.len = 0
	if size != 0 {
		var v [2]byte
		native.PutUint16(v[:], uint16(size))
		c.add(unix.IPPROTO_UDP, udpSegment, v[:])
	}
	if tos == 0 {
		return
	}
	var v [4]byte
	native.PutUint32(v[:], uint32(tos))
	if v6 {
		c.add(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, v[:])
		return
	}
	c.add(unix.IPPROTO_IP, unix.IP_TOS, v[:])
}

// received is what came with a datagram: the size of the packets that were joined into it, or 0, and the byte of DSCP and ECN.
func received(b []byte) (size int, tos byte) {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		data := b[unix.CmsgLen(0):]
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == udpGRO && len(data) >= 4:
			size = int(native.Uint32(data))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS && len(data) >= 1:
			tos = data[0]
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS && len(data) >= 4:
			tos = byte(native.Uint32(data))
		}
		step := unix.CmsgSpace(int(h.Len) - unix.CmsgLen(0))
		if int(h.Len) < unix.SizeofCmsghdr || step > len(b) {
			break
		}
		b = b[step:]
	}
	return size, tos
}
