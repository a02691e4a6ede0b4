package vxlan_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// manyPeers is a Spec with n peers over IPv4 beside the VTEP of node.
func manyPeers(node *testnet.Node, n int) vxlan.Spec {
	spec := vxlan.Spec{VTEPs: []vxlan.VTEP{{
		VNI: 1, Device: "eth0", Local: node.V4, MAC: podweft.MAC{0x0e, 1},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/32")},
	}}}
	for i := 1; i <= n; i++ {
		spec.Peers = append(spec.Peers, manyPeer(i))
	}
	return spec
}

func manyPeer(i int) vxlan.Peer {
	return vxlan.Peer{
		Node:     fmt.Sprintf("node-%d", i),
		MAC:      podweft.MAC{0x0e, 2, 0, byte(i >> 16), byte(i >> 8), byte(i)},
		Underlay: netip.AddrFrom4([4]byte{198, 18 + byte(i>>16), byte(i >> 8), byte(i)}),
		Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10 + byte(i>>16), byte(i >> 8), byte(i), 0}), 24)},
	}
}

func newDriver(t testing.TB, node *testnet.Node) *vxlan.Driver {
	t.Helper()
	d, err := vxlan.New(vxlan.Config{NetNS: node.NetNS()})
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// median returns the middle of the durations, in ms, and sorts them.
func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1000
}

// BenchmarkFirstApply programs all peers of an empty node, in turns with a bare program that sends the same requests and
// does nothing else: no reading, no comparing, no plan. It prints both medians and their ratio.
func BenchmarkFirstApply(b *testing.B) {
	for _, n := range []int{1000, 5000, 20000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			node := testnet.NewFabric(b, testnet.FabricConfig{Nodes: 1}).Nodes[0]
			d := newDriver(b, node)
			spec := manyPeers(node, n)
			empty := spec
			empty.Peers = nil
			bare := newBare(b, node, d, empty)
			var ours, theirs []time.Duration
			for b.Loop() {
				apply(b, d, empty)
				ours = append(ours, timed(func() { apply(b, d, spec) }))
				apply(b, d, empty)
				theirs = append(theirs, timed(func() { bare.program(b, spec) }))
				bare.clear(b, spec)
			}
			mine, floor := median(ours), median(theirs)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(mine, "ms/apply")
			b.ReportMetric(floor, "ms/bare")
			b.ReportMetric(mine/floor, "ratio")
		})
	}
}

func timed(fn func()) time.Duration {
	start := time.Now()
	fn()
	return time.Since(start)
}

func apply(t testing.TB, d *vxlan.Driver, spec vxlan.Spec) {
	t.Helper()
	_, err := d.Apply(t.Context(), spec)
	require.NoError(t, err)
}

// bare writes what the driver writes, with nothing around it.
type bare struct {
	conn *nl.Conn
	link int
}

func newBare(b *testing.B, node *testnet.Node, d *vxlan.Driver, empty vxlan.Spec) *bare {
	b.Helper()
	apply(b, d, empty) // makes the link
	conn, err := nl.Dial(node.NetNS())
	require.NoError(b, err)
	b.Cleanup(func() { conn.Close() })
	return &bare{conn: conn, link: indexes(b, node)["flannel.1"]}
}

const bareNexthops = 1 << 20 // the first of its ids: far from the driver's

func (x *bare) program(b *testing.B, spec vxlan.Spec) {
	var batch nl.Batch
	batch.Grow(4 * len(spec.Peers))
	for _, p := range spec.Peers {
		batch.SetNeighbor(nl.Neighbor{NeighborKey: nl.NeighborKey{Link: x.link, Addr: p.Prefixes[0].Addr()}, MAC: p.MAC})
	}
	for _, p := range spec.Peers {
		batch.SetForward(nl.Forward{ForwardKey: nl.ForwardKey{Link: x.link, MAC: p.MAC}, To: p.Underlay})
	}
	for i, p := range spec.Peers {
		batch.AddNexthop(nl.Nexthop{ID: bareNexthops + uint32(i), Protocol: 250, Gateway: p.Prefixes[0].Addr(), Link: x.link, Onlink: true})
	}
	for i, p := range spec.Peers {
		batch.AddRoute(x.route(i, p))
	}
	require.Nil(b, x.conn.Do(b.Context(), &batch))
}

func (x *bare) route(i int, p vxlan.Peer) nl.Route {
	return nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: p.Prefixes[0]}, Protocol: 250, Nexthop: bareNexthops + uint32(i)}
}

func (x *bare) clear(b *testing.B, spec vxlan.Spec) {
	var batch nl.Batch
	for i, p := range spec.Peers {
		batch.DeleteRoute(x.route(i, p))
	}
	for i := range spec.Peers {
		batch.DeleteNexthop(bareNexthops + uint32(i))
	}
	require.Nil(b, x.conn.Do(b.Context(), &batch)) // the driver sweeps neighbours and forwarding entries
}

// BenchmarkResync is a whole check of a node with 5,000 peers: nothing differs, or everything does.
func BenchmarkResync(b *testing.B) {
	const n = 5000
	b.Run("nothing changed", func(b *testing.B) {
		node := testnet.NewFabric(b, testnet.FabricConfig{Nodes: 1}).Nodes[0]
		d := newDriver(b, node)
		spec := manyPeers(node, n)
		apply(b, d, spec)
		var took []time.Duration
		for b.Loop() {
			took = append(took, timed(func() { apply(b, d, spec) }))
		}
		b.ReportMetric(median(took), "ms/median")
	})
	b.Run("all changed", func(b *testing.B) {
		node := testnet.NewFabric(b, testnet.FabricConfig{Nodes: 1}).Nodes[0]
		d := newDriver(b, node)
		specs := [2]vxlan.Spec{manyPeers(node, n), manyPeers(node, n)}
		for i := range specs[1].Peers {
			p := &specs[1].Peers[i]
			p.MAC[1]++
			p.Underlay = p.Underlay.Next()
		}
		apply(b, d, specs[0])
		i := 0
		var took []time.Duration
		for b.Loop() {
			i++
			took = append(took, timed(func() { apply(b, d, specs[i%2]) }))
		}
		b.ReportMetric(median(took), "ms/median")
	})
}

// benchLoop is a running loop over a node with 5,000 peers, at rest.
func benchLoop(b *testing.B) (*testnet.Node, *podweft.Loop[vxlan.Spec], vxlan.Spec) {
	b.Helper()
	node := testnet.NewFabric(b, testnet.FabricConfig{Nodes: 1}).Nodes[0]
	d := newDriver(b, node)
	spec := manyPeers(node, 5000)
	loop := podweft.NewLoop(d, podweft.LoopConfig{Coalesce: -1})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	b.Cleanup(func() { cancel(); require.NoError(b, <-done) })
	require.NoError(b, loop.Wait(ctx, loop.Set(spec)))
	sabotage.Settle(b, loop)
	return node, loop, spec
}

// BenchmarkOnePeer moves one of 5,000 peers: from Set to the kernel.
func BenchmarkOnePeer(b *testing.B) {
	_, loop, spec := benchLoop(b)
	var took []time.Duration
	i := 0
	for b.Loop() {
		i++
		moved := spec
		moved.Peers = slices.Clone(spec.Peers)
		moved.Peers[2500].MAC[2] = byte(i)
		moved.Peers[2500].Underlay = netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
		took = append(took, timed(func() {
			require.NoError(b, loop.Wait(b.Context(), loop.Set(moved)))
		}))
	}
	b.ReportMetric(median(took), "ms/median")
}

// BenchmarkRepair deletes an entry of one of 5,000 peers behind the loop's back and waits until it is there again.
func BenchmarkRepair(b *testing.B) {
	for _, what := range []string{"route", "neighbour", "fdb"} {
		b.Run(what, func(b *testing.B) {
			node, _, spec := benchLoop(b)
			h := inNode(b, node)
			vtep := linkNamed(b, h, "flannel.1")
			p := spec.Peers[2500]
			del := map[string]func() error{
				"route": func() error { return h.RouteDel(&netlink.Route{Dst: ipNet(p.Prefixes[0])}) },
				"neighbour": func() error {
					return h.NeighDel(&netlink.Neigh{LinkIndex: vtep.Attrs().Index, IP: gateway(p).AsSlice()})
				},
				"fdb": func() error { return h.NeighDel(fdb(vtep, p)) },
			}[what]
			require.NoError(b, del())
			var took []time.Duration
			for b.Loop() { // an entry can only be deleted when it is there, so the next deletion tells when it is back
				took = append(took, timed(func() { untilDone(b, del) }))
			}
			b.ReportMetric(median(took), "ms/median")
		})
	}
}

func untilDone(b *testing.B, try func() error) {
	for start := time.Now(); try() != nil; time.Sleep(50 * time.Microsecond) {
		require.Less(b, time.Since(start), patience)
	}
}
