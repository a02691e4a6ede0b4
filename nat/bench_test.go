package nat_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

// BenchmarkApply reads the table and finds nothing to do, or puts one prefix in or takes it out.
func BenchmarkApply(b *testing.B) {
	other := nodeSpec()
	other.Masquerade = append(other.Masquerade, prefixes("10.244.9.0/24")...)
	for _, bench := range []struct {
		name  string
		specs [2]nat.Spec
	}{
		{"in sync", [2]nat.Spec{nodeSpec(), nodeSpec()}},
		{"one element", [2]nat.Spec{nodeSpec(), other}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			n := testnet.NewNode(b, "node")
			d := newDriver(b, nat.Config{NetNS: n.NetNS()})
			apply(b, d, nodeSpec())
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				_, err := d.Apply(b.Context(), bench.specs[i%2])
				require.NoError(b, err)
			}
		})
	}
}

// BenchmarkNew is what a short-lived process pays: the socket, and a table that is there already.
func BenchmarkNew(b *testing.B) {
	n := testnet.NewNode(b, "node")
	apply(b, newDriver(b, nat.Config{NetNS: n.NetNS()}), nodeSpec())
	for b.Loop() {
		d, err := nat.New(nat.Config{NetNS: n.NetNS()})
		require.NoError(b, err)
		_, err = d.Apply(b.Context(), nodeSpec())
		require.NoError(b, err)
		require.NoError(b, d.Close())
	}
}

// BenchmarkPortsComeBack is how long host ports are gone after somebody has flushed the table, with a Loop at work.
func BenchmarkPortsComeBack(b *testing.B) {
	n := testnet.NewNode(b, "node")
	loop := podweft.NewLoop(newPorts(b, n), podweft.LoopConfig{})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	spec := nat.PortSpec{Near: near}
	for i := range 100 {
		spec.Ports = append(spec.Ports, hostPort(nat.TCP, uint16(8000+i), netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 2)})))
	}
	require.NoError(b, loop.Wait(ctx, loop.Set(spec)))
	require.Eventually(b, func() bool { return loop.Status().Listening }, 10*time.Second, time.Millisecond)
	them, watcher := someone(b, n), newPorts(b, n)
	var took []time.Duration
	for b.Loop() {
		var batch nft.Batch
		batch.DeleteTable(nft.Table{Family: nft.INet, Name: "podweft-hostports"})
		require.NoError(b, them.Commit(ctx, &batch))
		start := time.Now()
		for {
			if missing, err := watcher.Missing(ctx, spec.Ports); err == nil && len(missing) == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1000, "ms/median")
	b.ReportMetric(took[len(took)-1].Seconds()*1000, "ms/worst")
	cancel()
	require.NoError(b, <-done)
}

// BenchmarkForget opens and closes a host port, TCP and UDP, both families, which makes the kernel walk its connections: on a node of
// routed pods, each of whose links has the same two addresses, and for the many ports of one pod.
func BenchmarkForget(b *testing.B) {
	for _, bench := range []struct {
		name                string
		links, flows, ports int
	}{
		{"0 links, 0 connections, 1 port", 0, 0, 1},
		{"0 links, 10000 connections, 1 port", 0, 10000, 1},
		{"100 links, 10000 connections, 1 port", 100, 10000, 1},
		{"0 links, 10000 connections, 100 ports", 0, 10000, 100},
	} {
		b.Run(bench.name, func(b *testing.B) {
			n := testnet.NewNode(b, "node")
			configure(b, n, func(h *netlink.Handle) {
				setUp(b, h, "lo", []string{"192.0.2.1/32", "2001:db8::1/128"})
				for i := range bench.links {
					name := fmt.Sprintf("p%d", i)
					require.NoError(b, h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1}, PeerName: name + "p"}))
					setUp(b, h, name, []string{"169.254.1.1/32", "fe80::1/128"})
				}
			})
			p := newPorts(b, n)
			require.NoError(b, p.Add(b.Context(), []nat.HostPort{hostPort(nat.TCP, 1, netip.MustParseAddr("10.244.1.2"))}, near...)) // tracks
			connections(b, n, bench.flows)
			var ports []nat.HostPort
			for i := range bench.ports {
				for _, protocol := range []nat.Protocol{nat.TCP, nat.UDP} {
					for _, pod := range []string{"10.244.1.2", "fd00:244:0:1::2"} {
						ports = append(ports, hostPort(protocol, uint16(8000+i), netip.MustParseAddr(pod)))
					}
				}
			}
			for b.Loop() {
				require.NoError(b, p.Add(b.Context(), ports, near...))
				require.NoError(b, p.Remove(b.Context(), ports))
			}
		})
	}
}

// connections are tracked UDP connections of the node to itself, half of them over IPv6.
func connections(b *testing.B, n *testnet.Node, count int) {
	b.Helper()
	require.NoError(b, n.Do(func() error {
		for i := 0; i < count; i += 2 {
			for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
				c, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.ParseIP(to), Port: 20000 + i})
				if err == nil {
					_, err = c.Write([]byte("x"))
					err = errors.Join(err, c.Close())
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	}))
}
