package ptp_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/ptp"
)

// BenchmarkAttach attaches a dual-stack pod to a node that has so many ports already, with namespaces made beforehand, and beside
// it does what no program can do without: two batches of netlink requests and one question, nothing compared, nothing awaited,
// sockets open already.
func BenchmarkAttach(b *testing.B) {
	for _, present := range []int{0, 250} {
		h := newHost(b, ptp.Config{})
		for i := range present {
			h.attachNew(b, dual, 1000+i)
		}
		pod := newMachine(b, "pod")
		p := port(dual, pod, 1)
		at := h.attach(b, p)
		detach := func() error { return h.pods.Detach(context.Background(), p) }
		require.NoError(b, detach())
		b.Run(fmt.Sprintf("present=%d/attach", present), func(b *testing.B) {
			measure(b, func() error {
				_, err := h.pods.Attach(b.Context(), p)
				return err
			}, detach)
		})
		b.Run(fmt.Sprintf("present=%d/bare", present), func(b *testing.B) {
			measure(b, func() error { return bare(b, h.nl, pod.nl, at, p) }, detach)
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
func bare(b *testing.B, node, inPod *nl.Conn, at ptp.Attached, p ptp.Port) error {
	ns, err := os.Open(p.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	var batch nl.Batch
	batch.AddVeth(
		nl.Link{Name: at.Host.Name, Alias: "podweft:podweft/pod/eth0", MTU: p.MTU, MAC: at.Host.MAC},
		nl.Link{Name: "eth0", MAC: at.Pod.MAC, MTU: p.MTU}, int(ns.Fd()))
	errs := node.Do(b.Context(), &batch)
	host, err := node.Port(b.Context(), at.Host.Name)
	if err != nil {
		return err
	}
	batch.Reset()
	batch.SetUp(1, true)
	batch.SetUp(host.Pair, true)
	for _, a := range p.Addresses {
		via := ptp.Gateway4
		if a.Is6() {
			via = ptp.Gateway6
		}
		batch.AddAddress(nl.Address{Link: host.Pair, Prefix: netip.PrefixFrom(a, a.BitLen())})
		batch.SetNeighbor(nl.Neighbor{NeighborKey: nl.NeighborKey{Link: host.Pair, Addr: via}, MAC: at.Host.MAC})
		batch.AddRoute(nl.Route{
			RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.PrefixFrom(via, 0).Masked()},
			Protocol: unix.RTPROT_STATIC, Gateway: via, Link: host.Pair, Onlink: a.Is4(),
		})
	}
	errs = append(errs, inPod.Do(b.Context(), &batch)...)
	batch.Reset()
	for _, a := range p.Addresses {
		batch.AddRoute(nl.Route{
			RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.PrefixFrom(a, a.BitLen())}, Protocol: unix.RTPROT_STATIC, Link: host.Index,
		})
	}
	for _, err := range append(errs, node.Do(b.Context(), &batch)...) {
		if err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkResync is a whole check of a node with 250 ports, where nothing differs.
func BenchmarkResync(b *testing.B) {
	h := newHost(b, ptp.Config{})
	d := h.driver(b)
	var spec ptp.Spec
	for i := range 250 {
		_, p := h.attachNew(b, dual, 1000+i)
		spec.Ports = append(spec.Ports, p)
	}
	for b.Loop() {
		plan, err := d.Apply(b.Context(), spec)
		require.NoError(b, err)
		require.Empty(b, plan)
	}
}
