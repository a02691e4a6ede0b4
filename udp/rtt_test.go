package udp_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// pingMany pings ADDR as often as it is told to, every millisecond, and answers the median and the 99th percentile of the round
// trips in microseconds. It is one thread in blocking calls: what it adds is as little as can be.
func pingMany(args []string) error {
	runtime.LockOSThread()
	to, err := netip.ParseAddr(args[0])
	if err != nil {
		return err
	}
	family, at := sockaddr(netip.AddrPortFrom(to, 0))
	protocol, request, reply, skip := unix.IPPROTO_ICMP, byte(8), byte(0), 20
	if to.Is6() {
		protocol, request, reply, skip = unix.IPPROTO_ICMPV6, 128, 129, 0
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW, protocol)
	if err != nil {
		return err
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	packet := make([]byte, 64)
	packet[0] = request
	buf := make([]byte, 256)
	number := uint16(0)
	once := func() (time.Duration, error) {
		number++
		binary.BigEndian.PutUint16(packet[6:], number)
		packet[2], packet[3] = 0, 0
		sum := uint32(0)
		for i := 0; i < len(packet); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(packet[i:]))
		}
		sum = sum>>16 + sum&0xffff
		binary.BigEndian.PutUint16(packet[2:], ^uint16(sum+sum>>16)) // of ICMPv6 the kernel makes it
		start := time.Now()
		if err := unix.Sendto(fd, packet, 0, at); err != nil {
			return 0, err
		}
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return 0, err
			}
			if n >= skip+8 && buf[skip] == reply && binary.BigEndian.Uint16(buf[skip+6:]) == number {
				return time.Since(start), nil
			}
		}
	}
	return obeyRole(func(order string) string {
		var count int
		if _, err := fmt.Sscan(order, &count); err != nil {
			return "0 0"
		}
		var all []time.Duration
		for range count {
			if rtt, err := once(); err == nil {
				all = append(all, rtt)
			}
			time.Sleep(time.Millisecond)
		}
		if len(all) < count*9/10 {
			return "0 0" // lost
		}
		slices.Sort(all)
		us := func(at int) float64 { return float64(all[at].Nanoseconds()) / 1000 }
		return fmt.Sprint(us(len(all)/2), us(len(all)*99/100))
	})
}

// rtt is the median and the 99th percentile of some hundred round trips, in microseconds.
func (s *side) rtt(b *testing.B) (median, p99 float64) {
	b.Helper()
	a := act(b, s.from, "ping", s.addr.String())
	defer a.end()
	_, err := fmt.Sscan(a.ask(b, "400"), &median, &p99)
	require.NoError(b, err)
	require.NotZero(b, median, "pings are lost")
	return median, p99
}

// BenchmarkRTT is the time of a round trip from pod to pod, at rest, in turns like BenchmarkThroughput.
func BenchmarkRTT(b *testing.B) {
	sides := newSides(b, onlyV4, "udp", "vxlan", "one-by-one", "floor-lingering")
	compare(b, sides, []figure{{"rtt", func(b *testing.B, s *side) map[string]float64 {
		median, p99 := s.rtt(b)
		return map[string]float64{"rtt50": median, "rtt99": p99}
	}}})
}
