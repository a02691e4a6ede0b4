package testnet_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/testnet"
)

func TestCaptureSeesBothWays(t *testing.T) {
	f := testnet.NewFabric(t, testnet.FabricConfig{})
	for _, to := range f.Nodes[1].Addrs() {
		c := capture(t, f.Nodes[1], "eth0")
		port := capture(t, f.Switch, "node2")
		for range 3 {
			_, err := f.Nodes[0].Ping(t.Context(), to)
			require.NoError(t, err)
		}
		first, err := c.Await(t.Context(), isEchoRequest)
		require.NoError(t, err)
		assert.False(t, first.Sent)
		assert.Equal(t, to.Is4(), source(first) == f.Nodes[0].V4)

		rest, err := c.Count(isEchoRequest)
		require.NoError(t, err)
		assert.Equal(t, 2, rest)
		answers, err := port.Count(func(p testnet.Packet) bool { return isEchoReply(p) && !p.Sent })
		require.NoError(t, err)
		assert.Equal(t, 3, answers, "the switch receives what the node sends")
	}
}

func TestCaptureWaits(t *testing.T) {
	n := testnet.NewNode(t, "n")
	c := capture(t, n, "lo")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	for range 2 {
		_, err := c.Next(ctx)
		assert.EqualError(t, err, "read capture on lo of n: no packet: context deadline exceeded")
	}

	seen := make(chan error, 1)
	go func() {
		_, err := c.Await(t.Context(), isEchoReply)
		seen <- err
	}()
	_, err := n.Ping(t.Context(), netip.IPv6Loopback())
	require.NoError(t, err)
	assert.NoError(t, <-seen)
}

func TestCaptureSaysWhatItLost(t *testing.T) {
	n := testnet.NewNode(t, "n")
	c := capture(t, n, "lo")
	p := pinger(t, n)
	for range 1000 {
		_, err := p.Echo(t.Context(), netip.IPv6Loopback(), testnet.Echo{Size: 60000})
		require.NoError(t, err)
	}
	_, err := c.Count(func(testnet.Packet) bool { return true })
	assert.ErrorContains(t, err, "packets were lost")
	_, err = c.Count(func(testnet.Packet) bool { return true })
	assert.NoError(t, err)

	_, err = n.Capture("eth7")
	assert.ErrorContains(t, err, "open capture on eth7 of n: ")
}

func capture(t *testing.T, n *testnet.Node, link string) *testnet.Capture {
	t.Helper()
	c, err := n.Capture(link)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	return c
}

func isEchoRequest(p testnet.Packet) bool { return icmpType(p) == 8 || icmpType(p) == 128 }
func isEchoReply(p testnet.Packet) bool   { return icmpType(p) == 0 || icmpType(p) == 129 }

// icmpType reads an Ethernet frame with an IP packet without options; -1 is any other.
func icmpType(p testnet.Packet) int {
	f := p.Frame
	switch {
	case len(f) > 34 && f[12] == 0x08 && f[13] == 0x00 && f[23] == 1:
		return int(f[34])
	case len(f) > 54 && f[12] == 0x86 && f[13] == 0xdd && f[20] == 58:
		return int(f[54])
	}
	return -1
}

// source is the source address of an IP packet.
func source(p testnet.Packet) netip.Addr {
	if p.Frame[12] == 0x08 {
		return netip.AddrFrom4([4]byte(p.Frame[26:]))
	}
	return netip.AddrFrom16([16]byte(p.Frame[22:]))
}
