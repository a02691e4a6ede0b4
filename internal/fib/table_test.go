package fib

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

func TestApply(t *testing.T) {
	m := newMachine(t)
	entries := append(m.peers(20), m.direct(100, false), m.direct(101, true))
	want := m.plan(t, entries...).String()
	assert.Equal(t, want, m.apply(t, entries...), "Plan said what Apply did")
	m.requireInSync(t, entries...)
	assert.Empty(t, m.apply(t, entries...), "the second time")

	k := m.kernel(t)
	assert.Len(t, k.routes.at, 22)
	assert.Len(t, k.nexthops.at, 22)
	assert.Len(t, k.neighbors.at, 20)
	assert.Len(t, k.forwards.at, 20)

	assert.Empty(t, New(m.dial(t), m.mark, nil).planOf(t, m.scope, entries), "a restart changes nothing")
	m.apply(t)
	assert.Equal(t, nothing(), m.kernel(t), "nothing is left")
}

func (t *Table) planOf(tb testing.TB, scope Scope, entries []Entry) string {
	tb.Helper()
	plan, err := t.Apply(tb.Context(), scope, entries)
	require.NoError(tb, err)
	return plan.String()
}

// TestSweepsOnlyWhatIsOurs: everything permanent on the link that is ours, and elsewhere what bears our mark.
func TestSweepsOnlyWhatIsOurs(t *testing.T) {
	m := newMachine(t)
	entries := m.peers(2)
	m.apply(t, entries...)
	mac := podweft.MAC{2, 2, 2, 2, 2, 2}
	theirs := nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.MustParsePrefix("10.99.0.0/24")}, Protocol: someone, Link: m.eth0}
	noObject := theirs // our protocol, but through no nexthop of ours
	noObject.Prefix, noObject.Protocol = netip.MustParsePrefix("10.98.0.0/24"), m.mark.Protocol
	theirNexthop := nl.Nexthop{ID: 77, Protocol: m.mark.Protocol, Gateway: m.neighborOf(50, false), Link: m.eth0}
	elsewhere := nl.Neighbor{NeighborKey: nl.NeighborKey{Link: m.eth0, Addr: m.neighborOf(51, false)}, MAC: mac}
	m.must(t, func(b *nl.Batch) {
		b.AddRoute(theirs)
		b.AddRoute(noObject)
		b.AddNexthop(theirNexthop)
		b.SetNeighbor(elsewhere)
		// Strays on the link that is ours:
		b.SetNeighbor(nl.Neighbor{NeighborKey: nl.NeighborKey{Link: m.vx, Addr: netip.MustParseAddr("10.97.0.0")}, MAC: mac})
		b.SetForward(nl.Forward{ForwardKey: nl.ForwardKey{Link: m.vx, MAC: mac}, To: m.neighborOf(52, false)})
	})
	assert.Equal(t, lines(
		"- fdb 02:02:02:02:02:02 dev vx dst 192.0.2.52 self permanent",
		"- neighbour 10.97.0.0 lladdr 02:02:02:02:02:02 dev vx permanent",
	), m.apply(t, entries...))
	m.apply(t)
	m.must(t, func(b *nl.Batch) { // fails unless all are there
		b.DeleteRoute(theirs)
		b.DeleteRoute(noObject)
		b.DeleteNexthop(theirNexthop.ID)
		b.DeleteNeighbor(elsewhere.NeighborKey)
	})
}

// TestSpareEntriesGo: a second nexthop object with the gateway of another, and what floods unknown MACs to several places. (Of a
// MAC that is one station's the kernel keeps one destination only, vxlan_fdb_update_existing in drivers/net/vxlan.)
func TestSpareEntriesGo(t *testing.T) {
	m := newMachine(t)
	e := m.peer(1, false)
	m.apply(t, e)
	double := nl.Nexthop{ID: m.mark.First + 500, Protocol: m.mark.Protocol, Gateway: e.Routes[0].Gateway, Link: m.vx, Onlink: true}
	m.must(t, func(b *nl.Batch) { b.AddNexthop(double) })
	flood := nl.ForwardKey{Link: m.vx}
	for i := range 3 {
		m.appendForward(t, nl.Forward{ForwardKey: flood, To: m.neighborOf(70+i, false)})
	}
	require.Len(t, m.kernel(t).spare, 2)
	plan := m.plan(t, e)
	require.Len(t, plan, 4, plan.String())
	for _, c := range plan {
		assert.Equal(t, podweft.Delete, c.Op)
	}
	m.apply(t, e)
	m.requireInSync(t, e)
	k := m.kernel(t)
	assert.Empty(t, k.spare)
	assert.Empty(t, k.doubles)
	assert.Len(t, k.routes.at, 1, "the route goes on through the nexthop that stayed")
}

// TestConflicts: another program's route in a place that we want is named and stays, if it wins against ours.
func TestConflicts(t *testing.T) {
	blackhole := func(r nl.Route) nl.Route {
		r.Type, r.Link = unix.RTN_BLACKHOLE, 0
		return r
	}
	for _, tt := range []struct {
		name     string
		v6       bool
		metric   uint32 // of ours
		theirs   uint32
		change   func(nl.Route) nl.Route
		conflict bool
	}{
		{name: "IPv4, same metric", conflict: true},
		{name: "IPv4, higher metric", theirs: 100},
		{name: "IPv4, ours has a metric and theirs none", metric: 50, conflict: true},
		{name: "IPv4, both have a metric, theirs the lower", metric: 50, theirs: 49, conflict: true},
		{name: "IPv4, both have a metric, ours the lower", metric: 50, theirs: 51},
		{name: "IPv4, blackhole", change: blackhole, conflict: true},
		{name: "IPv6, same metric", v6: true, theirs: 1024, conflict: true},
		{name: "IPv6, lower metric", v6: true, theirs: 256, conflict: true},
		{name: "IPv6, higher metric", v6: true, theirs: 2048},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			e, fine := m.peer(1, tt.v6), m.peer(2, tt.v6)
			e.Routes[0].Metric = tt.metric
			theirs := m.theirs(e, tt.theirs)
			if tt.change != nil {
				theirs = tt.change(theirs)
			}
			m.must(t, func(b *nl.Batch) { b.AddRoute(theirs) })
			plan, err := m.table.Apply(t.Context(), m.scope, []Entry{e, fine})
			require.NoError(t, err)
			if !tt.conflict {
				require.NoError(t, plan.Err())
				m.requireInSync(t, e, fine)
				assert.Regexp(t, `stands behind ours.* route="route `+theirs.Prefix.String()+` .*metric \d+ proto static"\n$`, m.log.said())
				m.apply(t, e, fine)
				assert.Empty(t, m.log.said(), "it is told of once")
				return
			}
			require.ErrorIs(t, plan.Err(), podweft.ErrConflict)
			failed := slices.Collect(firsts(plan))
			require.Len(t, failed, 1, "the rest is made")
			assert.ErrorContains(t, failed[0].Err, "create route "+e.Routes[0].Prefix.String()+" via")
			assert.ErrorContains(t, failed[0].Err, ": another program's object is in the way: route "+e.Routes[0].Prefix.String())
			assert.ErrorContains(t, failed[0].Err, "proto static")
			m.must(t, func(b *nl.Batch) { b.DeleteRoute(theirs) }) // it is there
			assert.Contains(t, m.apply(t, e, fine), "+ route "+e.Routes[0].Prefix.String())
			m.requireInSync(t, e, fine)
		})
	}
}

// firsts yields the failed changes.
func firsts(plan podweft.Plan) func(yield func(podweft.Change) bool) {
	return func(yield func(podweft.Change) bool) {
		for c := range plan.Failed() {
			if !yield(c) {
				return
			}
		}
	}
}

// TestSurprise: a Change that meets another program's route, of which it has not read, reads and names it. What it had made
// before is in its plan.
func TestSurprise(t *testing.T) {
	m := newMachine(t)
	m.apply(t, m.peer(1, false))
	e, fine := m.peer(2, false), m.peer(3, true)
	m.must(t, func(b *nl.Batch) { b.AddRoute(m.theirs(e, 0)) })
	reads := m.table.Reads()
	plan, err := m.table.Change(t.Context(), m.scope, nil, []Entry{e, fine})
	require.NoError(t, err)
	assert.Equal(t, reads+1, m.table.Reads())
	failed := slices.Collect(firsts(plan))
	require.Len(t, failed, 1, plan.String())
	assert.ErrorIs(t, failed[0].Err, podweft.ErrConflict)
	assert.Equal(t, lines(
		"+ neighbour 10.0.2.0 lladdr 0e:04:00:00:00:02 dev vx permanent",
		"+ neighbour fe80::3 lladdr 0e:06:00:00:00:03 dev vx permanent",
		"+ fdb 0e:04:00:00:00:02 dev vx dst 198.18.0.2 self permanent",
		"+ fdb 0e:06:00:00:00:03 dev vx dst 198.18.0.3 self permanent",
	), plan[:4].String())
	assert.Len(t, plan, 4+2+2, "and two nexthops and two routes, each once:\n%s", plan)
}

// TestIdTakenByAnother: another program's nexthop has the id that we are about to use.
func TestIdTakenByAnother(t *testing.T) {
	m := newMachine(t)
	m.apply(t, m.peer(1, false))
	taken := nl.Nexthop{ID: m.mark.First + 1, Protocol: someone, Gateway: m.neighborOf(9, false), Link: m.eth0}
	m.must(t, func(b *nl.Batch) { b.AddNexthop(taken) })
	plan, err := m.table.Change(t.Context(), m.scope, nil, []Entry{m.peer(2, false)})
	require.NoError(t, err)
	require.NoError(t, plan.Err(), "it takes another id")
	m.requireInSync(t, m.peer(1, false), m.peer(2, false))
	m.apply(t)
	m.must(t, func(b *nl.Batch) { b.DeleteNexthop(taken.ID) }) // untouched
}

// TestNexthopIsTheReason: a route that lacks its nexthop object tells why that could not be made.
func TestNexthopIsTheReason(t *testing.T) {
	m := newMachine(t)
	e, fine := m.direct(1, false), m.peer(2, false)
	e.Routes[0].Gateway = netip.MustParseAddr("203.0.113.7") // on no network of eth0's
	for range 2 {
		plan, err := m.table.Apply(t.Context(), m.scope, []Entry{e, fine})
		require.NoError(t, err)
		failed := slices.Collect(firsts(plan))
		require.Len(t, failed, 2)
		for _, c := range failed {
			assert.ErrorIs(t, c.Err, unix.ENETUNREACH)
			assert.ErrorContains(t, c.Err, c.Op.String()+" "+c.Object.String()+": network is unreachable (Nexthop has invalid gateway)")
		}
	}
	// The address that was missing appears, and the same entries work.
	m.must(t, func(b *nl.Batch) {
		b.AddAddress(nl.Address{Link: m.eth0, Prefix: netip.MustParsePrefix("203.0.113.1/24")})
	})
	m.apply(t, e, fine)
	m.requireInSync(t, e, fine)
}

// TestFailedIsTriedAgain: Change tries again what failed earlier, though nobody names it.
func TestFailedIsTriedAgain(t *testing.T) {
	m := newMachine(t)
	e := m.direct(1, true)
	e.Routes[0].Gateway = netip.MustParseAddr("2001:db8:9::7")
	plan, err := m.table.Apply(t.Context(), m.scope, []Entry{e})
	require.NoError(t, err)
	require.Error(t, plan.Err())
	m.must(t, func(b *nl.Batch) {
		b.AddAddress(nl.Address{Link: m.eth0, Prefix: netip.MustParsePrefix("2001:db8:9::1/64")})
	})
	require.Eventually(t, func() bool { // the kernel makes the route to the new network from a work queue
		plan, err = m.table.Change(t.Context(), m.scope, nil, nil)
		require.NoError(t, err)
		return plan.Err() == nil
	}, patience, time.Millisecond)
	m.requireInSync(t, e)
	plan, err = m.table.Change(t.Context(), m.scope, nil, nil)
	require.NoError(t, err)
	assert.Empty(t, plan)
}

// lamp is a driver that lets a test be inside a Loop's pass.
type lamp struct {
	apply func(ctx context.Context) (podweft.Plan, error)
}

func (l lamp) Plan(context.Context, int) (podweft.Plan, error)        { return nil, nil }
func (l lamp) Apply(ctx context.Context, _ int) (podweft.Plan, error) { return l.apply(ctx) }
func (l lamp) Watch(ctx context.Context, changed func()) error {
	changed()
	<-ctx.Done()
	return nil
}

// looped runs apply in passes of a Loop and returns the first n plans. Each but the last calls for the next.
func looped(t *testing.T, n int, apply func(ctx context.Context, pass int) (podweft.Plan, error)) (plans []podweft.Plan) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var loop *podweft.Loop[int]
	loop = podweft.NewLoop(lamp{func(ctx context.Context) (podweft.Plan, error) {
		if len(plans) == n {
			return nil, nil
		}
		plan, err := apply(ctx, len(plans))
		plans = append(plans, plan)
		loop.Set(len(plans))
		if len(plans) == n {
			cancel()
		}
		return plan, err
	}}, podweft.LoopConfig{Coalesce: -1, RetryMin: time.Hour, RetryMax: time.Hour})
	loop.Set(0)
	require.NoError(t, loop.Run(ctx))
	require.Len(t, plans, n)
	return plans
}

// TestHeldObjectsAreLeftAlone: what failed lately is not tried, unless links have moved since.
func TestHeldObjectsAreLeftAlone(t *testing.T) {
	m := newMachine(t)
	e, fine := m.direct(1, false), m.peer(2, false)
	e.Routes[0].Gateway = netip.MustParseAddr("203.0.113.7")
	events := m.table.Events(func() {})
	plans := looped(t, 4, func(ctx context.Context, pass int) (podweft.Plan, error) {
		switch pass {
		case 1:
			m.must(t, func(b *nl.Batch) { b.DeleteNeighbor(fine.Neighbors[0].NeighborKey) })
		case 2:
			events.Address(m.vx + 1) // of no concern
		case 3:
			events.Address(m.eth0)
		}
		return m.table.Apply(ctx, m.scope, []Entry{e, fine})
	})
	held := func(plan podweft.Plan) (n int) {
		for c := range firsts(plan) {
			if assert.ErrorIs(t, c.Err, podweft.ErrHeld) {
				n++
			}
		}
		return n
	}
	require.Len(t, slices.Collect(firsts(plans[0])), 2)
	assert.ErrorIs(t, plans[0].Err(), unix.ENETUNREACH)
	assert.Equal(t, 2, held(plans[1]))
	assert.Len(t, plans[1], 3, "and the neighbour was repaired:\n%s", plans[1])
	assert.Equal(t, 2, held(plans[2]))
	assert.ErrorIs(t, plans[3].Err(), unix.ENETUNREACH, "the links have moved: worth a try")
	assert.NotErrorIs(t, plans[3].Err(), podweft.ErrHeld)
}

// TestEndOfConflictIsNotHeld: nothing was tried while another program's route stood there, so there is nothing to wait for.
func TestEndOfConflictIsNotHeld(t *testing.T) {
	m := newMachine(t)
	e := m.peer(1, false)
	theirs := m.theirs(e, 0)
	m.must(t, func(b *nl.Batch) { b.AddRoute(theirs) })
	plans := looped(t, 3, func(ctx context.Context, pass int) (podweft.Plan, error) {
		if pass == 2 {
			m.must(t, func(b *nl.Batch) { b.DeleteRoute(theirs) })
		}
		return m.table.Apply(ctx, m.scope, []Entry{e})
	})
	assert.ErrorIs(t, plans[0].Err(), podweft.ErrConflict)
	assert.ErrorIs(t, plans[1].Err(), podweft.ErrConflict)
	assert.NoError(t, plans[2].Err())
	m.requireInSync(t, e)
}

// TestWinnerFromBefore: another program's route that was there before anybody wanted its place, and wins by its metric, is found by
// the Change that comes to want it; the kernel itself has no objection. One in no place of ours costs nothing.
func TestWinnerFromBefore(t *testing.T) {
	for _, tt := range []struct {
		name string
		late bool // it comes after the last listing, when nobody wants its place yet
	}{{"listed", false}, {"announced", true}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWatched(t)
			first, e, free := w.peer(1, true), w.peer(3, true), w.peer(5, true)
			theirs := w.theirs(e, 256)
			come := func() { w.must(t, func(b *nl.Batch) { b.AddRoute(theirs) }) }
			if !tt.late {
				come()
			}
			w.calm(t, first)
			if tt.late {
				come()
			}
			w.heard(t)
			reads := w.table.Reads()
			plan, err := w.table.Change(t.Context(), w.scope, nil, []Entry{free})
			require.NoError(t, err)
			require.NoError(t, plan.Err())
			assert.Equal(t, reads, w.table.Reads(), "nothing was there to look for")

			plan, err = w.table.Change(t.Context(), w.scope, nil, []Entry{e})
			require.NoError(t, err)
			assert.ErrorIs(t, plan.Err(), podweft.ErrConflict)
			assert.ErrorContains(t, plan.Err(), theirs.Format("eth0"))
		})
	}
}

// TestOthersAreBounded: a node that has the Internet's routes is not made to remember them all.
func TestOthersAreBounded(t *testing.T) {
	mine := place{nl.TableMain, netip.MustParsePrefix("10.0.0.0/24")}
	o := newOthers(map[place]uint32{mine: 0})
	for i := range mostOthers + 100 {
		o.see(place{nl.TableMain, netip.PrefixFrom(netip.AddrFrom4([4]byte{1, byte(i >> 16), byte(i >> 8), byte(i)}), 32)})
		o.see(place{4242, netip.PrefixFrom(netip.AddrFrom4([4]byte{2, byte(i >> 16), byte(i >> 8), byte(i)}), 32)})
	}
	assert.Len(t, o.places, mostOthers)
	assert.False(t, o.at(mine))
	assert.True(t, o.at(place{nl.TableMain, netip.MustParsePrefix("1.0.0.7/32")}))
	assert.True(t, o.at(place{77, mine.prefix}), "a table that nobody has looked at")
}

// TestRouteNamesItsMissingNexthop: a new route to a gateway that is held back says which one that is.
func TestRouteNamesItsMissingNexthop(t *testing.T) {
	m := newMachine(t)
	e := m.direct(1, false)
	e.Routes[0].Gateway = netip.MustParseAddr("203.0.113.7")
	second := m.direct(2, false)
	second.Routes[0].Gateway = e.Routes[0].Gateway
	plans := looped(t, 2, func(ctx context.Context, pass int) (podweft.Plan, error) {
		return m.table.Apply(ctx, m.scope, []Entry{e, second}[:pass+1])
	})
	last := plans[1][len(plans[1])-1]
	require.Equal(t, "route "+second.Routes[0].Prefix.String(), last.Object.ID())
	assert.ErrorIs(t, last.Err, podweft.ErrHeld)
	assert.ErrorContains(t, last.Err, "via 203.0.113.7 dev eth0: ")
	assert.ErrorContains(t, last.Err, "create nexthop ")
}

// TestGoneIsDeleted: what others have deleted already is no failure.
func TestGoneIsDeleted(t *testing.T) {
	m := newMachine(t)
	entries := m.peers(4)
	m.apply(t, entries...)
	k := m.kernel(t)
	m.must(t, func(b *nl.Batch) {
		for _, nh := range k.nexthops.at {
			b.DeleteNexthop(nh.ID) // their routes go too
		}
		for _, n := range k.neighbors.at {
			b.DeleteNeighbor(n.NeighborKey)
		}
		for _, f := range k.forwards.at {
			b.DeleteForward(f)
		}
	})
	plan, err := m.table.Change(t.Context(), m.scope, entries, nil)
	require.NoError(t, err)
	assert.NoError(t, plan.Err())
	assert.Len(t, plan, 4*4)
	assert.Equal(t, nothing(), m.kernel(t))
}

// TestEndOfContext: what was not sent is reported, not believed.
func TestEndOfContext(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := m.table.Apply(ctx, m.scope, m.peers(2))
	require.ErrorIs(t, err, context.Canceled)
	assert.False(t, m.table.Trusted(m.scope))
	m.apply(t, m.peer(1, false))
	require.True(t, m.table.Trusted(m.scope))
	plan, err := m.table.Change(ctx, m.scope, nil, []Entry{m.peer(2, false)})
	require.NoError(t, err)
	assert.ErrorIs(t, plan.Err(), context.Canceled)
	assert.False(t, m.table.Trusted(m.scope))
	m.apply(t, m.peer(1, false), m.peer(2, false))
	m.requireInSync(t, m.peer(1, false), m.peer(2, false))
}

// TestApplyUnderChurn: listings of IPv6 routes leave some out while others come and go, which the kernel does not say (see nl).
// An Apply that has nothing to do must not fail for it.
func TestApplyUnderChurn(t *testing.T) {
	m := newMachine(t)
	var entries []Entry
	for i := range 1500 {
		if i%4 != 3 {
			entries = append(entries, m.peer(i, true))
		}
	}
	m.apply(t, entries...)
	churn := m.dial(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 3; ctx.Err() == nil; i = (i + 4) % 1500 {
			var b nl.Batch
			r := m.theirs(m.peer(i, true), 0)
			b.AddRoute(r)
			b.DeleteRoute(r)
			assert.Nil(t, churn.Do(context.Background(), &b))
		}
	}()
	for range 20 {
		plan, err := m.table.Apply(t.Context(), m.scope, entries)
		assert.NoError(t, err)
		assert.NoError(t, plan.Err())
	}
	cancel()
	<-done
	m.requireInSync(t, entries...)
}
