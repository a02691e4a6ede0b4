package nat_test

import (
	"encoding/binary"
	"hash/crc32"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

// The kernel of many nodes has no SCTP of its own, and yet tracks and translates what pods speak by themselves. So these tests make the
// packets: RFC 9260, section 3.

// Chunks that open an association.
const (
	sctpInit    = 1
	sctpInitAck = 2
)

// sctpPacket is one with a chunk of that kind, whose sender's tag is mine; the packet bears yours.
func sctpPacket(from, to uint16, chunk byte, yours, mine uint32) []byte {
	var p []byte
	p = binary.BigEndian.AppendUint16(p, from)
	p = binary.BigEndian.AppendUint16(p, to)
	p = binary.BigEndian.AppendUint32(p, yours)
	p = append(p, 0, 0, 0, 0)
	p = append(p, chunk, 0, 0, 20)
	p = binary.BigEndian.AppendUint32(p, mine)
	p = append(p, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1) // window, one stream each way, first number
	binary.LittleEndian.PutUint32(p[8:], sctpSum(p))
	return p
}

// sctpSum is the checksum that belongs into the packet.
func sctpSum(p []byte) uint32 {
	p = append([]byte(nil), p...)
	clear(p[8:12])
	return crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli))
}

// sctpSocket gets all SCTP that reaches the node, and sends what it is given.
func sctpSocket(t *testing.T, n *testnet.Node, of netip.Addr) *net.IPConn {
	t.Helper()
	network := "ip4:132"
	if of.Is6() {
		network = "ip6:132"
	}
	var c net.PacketConn
	require.NoError(t, n.Do(func() (err error) {
		c, err = net.ListenPacket(network, "")
		return err
	}))
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c.(*net.IPConn)
}

// sctpHears waits for a chunk of that kind and returns who sent it, between which ports, and the tag of its sender.
func sctpHears(t *testing.T, c *net.IPConn, chunk byte) (from netip.Addr, ports [2]uint16, tag uint32) {
	t.Helper()
	buf := make([]byte, 1500)
	for {
		n, at, err := c.ReadFromIP(buf)
		require.NoError(t, err)
		if p := buf[:n]; n >= 32 && p[12] == chunk {
			assert.Equal(t, sctpSum(p), binary.LittleEndian.Uint32(p[8:]), "its checksum")
			from, _ = netip.AddrFromSlice(at.IP)
			return from.Unmap(), [2]uint16{binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])}, binary.BigEndian.Uint32(p[16:])
		}
	}
}

// TestSCTPHostPort opens an association through a host port: what comes to the node reaches the pod's port, and the answer comes from
// the node's.
func TestSCTPHostPort(t *testing.T) {
	b := newBridged(t)
	other := b.pods[0]
	pod := b.pods[1]
	const client, nodePort, podPort = 40000, 8000, 3868
	ports := []nat.HostPort{
		{Protocol: nat.SCTP, Port: nodePort, Pod: netip.AddrPortFrom(pod.V4, podPort)},
		{Protocol: nat.SCTP, Port: nodePort, Pod: netip.AddrPortFrom(pod.V6, podPort)},
		{Protocol: nat.TCP, Port: nodePort, Pod: netip.AddrPortFrom(other.V4, podPort)}, // another protocol leads elsewhere
		{Protocol: nat.SCTP, Port: 8001, HostIP: b.node.V6, Pod: netip.AddrPortFrom(pod.V6, podPort)},
		{Protocol: nat.SCTP, Port: 8001, HostIP: b.node.V4, Pod: netip.AddrPortFrom(pod.V4, podPort)},
	}
	require.NoError(t, b.ports.Add(t.Context(), ports, near...))
	gateways := map[bool]netip.Addr{true: netip.MustParseAddr("10.244.1.1"), false: netip.MustParseAddr("fd00:244:0:1::1")}
	for i, to := range b.node.Addrs() {
		outside := netip.MustParseAddr([]string{outside4, outside6}[i])
		for _, test := range []struct {
			name string
			from *testnet.Node
			port uint16
			seen netip.Addr // by the pod
		}{
			{"from outside", b.outside, nodePort, outside},
			{"from outside, one address", b.outside, 8001, outside},
			{"from another pod", other, nodePort, gateways[to.Is4()]},
		} {
			t.Run(test.name+" to "+to.String(), func(t *testing.T) {
				asks, answers := sctpSocket(t, test.from, to), sctpSocket(t, pod, to)
				_, err := asks.WriteTo(sctpPacket(client, test.port, sctpInit, 0, 0xfeed), &net.IPAddr{IP: to.AsSlice()})
				require.NoError(t, err)
				from, between, tag := sctpHears(t, answers, sctpInit)
				assert.Equal(t, test.seen, from)
				assert.EqualValues(t, podPort, between[1])
				assert.EqualValues(t, 0xfeed, tag)

				_, err = answers.WriteTo(sctpPacket(podPort, between[0], sctpInitAck, tag, 0xbeef), &net.IPAddr{IP: from.AsSlice()})
				require.NoError(t, err)
				from, between, tag = sctpHears(t, asks, sctpInitAck)
				assert.Equal(t, to, from)
				assert.Equal(t, [2]uint16{test.port, client}, between)
				assert.EqualValues(t, 0xbeef, tag)
			})
		}
	}
	for _, to := range b.node.Addrs() {
		t.Run("whoever has "+to.String()+" next", func(t *testing.T) {
			led := []nat.HostPort{{Protocol: nat.SCTP, Port: nodePort, Pod: netip.AddrPortFrom(family(other, to), podPort)}}
			asks, answers := sctpSocket(t, b.outside, to), sctpSocket(t, other, to)
			require.NoError(t, b.ports.Remove(t.Context(), ports))
			require.NoError(t, b.ports.Add(t.Context(), led, near...))
			_, err := asks.WriteTo(sctpPacket(client, nodePort, sctpInit, 0, 0xfeed), &net.IPAddr{IP: to.AsSlice()})
			require.NoError(t, err)
			_, between, _ := sctpHears(t, answers, sctpInit)
			assert.Equal(t, [2]uint16{client, podPort}, between, "what was tracked is forgotten")
		})
	}
}

// family is the pod's address of the same family as the other.
func family(pod *testnet.Node, as netip.Addr) netip.Addr {
	if as.Is4() {
		return pod.V4
	}
	return pod.V6
}
