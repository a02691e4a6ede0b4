package testnet

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

type icmp4 struct{}

const (
	icmp4EchoReply    = 0
	icmp4Unreachable  = 3
	icmp4EchoRequest  = 8
	icmp4TimeExceeded = 11
)

func (icmp4) format() echoFormat {
	return echoFormat{header: 20, size: 84, ask: icmp4EchoRequest, reply: icmp4EchoReply, checksum: true}
}

func (icmp4) listen() (network, address string) { return "ip4:1", "0.0.0.0" }

func (p icmp4) prepare(fd int) error {
	const icmpFilter = 1 // ICMP_FILTER, include/uapi/linux/icmp.h: a set bit drops a type
	const wanted = 1<<icmp4EchoReply | 1<<icmp4Unreachable | 1<<icmp4TimeExceeded
	if err := unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, ^wanted); err != nil {
		return err
	}
	return p.setFragment(fd, true)
}

func (icmp4) setFragment(fd int, allowed bool) error {
	mode := unix.IP_PMTUDISC_DO
	if allowed {
		mode = unix.IP_PMTUDISC_DONT
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode)
}

func (icmp4) source(from netip.Addr) []byte {
	return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: from.As4()})
}

func (icmp4) quoted(packet []byte) []byte {
	if len(packet) < 20 || packet[9] != unix.IPPROTO_ICMP {
		return nil
	}
	header := int(packet[0]&0x0f) * 4
	return packet[min(header, len(packet)):]
}

func (icmp4) verdict(msg []byte) error {
	kind, code := msg[0], msg[1]
	switch {
	case kind == icmp4TimeExceeded:
		return errHopLimit
	case kind != icmp4Unreachable:
		return nil
	}
	switch code {
	case 0:
		return unix.ENETUNREACH
	case 4:
		return tooBig(uint32(binary.BigEndian.Uint16(msg[6:])))
	case 9, 10, 13: // prohibited by a firewall
		return unix.EACCES
	}
	return unix.EHOSTUNREACH
}
