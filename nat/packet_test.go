package nat_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

// ends returns a packet's source and destination; the zero Addr for what is no IP packet.
func ends(p testnet.Packet) (from, to netip.Addr) {
	const ethernet = 14
	f := p.Frame
	switch {
	case len(f) >= ethernet+20 && f[12] == 0x08 && f[13] == 0x00:
		from, _ = netip.AddrFromSlice(f[ethernet+12 : ethernet+16])
		to, _ = netip.AddrFromSlice(f[ethernet+16 : ethernet+20])
	case len(f) >= ethernet+40 && f[12] == 0x86 && f[13] == 0xdd:
		from, _ = netip.AddrFromSlice(f[ethernet+8 : ethernet+24])
		to, _ = netip.AddrFromSlice(f[ethernet+24 : ethernet+40])
	}
	return from, to
}

// arrivesFrom sends an echo request and returns the source it has when it passes eth0 of at. It must be answered, or must not.
func arrivesFrom(t *testing.T, sender *testnet.Node, e testnet.Echo, to netip.Addr, at *testnet.Node, answered bool) netip.Addr {
	t.Helper()
	wait := 300 * time.Millisecond
	if answered {
		wait = patience
	}
	capture, err := at.Capture("eth0")
	require.NoError(t, err)
	defer capture.Close()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	_, pingErr := sender.Echo(ctx, to, e)
	assert.Equal(t, answered, pingErr == nil, "%v", pingErr)
	p, err := capture.Await(t.Context(), func(p testnet.Packet) bool {
		_, dst := ends(p)
		return dst == to
	})
	require.NoError(t, err)
	from, _ := ends(p)
	return from
}

func TestMasquerade(t *testing.T) {
	c := newCluster(t)
	node, other, outside := c.fabric.Nodes[0], c.fabric.Nodes[1], c.fabric.Outside
	pod, peer := c.pods[0], c.pods[1]
	const foreign4, foreign6 = "10.250.0.9", "fd00:250::9" // of the pod, but none of the node's pod prefixes
	configure(t, pod, func(h *netlink.Handle) { setUp(t, h, "eth0", []string{foreign4 + "/32", foreign6 + "/128"}) })

	for i, n := range c.fabric.Nodes {
		d := newDriver(t, nat.Config{NetNS: n.NetNS()})
		from := arrivesFrom(t, c.pods[i], testnet.Echo{}, outside.V4, outside, false) // it knows no way back
		assert.Equal(t, c.pods[i].V4, from, "before")
		apply(t, d, c.spec(i))
	}
	tests := []struct {
		name     string
		from, to netip.Addr
		at       *testnet.Node
		want     netip.Addr
		answered bool
	}{
		{"v4 to the outside", pod.V4, outside.V4, outside, node.V4, true},
		{"v6 to the outside", pod.V6, outside.V6, outside, node.V6, true},
		{"v4 to a pod on another node", pod.V4, peer.V4, other, pod.V4, true},
		{"v6 to a pod on another node", pod.V6, peer.V6, other, pod.V6, true},
		{"v4 to another node", pod.V4, other.V4, other, node.V4, true},
		{"v6 to another node", pod.V6, other.V6, other, node.V6, true},
		{"v4 that is nobody's pod", netip.MustParseAddr(foreign4), outside.V4, outside, netip.MustParseAddr(foreign4), false},
		{"v6 that is nobody's pod", netip.MustParseAddr(foreign6), outside.V6, outside, netip.MustParseAddr(foreign6), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			assert.Equal(t, test.want, arrivesFrom(t, pod, testnet.Echo{From: test.from}, test.to, test.at, test.answered))
		})
	}
	t.Run("the node itself", func(t *testing.T) {
		assert.Equal(t, node.V4, arrivesFrom(t, node, testnet.Echo{}, peer.V4, other, true))
	})
	t.Run("multicast", func(t *testing.T) {
		from := netip.MustParseAddr("10.244.1.1") // the node's end of the pod's link: in its pod prefix
		group := netip.MustParseAddr("239.1.1.1")
		assert.Equal(t, from, sendsFrom(t, node, from, group), "a group")
		assert.Equal(t, node.V4, sendsFrom(t, node, from, outside.V4), "a machine")
	})
	t.Run("kube-proxy's mark", func(t *testing.T) {
		markEverything(t, node)
		for _, e := range []struct{ from, to netip.Addr }{{pod.V4, outside.V4}, {pod.V6, outside.V6}} {
			from := arrivesFrom(t, pod, testnet.Echo{From: e.from}, e.to, outside, false)
			assert.Equal(t, e.from, from, "left to kube-proxy, which is not here")
		}
	})
}

// sendsFrom sends a datagram from the node's address through eth0 and returns the source it leaves with.
func sendsFrom(t *testing.T, n *testnet.Node, from, to netip.Addr) netip.Addr {
	t.Helper()
	capture, err := n.Capture("eth0")
	require.NoError(t, err)
	defer capture.Close()
	require.NoError(t, n.Do(func() error {
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		_ = raw.Control(func(fd uintptr) {
			err = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(eth0.Index)})
		})
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte("hello"))
		return err
	}))
	p, err := capture.Await(t.Context(), func(p testnet.Packet) bool {
		_, dst := ends(p)
		return dst == to && p.Sent
	})
	require.NoError(t, err)
	source, _ := ends(p)
	return source
}

// markEverything does what kube-proxy does to packets that it means to masquerade.
func markEverything(t *testing.T, n *testnet.Node) {
	t.Helper()
	table := nft.Table{Family: nft.INet, Name: "kube-proxy"}
	change(t, someone(t, n), func(b *nft.Batch) {
		b.AddTable(table, 0)
		b.AddChain(nft.Chain{Table: table, Name: "mark", Base: nft.Base{Type: "filter", Hook: nft.Prerouting, Priority: nft.PriorityDstNAT, Policy: nft.Accept}})
		b.AddRule(nft.Rule{Table: table, Chain: "mark", Text: "meta mark set 0x4001", Exprs: []expr.Any{
			&expr.Immediate{Register: unix.NFT_REG_1, Data: binary.NativeEndian.AppendUint32(nil, 0x4001)},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: unix.NFT_REG_1},
		}})
	})
}

// TestNoMomentWithoutMasquerade keeps opening new flows (those under way would not notice) while the driver is restarted,
// the rules written again and the spec changed.
func TestNoMomentWithoutMasquerade(t *testing.T) {
	c := newCluster(t)
	node, pod, outside := c.fabric.Nodes[0], c.pods[0], c.fabric.Outside
	d, err := nat.New(nat.Config{NetNS: node.NetNS()})
	require.NoError(t, err)
	defer func() { d.Close() }()
	apply(t, d, c.spec(0))
	for _, to := range outside.Addrs() {
		_, err := pod.Ping(t.Context(), to) // and everybody has found the neighbours
		require.NoError(t, err)
	}
	seen, err := outside.Capture("eth0")
	require.NoError(t, err)
	defer seen.Close()

	stop := make(chan struct{})
	var flows, lost int
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			_, err := pod.Ping(ctx, outside.Addrs()[i%2])
			cancel()
			flows++
			if err != nil {
				lost++
			}
		}
	})
	them := someone(t, node)
	wider := c.spec(0)
	wider.Masquerade = append(wider.Masquerade, prefixes("10.244.101.0/24")...)
	for range 20 {
		require.NoError(t, d.Close())
		d, err = nat.New(nat.Config{NetNS: node.NetNS()})
		require.NoError(t, err)
		assert.Empty(t, apply(t, d, c.spec(0)), "adopted")
		apply(t, d, wider)
		apply(t, d, c.spec(0))
		change(t, them, func(b *nft.Batch) { b.AddChain(nft.Chain{Table: ours, Name: "theirs"}) })
		assert.Equal(t, lines("- chain inet podweft-nat theirs  # not ours", writtenAgain), apply(t, d, c.spec(0)))
	}
	close(stop)
	wg.Wait()
	t.Logf("%d new flows", flows)
	assert.Greater(t, flows, 20)
	assert.Zero(t, lost)
	bare, err := seen.Count(func(p testnet.Packet) bool {
		from, _ := ends(p)
		return from == pod.V4 || from == pod.V6
	})
	require.NoError(t, err)
	assert.Zero(t, bare, "packets with a pod's own address")
}
