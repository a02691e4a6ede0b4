package nl

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/testnet"
)

// watch runs Watch in the node until the test ends, which then waits for it. It returns once Watch listens.
func watch(t *testing.T, n *testnet.Node, e Events) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	listening, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- Watch(ctx, n.NetNS(), e, func() { close(listening) }) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	select {
	case <-listening:
	case err := <-done:
		require.NoError(t, err)
		require.Fail(t, "ended")
	}
}

// told collects events as text.
type told chan string

func (e told) say(format string, args ...any) { e <- fmt.Sprintf(format, args...) }

// await skips events until want comes.
func (e told) await(t *testing.T, want string) {
	t.Helper()
	var others []string
	timeout := time.After(patience)
	for {
		select {
		case got := <-e:
			if got == want {
				return
			}
			others = append(others, got)
		case <-timeout:
			require.Fail(t, "event did not come", "want %q, came %q", want, others)
		}
	}
}

// all says every event; only those of the link called vx are of interest among neighbours.
func (e told) all(vx int) Events {
	op := func(deleted bool) string {
		if deleted {
			return "-"
		}
		return "+"
	}
	return Events{
		Link:     func(index int, name string) { e.say("link %d %s", index, name) },
		Address:  func(link int) { e.say("address of %d", link) },
		Neighbor: func(n Neighbor, deleted bool) { e.say("%s neighbour %s %s", op(deleted), n.Addr, n.MAC) },
		Forward:  func(f Forward, deleted bool) { e.say("%s forward %s %s", op(deleted), f.MAC, f.To) },
		OfLink:   func(link int) bool { return link == vx },
		Route:    func(r Route, deleted bool) { e.say("%s route %s proto %d", op(deleted), r.Prefix, r.Protocol) },
		Nexthop:  func(nh Nexthop, deleted bool) { e.say("%s nexthop %d via %s", op(deleted), nh.ID, nh.Gateway) },
		Lost:     func() { e.say("lost") },
	}
}

func TestWatchTellsEveryKind(t *testing.T) {
	n, c, eth0 := newNode(t)
	vx := newVTEP(t, c, n.V4, eth0)
	events := make(told, 1000)
	watch(t, n, events.all(vx))
	mac := podweft.MAC{0x0e, 2, 0, 0, 0, 1}
	neighbor := Neighbor{NeighborKey{vx, netip.MustParseAddr("10.9.0.0")}, mac}
	forward := Forward{ForwardKey: ForwardKey{vx, mac}, To: netip.MustParseAddr("192.0.2.9")}
	nexthop := Nexthop{ID: 1 << 30, Protocol: protocol, Gateway: netip.MustParseAddr("10.9.0.0"), Link: vx, Onlink: true}
	for _, tt := range []struct {
		name string
		do   func(b *Batch)
		want string
	}{
		{"link", func(b *Batch) { b.SetMTU(vx, 1400) }, fmt.Sprintf("link %d vx", vx)},
		{"address", func(b *Batch) { b.AddAddress(Address{Link: vx, Prefix: netip.MustParsePrefix("10.1.0.0/32")}) }, fmt.Sprintf("address of %d", vx)},
		{"IPv6 address", func(b *Batch) { b.AddAddress(Address{Link: vx, Prefix: netip.MustParsePrefix("fd00:1::/128")}) }, fmt.Sprintf("address of %d", vx)},
		{"neighbour", func(b *Batch) { b.SetNeighbor(neighbor) }, "+ neighbour 10.9.0.0 0e:02:00:00:00:01"},
		{"forward", func(b *Batch) { b.SetForward(forward) }, "+ forward 0e:02:00:00:00:01 192.0.2.9"},
		{"nexthop", func(b *Batch) { b.AddNexthop(nexthop) }, "+ nexthop 1073741824 via 10.9.0.0"},
		{"route", func(b *Batch) { b.AddRoute(routeTo(7, eth0, false)) }, "+ route 10.0.7.0/24 proto 250"},
		{"IPv6 route", func(b *Batch) { b.AddRoute(routeTo(7, eth0, true)) }, "+ route fd00:0:0:7::/64 proto 250"},
		{"route gone", func(b *Batch) { b.DeleteRoute(routeTo(7, eth0, false)) }, "- route 10.0.7.0/24 proto 250"},
		{"nexthop gone", func(b *Batch) { b.DeleteNexthop(nexthop.ID) }, "- nexthop 1073741824 via 10.9.0.0"},
		{"forward gone", func(b *Batch) { b.DeleteForward(forward) }, "- forward 0e:02:00:00:00:01 192.0.2.9"},
		{"neighbour gone", func(b *Batch) { b.DeleteNeighbor(neighbor.NeighborKey) }, "- neighbour 10.9.0.0 00:00:00:00:00:00"},
		{"link gone", func(b *Batch) { b.DeleteLink(vx) }, fmt.Sprintf("link %d vx", vx)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for len(events) > 0 {
				<-events
			}
			require.Nil(t, c.do(t, tt.do))
			events.await(t, tt.want)
		})
	}
}

// TestWatchTellsOfMadeTemporary: a permanent neighbour that somebody makes temporary is as good as deleted.
func TestWatchTellsOfMadeTemporary(t *testing.T) {
	n, c, eth0 := newNode(t)
	vx := newVTEP(t, c, n.V4, eth0)
	neighbor := Neighbor{NeighborKey{vx, netip.MustParseAddr("10.9.0.0")}, podweft.MAC{0x0e, 2, 0, 0, 0, 1}}
	events := make(told, 1000)
	watch(t, n, events.all(vx))
	require.Nil(t, c.do(t, func(b *Batch) {
		b.SetNeighbor(neighbor)
		b.add(unix.RTM_NEWNEIGH, unix.NLM_F_REPLACE, func(m *message) {
			m.ndmsg(unix.AF_INET, vx, unix.NUD_STALE, 0)
			m.addr(unix.NDA_DST, neighbor.Addr)
			m.hardware(neighbor.MAC)
		})
	}))
	events.await(t, "+ neighbour 10.9.0.0 0e:02:00:00:00:01")
	events.await(t, "- neighbour 10.9.0.0 0e:02:00:00:00:01")
}

func TestWatchFiltersNeighboursByLink(t *testing.T) {
	n, c, eth0 := newNode(t)
	vx := newVTEP(t, c, n.V4, eth0)
	events := make(told, 1000)
	watch(t, n, events.all(vx))
	mac := podweft.MAC{0x0e, 2, 0, 0, 0, 1}
	require.Nil(t, c.do(t, func(b *Batch) {
		b.SetNeighbor(Neighbor{NeighborKey{eth0, netip.MustParseAddr("192.0.2.50")}, mac})
		b.SetNeighbor(Neighbor{NeighborKey{vx, netip.MustParseAddr("10.9.0.0")}, mac})
	}))
	assert.Equal(t, "+ neighbour 10.9.0.0 0e:02:00:00:00:01", <-events, "the first to come")
}

// TestWatchListensOnlyToWhatItIsAsked leaves out functions: their events would otherwise be calls of nil.
func TestWatchListensOnlyToWhatItIsAsked(t *testing.T) {
	n, c, eth0 := newNode(t)
	vx := newVTEP(t, c, n.V4, eth0)
	events := make(told, 1000)
	all := events.all(vx)
	watch(t, n, Events{Forward: all.Forward, OfLink: all.OfLink, Lost: all.Lost})
	mac := podweft.MAC{0x0e, 2, 0, 0, 0, 1}
	require.Nil(t, c.do(t, func(b *Batch) {
		b.SetMTU(vx, 1400)
		b.AddRoute(routeTo(1, eth0, false))
		b.AddNexthop(nexthopOf(1, vx))
		b.AddAddress(Address{Link: vx, Prefix: netip.MustParsePrefix("10.1.0.0/32")})
		b.SetNeighbor(Neighbor{NeighborKey{vx, netip.MustParseAddr("10.9.0.0")}, mac})
		b.SetForward(Forward{ForwardKey: ForwardKey{vx, mac}, To: netip.MustParseAddr("192.0.2.9")})
	}))
	assert.Equal(t, "+ forward 0e:02:00:00:00:01 192.0.2.9", <-events)
}

func TestWatchEnds(t *testing.T) {
	n, _, _ := newNode(t)
	t.Run("before it began", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		assert.NoError(t, Watch(ctx, n.NetNS(), Events{Lost: func() {}}, func() {}))
	})
	t.Run("from a callback", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		assert.NoError(t, Watch(ctx, n.NetNS(), Events{Lost: func() {}}, cancel))
	})
	t.Run("while nothing happens", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		assert.NoError(t, Watch(ctx, n.NetNS(), Events{Lost: func() {}}, func() { time.AfterFunc(10*time.Millisecond, cancel) }))
	})
	t.Run("nowhere", func(t *testing.T) {
		err := Watch(t.Context(), "/run/netns/no-such-namespace", Events{}, func() { t.Error("listens") })
		assert.ErrorIs(t, err, unix.ENOENT)
		assert.ErrorContains(t, err, "open netlink notifications")
	})
}

// TestOverflowIsTold floods a Watch that does not read, until the kernel drops messages. What happens from the moment that Lost
// is called on must be told again: whoever then reads the kernel and believes what it has read relies on it.
func TestOverflowIsTold(t *testing.T) {
	n, c, eth0 := newNode(t)
	const last = 65535
	var blocked, lost atomic.Bool
	blocked.Store(true)
	release := make(chan struct{})
	afterwards := make(chan struct{}, 1)
	watch(t, n, Events{
		Route: func(r Route, _ bool) {
			if blocked.CompareAndSwap(true, false) {
				<-release
			}
			if r.Prefix == routeTo(last, 0, false).Prefix {
				afterwards <- struct{}{}
			}
		},
		Lost: func() {
			if !lost.CompareAndSwap(false, true) {
				return
			}
			assert.Nil(t, c.do(t, func(b *Batch) { b.AddRoute(routeTo(last, eth0, false)) }))
		},
	})
	var add, del Batch
	for i := range 4000 {
		add.AddRoute(routeTo(i, eth0, true))
		del.DeleteRoute(routeTo(i, eth0, true))
	}
	for range 4 { // 32,000 messages of some 1 KiB each, bookkeeping included: the buffer has at most 8 MiB
		require.Nil(t, c.Do(t.Context(), &add))
		require.Nil(t, c.Do(t.Context(), &del))
	}
	close(release)
	require.Eventually(t, lost.Load, patience, time.Millisecond, "nothing was lost, or nobody was told")
	select {
	case <-afterwards:
	case <-time.After(patience):
		require.Fail(t, "what happened after Lost was never told")
	}
}
