package udp_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/udp"
	"github.com/podweft/podweft/vxlan"
)

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// measuring is how long one figure of one round takes, after a moment to get going.
const (
	warming   = 150 * time.Millisecond
	measuring = 350 * time.Millisecond
)

// side is one of those that are compared: two pods, and the network between them.
type side struct {
	name     string
	fabric   *testnet.Fabric
	from, to *testnet.Node
	addr     netip.Addr // of to
	port     int
	got      map[string][]float64 // by figure, for each round
}

// networks are what is compared: what each takes off the MTU, and how the nodes of a fabric are made one.
var networks = map[string]struct {
	overhead func(netip.Addr) int
	start    func(*testing.B, *testnet.Fabric)
}{
	"udp":        {udp.Overhead, startAgents},
	"vxlan":      {vxlan.Overhead, applyVXLAN},
	"one-by-one": {udp.Overhead, func(b *testing.B, f *testnet.Fabric) { forwardBare(b, f, "one-by-one") }},
	// As little as a forwarder can do; it is best at throughput, and at round trips.
	"floor":           {udp.Overhead, func(b *testing.B, f *testnet.Fabric) { forwardBare(b, f, "floor", "blocking") }},
	"floor-lingering": {udp.Overhead, func(b *testing.B, f *testnet.Fabric) { forwardBare(b, f, "floor", "lingering") }},
}

// newSides builds the networks that are compared, each with its pods.
func newSides(b *testing.B, cfg testnet.FabricConfig, names ...string) (sides []*side) {
	b.Helper()
	udp.NeedTUN(b)
	for _, name := range names {
		f, kind := testnet.NewFabric(b, cfg), networks[name]
		kind.start(b, f)
		zeros := func(i int) []netip.Addr { return []netip.Addr{podSubnet(i, f.Nodes[i].Addrs()[0]).Addr()} }
		pods := newPods(b, f, 1500-kind.overhead(f.Nodes[0].Addrs()[0]), zeros)
		if strings.HasPrefix(name, "floor") {
			limitSuperPackets(b, pods)
		}
		s := &side{name: name, fabric: f, from: pods[0], to: pods[1], addr: zeros(1)[0].Next().Next(), port: 5000, got: map[string][]float64{}}
		require.NoError(b, reach(b.Context(), s.from, s.addr), name)
		sides = append(sides, s)
	}
	return sides
}

func startAgents(b *testing.B, f *testnet.Fabric) {
	b.Helper()
	for i, n := range f.Nodes {
		startAgent(b, n).keep(b, handMade(f, i))
	}
}

func applyVXLAN(b *testing.B, f *testnet.Fabric) {
	b.Helper()
	for i, n := range f.Nodes {
		local, to := n.Addrs()[0], f.Nodes[1-i].Addrs()[0]
		zero := podSubnet(i, local).Addr()
		spec := vxlan.Spec{
			VTEPs: []vxlan.VTEP{{VNI: 1, Device: "eth0", Local: local, MAC: podweft.MAC{0x0e, 0, 0, 0, 0, byte(i)}, Addresses: []netip.Prefix{netip.PrefixFrom(zero, zero.BitLen())}}},
			Peers: []vxlan.Peer{{Node: "other", MAC: podweft.MAC{0x0e, 0, 0, 0, 0, byte(1 - i)}, Underlay: to, Prefixes: []netip.Prefix{podSubnet(1-i, to)}}},
		}
		d, err := vxlan.New(vxlan.Config{NetNS: n.NetNS()})
		require.NoError(b, err)
		b.Cleanup(func() { d.Close() })
		_, err = d.Apply(b.Context(), spec)
		require.NoError(b, err)
	}
}

func (s *side) at() string {
	s.port++
	return netip.AddrPortFrom(s.addr, uint16(s.port)).String()
}

// tcp sends as much as it can over some connections at once and returns what arrives, in Gbit/s, and the processor time of the
// whole system that a Gbit costs, in seconds.
func (s *side) tcp(b *testing.B, streams int) (rate, cost float64) {
	b.Helper()
	at := s.at()
	far := act(b, s.to, "tcp-receive", at)
	defer far.end()
	near := act(b, s.from, "tcp-send", at, strconv.Itoa(streams))
	defer near.end()
	return perSecond(b, far, 8/1e9)
}

// udp sends packets with size bytes of payload, rate a second or as many as it can, and returns how many arrive a second.
func (s *side) udp(b *testing.B, size int, rate float64) (received float64) {
	b.Helper()
	at := s.at()
	far := act(b, s.to, "udp-receive", at)
	defer far.end()
	near := act(b, s.from, "udp-send", at, strconv.Itoa(size), fmt.Sprint(rate))
	defer near.end()
	received, _ = perSecond(b, far, 1)
	return received
}

// perSecond is by how much what the actor counts grows, and what one unit of it costs.
func perSecond(b *testing.B, a *actor, unit float64) (rate, cost float64) {
	b.Helper()
	time.Sleep(warming)
	before, start, busy := a.number(b), time.Now(), busyTime(b)
	time.Sleep(measuring)
	grown := (a.number(b) - before) * unit
	return grown / time.Since(start).Seconds(), (busyTime(b) - busy) / grown
}

// busyTime is how long the processors of the whole system have worked, in seconds.
func busyTime(b *testing.B) float64 {
	b.Helper()
	stat, err := os.ReadFile("/proc/stat")
	require.NoError(b, err)
	line, _, _ := strings.Cut(string(stat), "\n")
	sum := 0.0
	for i, field := range strings.Fields(line)[1:] {
		v, err := strconv.ParseFloat(field, 64)
		require.NoError(b, err)
		if i != 3 && i != 4 && i < 7 { // idle, iowait; steal and guests
			sum += v
		}
	}
	return sum / 100 // USER_HZ
}

// figure is something to be measured, by the names of what comes out.
type figure struct {
	name string
	of   func(b *testing.B, s *side) map[string]float64
}

// figures are what is measured in each round.
var figures = []figure{
	{"tcp1", func(b *testing.B, s *side) map[string]float64 {
		rate, cost := s.tcp(b, 1)
		return map[string]float64{"tcp1": rate, "cpu1": cost}
	}},
	{"tcp4", func(b *testing.B, s *side) map[string]float64 {
		rate, cost := s.tcp(b, 4)
		return map[string]float64{"tcp4": rate, "cpu4": cost}
	}},
	{"udp64", func(b *testing.B, s *side) map[string]float64 {
		return map[string]float64{"udp64": s.udp(b, 64, 0) / 1000}
	}},
}

// BenchmarkThroughput is what gets through from pod to pod, in turns with the kernel's VXLAN, with a one-by-one forwarder
// and with the floor, the least that one can do. Each iteration is a round: every figure for each, in changing order. It prints the
// medians: of ours in Gbit/s, seconds of processor time for a Gbit, thousands of packets a second; of the rounds' ratios to the
// others; and of the floor's to the others, beyond which nobody gets who moves packets through user space. Use -benchtime 5x or more.
func BenchmarkThroughput(b *testing.B) {
	for _, underlay := range underlays {
		b.Run(underlay.name, func(b *testing.B) {
			compare(b, newSides(b, underlay.cfg, "udp", "vxlan", "one-by-one", "floor"), figures)
		})
	}
}

// underlays are what is measured over, one family each.
var underlays = []struct {
	name string
	cfg  testnet.FabricConfig
}{{"v4", onlyV4}, {"v6", onlyV6}}

func compare(b *testing.B, sides []*side, figures []figure) {
	turns := slices.Clone(sides)
	for b.Loop() {
		for _, f := range figures {
			for _, s := range turns {
				for name, v := range f.of(b, s) {
					s.got[name] = append(s.got[name], v)
				}
			}
			turns = append(turns[1:], turns[0])
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, name := range slices.Sorted(keys(sides[0].got)) {
		b.ReportMetric(middle(sides[0].got[name]), name)
		last := sides[len(sides)-1]
		for _, other := range sides[1:] {
			b.ReportMetric(ratio(sides[0], other, name), name+"/"+other.name)
			if strings.HasPrefix(last.name, "floor") && other != last {
				b.ReportMetric(ratio(last, other, name), name+":"+last.name+"/"+other.name)
			}
		}
	}
}

// ratio is the median of the rounds' ratios of s to other.
func ratio(s, other *side, name string) float64 {
	ratios := make([]float64, len(other.got[name]))
	for i, v := range other.got[name] {
		ratios[i] = s.got[name][i] / v
	}
	return middle(ratios)
}

func keys(m map[string][]float64) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// BenchmarkPlainUnderlay is TCP over an underlay that cannot cut datagrams, with a receiver that joins what comes in (GRO): many real
// network cards are like that.
func BenchmarkPlainUnderlay(b *testing.B) {
	for _, underlay := range underlays {
		b.Run(underlay.name, func(b *testing.B) {
			sides := newSides(b, underlay.cfg, "udp", "vxlan")
			for _, s := range sides {
				for _, n := range s.fabric.Nodes {
					makePlain(b, n)
				}
			}
			compare(b, sides, figures[:1])
		})
	}
}

// makePlain has the node's interface cut nothing, and join what it receives.
func makePlain(b *testing.B, n *testnet.Node) {
	b.Helper()
	for _, args := range [][]string{
		{"-K", "eth0", "tso", "off", "gso", "off", "gro", "on"}, {"-K", "eth0", "tx-udp-segmentation", "off"},
	} {
		if out, err := n.Command(b.Context(), "ethtool", args...).CombinedOutput(); err != nil {
			b.Skipf("ethtool %v: %v: %s", args, err, out)
		}
	}
}

// BenchmarkOverload sends small packets at more and more packets a second, up to as many as the sender can: what arrives must not
// become less. It prints the most that arrived, and what arrived at the highest load as a part of that.
func BenchmarkOverload(b *testing.B) {
	s := newSides(b, onlyV4, "udp")[0]
	var most, kept []float64
	for b.Loop() {
		peak, last := 0.0, 0.0
		for _, rate := range []float64{50e3, 100e3, 150e3, 200e3, 300e3, 0} {
			last = s.udp(b, 64, rate)
			peak = max(peak, last)
		}
		most, kept = append(most, peak/1000), append(kept, last/peak)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(middle(most), "kpps")
	b.ReportMetric(middle(kept), "kept")
}
