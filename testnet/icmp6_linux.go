package testnet

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

type icmp6 struct{}

const (
	icmp6Unreachable  = 1
	icmp6TooBig       = 2
	icmp6TimeExceeded = 3
	icmp6EchoRequest  = 128
	icmp6EchoReply    = 129
)

// The kernel computes the checksum of ICMPv6, which covers the source address that it chooses (RFC 3542, section 3.1).
func (icmp6) format() echoFormat {
	return echoFormat{header: 40, size: 104, ask: icmp6EchoRequest, reply: icmp6EchoReply}
}

func (icmp6) listen() (network, address string) { return "ip6:58", "::" }

func (p icmp6) prepare(fd int) error {
	filter := unix.ICMPv6Filter{} // a set bit drops a type
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0)
	}
	for _, wanted := range []int{icmp6Unreachable, icmp6TooBig, icmp6TimeExceeded, icmp6EchoReply} {
		filter.Data[wanted/32] &^= 1 << (wanted % 32)
	}
	if err := unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter); err != nil {
		return err
	}
	return p.setFragment(fd, true)
}

func (icmp6) setFragment(fd int, allowed bool) error {
	mode, dont := unix.IPV6_PMTUDISC_DO, 1
	if allowed {
		mode, dont = unix.IPV6_PMTUDISC_WANT, 0
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, mode); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, dont)
}

func (icmp6) source(from netip.Addr) []byte {
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: from.As16()})
}

func (icmp6) quoted(packet []byte) []byte {
	if len(packet) < 40 || packet[6] != unix.IPPROTO_ICMPV6 {
		return nil
	}
	return packet[40:]
}

func (icmp6) verdict(msg []byte) error {
	kind, code := msg[0], msg[1]
	switch {
	case kind == icmp6TooBig:
		return tooBig(binary.BigEndian.Uint32(msg[4:]))
	case kind == icmp6TimeExceeded:
		return errHopLimit
	case kind != icmp6Unreachable:
		return nil
	}
	switch code {
	case 0:
		return unix.ENETUNREACH
	case 1, 5, 6: // prohibited by a firewall, a policy or a route
		return unix.EACCES
	}
	return unix.EHOSTUNREACH
}
