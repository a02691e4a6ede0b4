package udp_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/udp"
)

// forwardOneByOne is what we are compared with: a bare forwarder that works as flannel's does, with one read and one send for each
// packet, by one thread that waits only when both sides are empty. It has the arguments LINK LOCAL PEER.
func forwardOneByOne(args []string) error {
	runtime.LockOSThread()
	tun, sock, to, err := barePorts(args, 0)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	ready := []unix.PollFd{{Fd: int32(tun), Events: unix.POLLIN}, {Fd: int32(sock), Events: unix.POLLIN}}
	buf := make([]byte, 1<<16)
	for {
		if _, err := unix.Poll(ready, -1); err != nil && err != unix.EINTR {
			return err
		}
		for moved := true; moved; {
			moved = false
			if n, err := unix.Read(tun, buf); err == nil {
				moved = true
				oneHop(buf[:n])
				_ = unix.Sendto(sock, buf[:n], 0, to)
			}
			if n, _, err := unix.Recvfrom(sock, buf, 0); err == nil {
				moved = true
				oneHop(buf[:n])
				_, _ = unix.Write(tun, buf[:n])
			}
		}
	}
}

// oneHop takes one off the TTL of an IPv4 packet, as flannel does at both ends.
func oneHop(p []byte) {
	if len(p) < 20 || p[0]>>4 != 4 {
		return
	}
	p[8]--
	check := uint32(binary.BigEndian.Uint16(p[10:])) + 0x0100
	binary.BigEndian.PutUint16(p[10:], uint16(check+check>>16))
}

// barePorts opens a TUN link, with more flags than bare packets need, and a socket, which do not block. It has the arguments LINK LOCAL
// PEER.
func barePorts(args []string, flags uint16) (tun, sock int, to unix.Sockaddr, err error) {
	tun, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, 0, nil, err
	}
	request, err := unix.NewIfreq(args[0])
	if err != nil {
		return 0, 0, nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | flags)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, request); err != nil {
		return 0, 0, nil, err
	}
	local, peer := netip.MustParseAddrPort(args[1]), netip.MustParseAddrPort(args[2])
	family, at := sockaddr(local)
	sock, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, 0, nil, err
	}
	if err := unix.Bind(sock, at); err != nil {
		return 0, 0, nil, err
	}
	_ = unix.SetsockoptInt(sock, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	_, to = sockaddr(peer)
	return tun, sock, to, nil
}

// forwardBare makes both nodes of a fabric forward over the first family of the underlay, as the role says.
func forwardBare(t testing.TB, f *testnet.Fabric, role ...string) {
	t.Helper()
	bareNode(t, f, 0, role...)
	bareNode(t, f, 1, role...)
}

// bareNode makes node number i do that.
func bareNode(t testing.TB, f *testnet.Fabric, i int, role ...string) {
	t.Helper()
	const name = "bare0"
	local, peer := f.Nodes[i].Addrs()[0], f.Nodes[1-i].Addrs()[0]
	role = append(role[:1:1], append([]string{
		name, netip.AddrPortFrom(local, udp.DefaultPort).String(), netip.AddrPortFrom(peer, udp.DefaultPort).String(),
	}, role[1:]...)...)
	a := act(t, f.Nodes[i], role...)
	t.Cleanup(a.end)
	h := handle(t, f.Nodes[i])
	link, err := h.LinkByName(name)
	require.NoError(t, err)
	require.NoError(t, h.LinkSetMTU(link, 1500-udp.Overhead(local)))
	zero := podSubnet(i, local).Addr()
	require.NoError(t, h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(zero, zero.BitLen())), Flags: unix.IFA_F_NODAD}))
	require.NoError(t, h.LinkSetUp(link))
	require.NoError(t, h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(podNetwork(local))}))
}
