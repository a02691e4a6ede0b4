package fib

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// watched is a machine whose Table is told what happens.
type watched struct {
	*machine
	hints   atomic.Uint64
	marker  uint32
	arrived chan uint32
}

// sentinel is where the watched machine puts routes of its own to learn what has been told.
var sentinel = netip.MustParsePrefix("10.255.255.0/24")

func newWatched(t testing.TB) *watched {
	t.Helper()
	w := &watched{machine: newMachine(t), arrived: make(chan uint32, 100)}
	events := w.table.Events(func() { w.hints.Add(1) })
	route := events.Route
	events.Route = func(r nl.Route, deleted bool) {
		if r.Prefix == sentinel && !deleted {
			w.arrived <- r.Metric
			return
		}
		route(r, deleted)
	}
	ctx, cancel := context.WithCancel(context.Background())
	listening, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- nl.Watch(ctx, w.node.NetNS(), events, func() { close(listening) }) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	<-listening
	return w
}

// heard waits until everything that has happened has been told: a socket tells in order.
func (w *watched) heard(t testing.TB) {
	t.Helper()
	w.marker++
	r := nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: sentinel, Metric: w.marker}, Protocol: someone, Link: w.eth0}
	w.must(t, func(b *nl.Batch) {
		b.AddRoute(r)
		b.DeleteRoute(r)
	})
	timeout := time.After(patience)
	for {
		select {
		case metric := <-w.arrived:
			if metric == w.marker {
				return
			}
		case <-timeout:
			require.Fail(t, "the events do not come")
		}
	}
}

// calm applies entries until nothing is announced any more that the Table does not know.
func (w *watched) calm(t testing.TB, entries ...Entry) {
	t.Helper()
	start := time.Now()
	for {
		w.apply(t, entries...)
		w.heard(t)
		if w.table.Trusted(w.scope) {
			return
		}
		require.Less(t, time.Since(start), patience)
	}
}

// TestOwnEchoIsNoNews: what the Table writes is announced like everything else, and must not make it read again.
func TestOwnEchoIsNoNews(t *testing.T) {
	w := newWatched(t)
	entries := append(w.peers(30), w.direct(100, false), w.direct(101, true))
	w.calm(t, entries...)
	hints, reads := w.hints.Load(), w.table.Reads()
	change := func(removed, added []Entry) {
		t.Helper()
		require.True(t, w.table.Trusted(w.scope))
		plan, err := w.table.Change(t.Context(), w.scope, removed, added)
		require.NoError(t, err)
		require.NoError(t, plan.Err())
		require.NotEmpty(t, plan)
		w.heard(t)
	}
	change(nil, []Entry{w.peer(50, false), w.peer(51, true)})
	moved := w.peer(50, false)
	moved.Forwards[0].To = w.neighborOf(50, false)
	change([]Entry{w.peer(50, false)}, []Entry{moved})
	otherMAC := w.peer(51, true)
	otherMAC.Neighbors[0].MAC[5], otherMAC.Forwards[0].MAC[5] = 99, 99
	change([]Entry{w.peer(51, true)}, []Entry{otherMAC})
	change([]Entry{entries[0]}, []Entry{w.direct(1, false)}) // the same prefix by another way
	change([]Entry{moved, otherMAC}, nil)
	change(entries[1:20], nil)
	assert.Equal(t, hints, w.hints.Load())
	assert.Equal(t, reads, w.table.Reads())
	w.requireInSync(t, append(entries[20:], w.direct(1, false))...)
}

// TestForeignChangesAreNoticed: whatever somebody else does to an object that concerns us.
func TestForeignChangesAreNoticed(t *testing.T) {
	mac := podweft.MAC{2, 2, 2, 2, 2, 2}
	for _, v6 := range []bool{false, true} {
		for _, tt := range []struct {
			name string
			do   func(b *nl.Batch, w *watched, e Entry, k *state)
		}{
			{"neighbour deleted", func(b *nl.Batch, w *watched, e Entry, k *state) { b.DeleteNeighbor(e.Neighbors[0].NeighborKey) }},
			{"neighbour changed", func(b *nl.Batch, w *watched, e Entry, k *state) {
				b.SetNeighbor(nl.Neighbor{NeighborKey: e.Neighbors[0].NeighborKey, MAC: mac})
			}},
			{"neighbour added", func(b *nl.Batch, w *watched, e Entry, k *state) {
				b.SetNeighbor(nl.Neighbor{NeighborKey: nl.NeighborKey{Link: w.vx, Addr: w.neighborOf(77, v6)}, MAC: mac})
			}},
			{"forward deleted", func(b *nl.Batch, w *watched, e Entry, k *state) { b.DeleteForward(e.Forwards[0]) }},
			{"forward changed", func(b *nl.Batch, w *watched, e Entry, k *state) {
				b.SetForward(nl.Forward{ForwardKey: e.Forwards[0].ForwardKey, To: w.neighborOf(77, false)})
			}},
			{"forward added", func(b *nl.Batch, w *watched, e Entry, k *state) {
				b.SetForward(nl.Forward{ForwardKey: nl.ForwardKey{Link: w.vx, MAC: mac}, To: w.neighborOf(77, false)})
			}},
			{"route deleted", func(b *nl.Batch, w *watched, e Entry, k *state) { b.DeleteRoute(k.routes.at[e.Routes[0].key()]) }},
			{"route replaced by another program's", func(b *nl.Batch, w *watched, e Entry, k *state) {
				b.ReplaceRoute(w.theirs(e, e.Routes[0].key().Metric))
			}},
			{"route that wins against ours", func(b *nl.Batch, w *watched, e Entry, k *state) {
				if v6 {
					b.AddRoute(w.theirs(e, 256))
					return
				}
				b.ReplaceRoute(w.theirs(e, 0))
			}},
			{"route with our mark added", func(b *nl.Batch, w *watched, e Entry, k *state) {
				r := k.routes.at[e.Routes[0].key()]
				r.Metric = 5000
				b.AddRoute(r)
			}},
			{"nexthop deleted", func(b *nl.Batch, w *watched, e Entry, k *state) { b.DeleteNexthop(k.nexthops.at[e.Routes[0].via()].ID) }},
			{"nexthop added with our mark", func(b *nl.Batch, w *watched, e Entry, k *state) {
				b.AddNexthop(nl.Nexthop{ID: w.mark.First + 999, Protocol: w.mark.Protocol, Gateway: w.neighborOf(77, v6), Link: w.eth0})
			}},
			{"nexthop added in our range", func(b *nl.Batch, w *watched, e Entry, k *state) {
				b.AddNexthop(nl.Nexthop{ID: w.mark.First + 999, Protocol: someone, Gateway: w.neighborOf(77, v6), Link: w.eth0})
			}},
			{"nexthop replaced", func(b *nl.Batch, w *watched, e Entry, k *state) {
				id := k.nexthops.at[e.Routes[0].via()].ID
				b.DeleteNexthop(id)
				b.AddNexthop(nl.Nexthop{ID: id, Protocol: w.mark.Protocol, Gateway: w.neighborOf(77, v6), Link: w.eth0})
			}},
			{"link changed", func(b *nl.Batch, w *watched, e Entry, k *state) { b.SetMTU(w.vx, 1400) }},
			{"link down and up", func(b *nl.Batch, w *watched, e Entry, k *state) {
				b.SetUp(w.vx, false)
				b.SetUp(w.vx, true)
			}},
			{"underlay changed", func(b *nl.Batch, w *watched, e Entry, k *state) { b.SetMTU(w.eth0, 1600) }},
			{"address added", func(b *nl.Batch, w *watched, e Entry, k *state) {
				b.AddAddress(nl.Address{Link: w.eth0, Prefix: netip.MustParsePrefix("203.0.113.1/24")})
			}},
		} {
			name := tt.name + ", IPv4"
			if v6 {
				name = tt.name + ", IPv6"
			}
			t.Run(name, func(t *testing.T) {
				w := newWatched(t)
				e, fine := w.peer(1, v6), w.peer(2, !v6)
				w.calm(t, e, fine)
				hints := w.hints.Load()
				k := w.kernel(t)
				w.must(t, func(b *nl.Batch) { tt.do(b, w, e, k) })
				w.heard(t)
				assert.Greater(t, w.hints.Load(), hints, "nobody was told to look")
				assert.False(t, w.table.Trusted(w.scope), "and the next pass must read")
			})
		}
	}
}

// TestWhatDoesNotConcernUsIsIgnored is the promise that the churn of a node's pods costs no listing.
func TestWhatDoesNotConcernUsIsIgnored(t *testing.T) {
	w := newWatched(t)
	e, e6 := w.peer(1, false), w.peer(2, true)
	w.calm(t, e, e6)
	hints := w.hints.Load()
	mac := podweft.MAC{2, 2, 2, 2, 2, 2}
	for i := range 20 {
		for _, v6 := range []bool{false, true} {
			r := w.theirs(w.peer(500+i, v6), 0)
			n := nl.Neighbor{NeighborKey: nl.NeighborKey{Link: w.eth0, Addr: w.neighborOf(100+i, v6)}, MAC: mac}
			nexthop := nl.Nexthop{ID: uint32(1000 + i), Protocol: w.mark.Protocol, Gateway: w.neighborOf(50, v6), Link: w.eth0}
			behind := w.theirs(map[bool]Entry{false: e, true: e6}[v6], 3000)
			w.must(t, func(b *nl.Batch) {
				b.AddRoute(r)
				b.AddRoute(behind) // in a place of ours, but ours wins
				b.SetNeighbor(n)
				b.AddNexthop(nexthop)
				b.DeleteRoute(r)
				b.DeleteRoute(behind)
				b.DeleteNeighbor(n.NeighborKey)
				b.DeleteNexthop(nexthop.ID)
			})
		}
	}
	w.must(t, func(b *nl.Batch) {
		b.CreateBridge(nl.Link{Name: "br-theirs"})
		b.AddBridge(nl.Link{Name: "br-too", Alias: "theirs"})
	})
	w.heard(t)
	assert.Equal(t, hints, w.hints.Load())
	assert.True(t, w.table.Trusted(w.scope))
}

// TestBehindIsTold: another program's route at a prefix of ours that came later is told of, though nothing has to be done.
func TestBehindIsTold(t *testing.T) {
	w := newWatched(t)
	e, e6 := w.peer(1, false), w.peer(2, true)
	w.calm(t, e, e6)
	require.Empty(t, w.log.said())
	for _, e := range []Entry{e, e6} {
		behind := w.theirs(e, 3000)
		w.must(t, func(b *nl.Batch) { b.AddRoute(behind) })
		w.heard(t)
		assert.Contains(t, w.log.said(), behind.Prefix.String()+" dev link "+fmt.Sprint(w.eth0)+" metric 3000 proto static")
		w.must(t, func(b *nl.Batch) {
			b.DeleteRoute(behind)
			b.AddRoute(behind)
		})
		w.heard(t)
	}
	w.calm(t, e, e6)
	assert.Empty(t, w.log.said(), "each is told of once")
}

// TestFollowsByName: a link that does not exist yet has no index, and an event of no name is nobody's.
func TestFollowsByName(t *testing.T) {
	table := New(nil, testMark, nil)
	hints := 0
	events := table.Events(func() { hints++ })
	table.Follow([]string{"eth0", ""}, Scope{})
	events.Link(7, "eth0")
	assert.Equal(t, 1, hints)
	assert.EqualValues(t, 1, table.Moves())
	assert.True(t, table.Eager())
	events.Link(7, "eth1")
	events.Address(7) // which has no name
	assert.Equal(t, 1, hints)
	table.Follow(nil, Scope{Own: map[int]string{8: "vx"}, Others: map[int]string{7: "eth0"}})
	events.Address(7)
	events.Address(8)
	events.Link(8, "renamed")
	assert.Equal(t, 4, hints)
	assert.EqualValues(t, 4, table.Moves())
}

// TestRenamedWhileLookedAt: a link that was found by its name is renamed before anybody knows that its index matters.
func TestRenamedWhileLookedAt(t *testing.T) {
	table := New(nil, testMark, nil)
	hints := 0
	events := table.Events(func() { hints++ })
	table.Meet([]string{"eth0"})
	events.Link(7, "uplink0") // which was eth0 a moment ago
	events.Link(9, "veth1")
	assert.Zero(t, hints, "not yet known to matter")
	table.Follow([]string{"eth0"}, Scope{Others: map[int]string{7: "eth0"}})
	assert.Equal(t, 1, hints)
	assert.EqualValues(t, 1, table.Moves())
	assert.True(t, table.Eager())
	table.Meet([]string{"eth0"})
	events.Link(9, "veth1")
	table.Follow([]string{"eth0"}, Scope{Others: map[int]string{7: "eth0"}})
	assert.Equal(t, 1, hints, "another's link")
	assert.EqualValues(t, 1, table.Moves())
}

// TestEventsWhileReadingVoidTheShadow: nobody can say whether a listing has them.
func TestEventsWhileReadingVoidTheShadow(t *testing.T) {
	m := newMachine(t)
	e := m.peer(1, false)
	m.apply(t, e)
	hints := 0
	events := m.table.Events(func() { hints++ })
	own := m.kernel(t).routes.at[e.Routes[0].key()]
	events.Route(own, false)
	assert.Zero(t, hints, "as we know it")
	assert.True(t, m.table.Trusted(m.scope))
	m.table.mu.Lock()
	m.table.reading = true
	m.table.mu.Unlock()
	events.Route(own, false)
	assert.Equal(t, 1, hints)
	assert.False(t, m.table.Trusted(m.scope))
}

func TestLostEventsVoidTheShadow(t *testing.T) {
	m := newMachine(t)
	m.apply(t, m.peer(1, false))
	require.True(t, m.table.Trusted(m.scope))
	hints := 0
	m.table.Events(func() { hints++ }).Lost()
	assert.Equal(t, 1, hints)
	assert.False(t, m.table.Trusted(m.scope))
}
