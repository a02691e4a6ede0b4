package udp_test

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The load is sent and received by processes of their own, in blocking system calls: what they cost is what any program would.

func sockaddr(at netip.AddrPort) (family int, to unix.Sockaddr) {
	if at.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
}

// sendTCP sends to ADDR:PORT over N connections.
func sendTCP(args []string) error {
	at, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	streams, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	family, to := sockaddr(at)
	for range streams {
		fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		_ = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
		if err := unix.Connect(fd, to); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		go func() {
			data := make([]byte, 128<<10)
			for {
				if _, err := unix.Write(fd, data); err != nil {
					return
				}
			}
		}()
	}
	return obeyRole(func(string) string { return "" })
}

// receiveTCP receives at ADDR:PORT and answers how many bytes have come.
func receiveTCP(args []string) error {
	at, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	family, to := sockaddr(at)
	listener, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(listener, to); err != nil {
		return err
	}
	if err := unix.Listen(listener, 16); err != nil {
		return err
	}
	var total atomic.Int64
	go func() {
		for {
			fd, _, err := unix.Accept(listener)
			if err != nil {
				return
			}
			go func() {
				data := make([]byte, 128<<10)
				for {
					n, err := unix.Read(fd, data)
					if err != nil || n == 0 {
						return
					}
					total.Add(int64(n))
				}
			}()
		}
	}()
	return obeyRole(func(string) string { return strconv.FormatInt(total.Load(), 10) })
}

// sendUDP sends packets with SIZE bytes of payload to ADDR:PORT, RATE a second or, where that is 0, as many as it can.
func sendUDP(args []string) error {
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	rate, err := strconv.ParseFloat(args[2], 64)
	if err != nil {
		return err
	}
	conn, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var sent atomic.Int64
	go func() {
		data := make([]byte, size)
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetNonblock(int(fd), false)
			start := time.Now()
			for {
				if rate > 0 && float64(sent.Load()) > rate*time.Since(start).Seconds() {
					time.Sleep(50 * time.Microsecond)
					continue
				}
				if _, err := unix.Write(int(fd), data); err == nil {
					sent.Add(1)
				}
			}
		})
	}()
	return obeyRole(func(string) string { return strconv.FormatInt(sent.Load(), 10) })
}

// receiveUDP receives at ADDR:PORT and answers how many packets have come.
func receiveUDP(args []string) error {
	at, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	family, to := sockaddr(at)
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, to); err != nil {
		return err
	}
	var total atomic.Int64
	go func() {
		data := make([]byte, 2048)
		for {
			if _, err := unix.Read(fd, data); err == nil {
				total.Add(1)
			}
		}
	}()
	return obeyRole(func(string) string { return strconv.FormatInt(total.Load(), 10) })
}
