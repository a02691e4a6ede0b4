package bridge_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/nl"
)

// BenchmarkAttach attaches a dual-stack pod to a bridge that has so many ports already, with namespaces made beforehand,
// and beside it does what no program can do without: two batches of netlink requests and one question, nothing compared, nothing awaited,
// sockets open already.
func BenchmarkAttach(b *testing.B) {
	for _, present := range []int{0, 250} {
		m := newHost(b, bridge.Config{})
		br := cni0("10.244.0.1/16", "fd00:244:0:1::1/64")
		for i := range present {
			m.attachNew(b, br, 1000+i)
		}
		pod := newMachine(b, "pod")
		p := port(br, pod, 1)
		at := m.attach(b, br, p) // the bridge is there, and has its carrier
		require.NoError(b, m.pods.Detach(b.Context(), p))

		b.Run(fmt.Sprintf("present=%d/attach", present), func(b *testing.B) {
			measure(b, func() error {
				_, err := m.pods.Attach(b.Context(), br, p)
				return err
			}, func() error { return m.pods.Detach(context.Background(), p) })
		})
		b.Run(fmt.Sprintf("present=%d/bare", present), func(b *testing.B) {
			inPod := pod.nl
			measure(b, func() error { return bare(b, m.nl, inPod, at, br, p) }, func() error {
				return m.pods.Detach(context.Background(), p)
			})
		})
	}
}

// measure reports the median and the 99th percentile of do, each followed by undo, which does not count.
func measure(b *testing.B, do, undo func() error) {
	b.Helper()
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		err := do()
		took = append(took, time.Since(start))
		b.StopTimer()
		require.NoError(b, err)
		require.NoError(b, undo())
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/median")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms/p99")
	b.ReportMetric(0, "ns/op") // with undo's share of the clock it says nothing
}

// bare is the least that makes the port. It bears p's mark, so that Detach removes it.
func bare(b *testing.B, node, inPod *nl.Conn, at bridge.Attached, br bridge.Bridge, p bridge.Port) error {
	ns, err := os.Open(p.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	var batch nl.Batch
	batch.AddVeth(
		nl.Link{Name: at.Host.Name, Alias: "podweft:podweft/pod/eth0", MTU: br.MTU, Master: at.Bridge.Index},
		nl.Link{Name: "eth0", MAC: at.Pod.MAC, MTU: br.MTU}, int(ns.Fd()))
	errs := node.Do(b.Context(), &batch)
	host, err := node.Port(b.Context(), at.Host.Name)
	if err != nil {
		return err
	}
	batch.Reset()
	batch.SetUp(1, true)
	batch.SetUp(host.Pair, true)
	for i, a := range p.Addresses {
		via := br.Gateways[i].Addr()
		batch.AddAddress(nl.Address{Link: host.Pair, Prefix: a})
		batch.SetNeighbor(nl.Neighbor{NeighborKey: nl.NeighborKey{Link: host.Pair, Addr: via}, MAC: at.Bridge.MAC})
		batch.AddRoute(nl.Route{
			RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.PrefixFrom(via, 0).Masked()},
			Protocol: unix.RTPROT_STATIC, Gateway: via, Link: host.Pair,
		})
	}
	for _, err := range append(errs, inPod.Do(b.Context(), &batch)...) {
		if err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkRetire takes a port out of use, and BenchmarkSweep deletes 250 of them at once.
func BenchmarkRetire(b *testing.B) {
	m := newHost(b, bridge.Config{})
	br := cni0("10.244.0.1/16", "fd00:244:0:1::1/64")
	pod := newMachine(b, "pod")
	p := port(br, pod, 1)
	m.attach(b, br, p)
	measure(b, func() error { return m.pods.Retire(b.Context(), p) }, func() error {
		m.attach(b, br, p)
		return nil
	})
}

func BenchmarkSweep(b *testing.B) {
	const many = 250
	m := newHost(b, bridge.Config{})
	br := cni0("10.244.0.1/16", "fd00:244:0:1::1/64")
	var ports []bridge.Port
	for i := range many {
		ports = append(ports, port(br, newMachine(b, fmt.Sprintf("pod-%d", i)), i+1))
	}
	var took time.Duration
	n := 0
	for b.Loop() {
		b.StopTimer()
		for _, p := range ports {
			m.attach(b, br, p)
		}
		b.StartTimer()
		start := time.Now()
		for _, p := range ports {
			require.NoError(b, m.pods.Retire(b.Context(), p))
		}
		require.NoError(b, m.pods.Sweep(b.Context()))
		took += time.Since(start)
		n += many
	}
	b.ReportMetric(float64(n)/took.Seconds(), "detached/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkAttachAtOnce attaches from eight goroutines.
func BenchmarkAttachAtOnce(b *testing.B) {
	const many, atOnce = 200, 8
	m := newHost(b, bridge.Config{})
	br := cni0("10.244.0.1/16", "fd00:244:0:1::1/64")
	var ports []bridge.Port
	for i := range many {
		ports = append(ports, port(br, newMachine(b, fmt.Sprintf("pod-%d", i)), i+1))
	}
	var took time.Duration
	for b.Loop() {
		start := time.Now()
		next := make(chan bridge.Port)
		var wg sync.WaitGroup
		for range atOnce {
			wg.Go(func() {
				for p := range next {
					if _, err := m.pods.Attach(b.Context(), br, p); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for _, p := range ports {
			next <- p
		}
		close(next)
		wg.Wait()
		took += time.Since(start)
		b.StopTimer()
		require.NoError(b, m.pods.DetachAll(b.Context(), ports))
		b.StartTimer()
	}
	b.ReportMetric(float64(many*b.N)/took.Seconds(), "attached/s")
	b.ReportMetric(0, "ns/op")
}
