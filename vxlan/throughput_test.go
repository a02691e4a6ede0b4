package vxlan_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// measuring is how long one figure of one round takes, after a moment to get going.
const (
	warming   = 50 * time.Millisecond
	measuring = 200 * time.Millisecond
)

// BenchmarkThroughput is what gets through from pod to pod, in turns with the same network made by hand. Each iteration is a
// round: every figure for both, in changing order. It prints the medians of ours and of the rounds' ratios, ours to theirs;
// use -benchtime 20x or more.
func BenchmarkThroughput(b *testing.B) {
	for _, mode := range modes[:2] {
		b.Run(strings.ReplaceAll(mode.name, " ", "-"), func(b *testing.B) {
			change := withChecksums(mode.change) // as the other has them
			ours, theirs := newOverlay(b, mode.fabric, change), newOverlay(b, mode.fabric, change)
			ours.apply(b)
			makeByHand(b, theirs)
			sides := []*side{newSide(b, ours), newSide(b, theirs)}
			for b.Loop() {
				for _, f := range figures {
					for _, s := range sides {
						s.got[f.name] = append(s.got[f.name], f.of(b, s))
					}
				}
				slices.Reverse(sides)
			}
			a, z := sides[0], sides[1]
			if a.overlay != ours {
				a, z = z, a
			}
			b.ReportMetric(0, "ns/op")
			for _, f := range figures {
				b.ReportMetric(middle(a.got[f.name]), f.unit+"/"+f.name)
				b.ReportMetric(middle(ratios(a.got[f.name], z.got[f.name])), "ratio/"+f.name)
			}
		})
	}
}

// side is one of the two that are compared.
type side struct {
	overlay  *overlay
	from, to *testnet.Node
	addr     netip.Addr
	got      map[string][]float64 // by figure, for each round
}

func newSide(b *testing.B, o *overlay) *side {
	b.Helper()
	mtu := 1500 - vxlan.Overhead(o.specs[0].VTEPs[0].Local)
	pods := newPods(b, o, mtu)
	s := &side{overlay: o, from: pods[0], to: pods[1], addr: o.podAddrs(1)[0], got: map[string][]float64{}}
	require.NoError(b, sabotage.Reach(b.Context(), s.from, s.addr, testnet.Echo{}))
	return s
}

// figures are what is measured.
var figures = []struct {
	name, unit string
	of         func(b *testing.B, s *side) float64
}{
	{"tcp1", "Gbit/s", func(b *testing.B, s *side) float64 { return s.tcp(b, 1) }},
	{"tcp4", "Gbit/s", func(b *testing.B, s *side) float64 { return s.tcp(b, 4) }},
	{"udp64", "kpps", func(b *testing.B, s *side) float64 { return s.udp(b, 64) }},
}

func ratios(ours, theirs []float64) []float64 {
	all := make([]float64, len(ours))
	for i := range ours {
		all[i] = ours[i] / theirs[i]
	}
	return all
}

func middle(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// tcp sends as much as it can over some connections at once and returns what arrives, in Gbit/s.
func (s *side) tcp(b *testing.B, streams int) float64 {
	b.Helper()
	var listener net.Listener
	require.NoError(b, s.to.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(s.addr.String(), "0"))
		return err
	}))
	defer listener.Close()
	var arrived atomic.Int64
	var group sync.WaitGroup
	var ends []net.Conn
	for range streams {
		var near net.Conn
		require.NoError(b, s.from.Do(func() (err error) {
			near, err = net.Dial("tcp", listener.Addr().String())
			return err
		}))
		far, err := listener.Accept()
		require.NoError(b, err)
		ends = append(ends, near, far)
		group.Go(func() { blast(near, make([]byte, 128<<10)) })
		group.Go(func() { count(far, make([]byte, 128<<10), &arrived, false) })
	}
	rate := perSecond(&arrived)
	for _, end := range ends {
		end.Close()
	}
	group.Wait()
	return rate * 8 / 1e9
}

// udp sends packets of size bytes as fast as it can and returns how many arrive, in thousands a second.
func (s *side) udp(b *testing.B, size int) float64 {
	b.Helper()
	var far *net.UDPConn
	require.NoError(b, s.to.Do(func() (err error) {
		far, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.addr, 0)))
		return err
	}))
	var near net.Conn
	require.NoError(b, s.from.Do(func() (err error) {
		near, err = net.Dial("udp", far.LocalAddr().String())
		return err
	}))
	var arrived atomic.Int64
	var group sync.WaitGroup
	group.Go(func() { blast(near, make([]byte, size)) })
	group.Go(func() { count(far, make([]byte, 2048), &arrived, true) })
	rate := perSecond(&arrived)
	near.Close()
	far.Close()
	group.Wait()
	return rate / 1e3
}

func perSecond(n *atomic.Int64) float64 {
	time.Sleep(warming)
	before, start := n.Load(), time.Now()
	time.Sleep(measuring)
	return float64(n.Load()-before) / time.Since(start).Seconds()
}

// blast writes until the connection is closed, whatever becomes of it meanwhile.
func blast(to io.Writer, data []byte) {
	for {
		if _, err := to.Write(data); errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// count reads until the connection is closed, and adds up bytes or packets.
func count(from io.Reader, into []byte, n *atomic.Int64, packets bool) {
	for {
		got, err := from.Read(into)
		if err != nil {
			return
		}
		if packets {
			got = 1
		}
		n.Add(int64(got))
	}
}
