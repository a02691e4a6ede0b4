package fib

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// model drives a Table as a driver under a Loop does, while somebody else interferes, and says in the plainest way what the
// kernel should then hold.
type model struct {
	*watched
	want    map[int]Entry // by peer
	applied map[int]Entry // what the Table was told last; nil before it was told anything
	foreign map[netip.Prefix]nl.Route
	changes int
	t       *testing.T
}

const modelPeers = 8

// variants of one peer: it moves to another underlay address, gets another MAC, or is reached directly.
func (m *model) variant(peer, variant int) Entry {
	v6 := peer%2 == 1
	e := m.peer(peer, v6)
	switch variant {
	case 1:
		e.Forwards[0].To = m.neighborOf(100+peer, false)
	case 2:
		e.Neighbors[0].MAC[5], e.Forwards[0].MAC[5] = byte(100+peer), byte(100+peer)
	case 3:
		return m.direct(peer, v6)
	case 4: // by the gateway that others share
		e = m.direct(peer, v6)
		e.Routes[0].Gateway = m.neighborOf(200, v6)
	case 5: // more than one prefix
		more := m.peer(50+peer, v6)
		more.Routes[0].Gateway = e.Routes[0].Gateway
		e.Routes = append(e.Routes, more.Routes[0])
	}
	return e
}

// pass does what a driver does: the difference where the Table is trusted, else everything.
func (m *model) pass(t *rapid.T) {
	if m.applied == nil || !m.table.Trusted(m.scope) {
		_, err := m.table.Apply(m.t.Context(), m.scope, slices.Collect(maps.Values(m.want)))
		require.NoError(t, err)
	} else {
		var removed, added []Entry
		for i := range modelPeers {
			have, had := m.applied[i]
			want, wanted := m.want[i]
			if had && wanted && fmt.Sprint(have) == fmt.Sprint(want) {
				continue
			}
			if had {
				removed = append(removed, have)
			}
			if wanted {
				added = append(added, want)
			}
		}
		_, err := m.table.Change(m.t.Context(), m.scope, removed, added)
		require.NoError(t, err)
		m.changes++
	}
	m.applied = maps.Clone(m.want)
}

// sabotage does one thing to what the kernel holds of ours.
func (m *model) sabotage(t *rapid.T, b *nl.Batch) {
	k := m.kernel(m.t)
	mac := podweft.MAC{2, 2, 2, 2, 2, 2}
	pick := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "which") }
	switch kind := rapid.IntRange(0, 7).Draw(t, "sabotage"); {
	case kind == 0 && len(k.neighbors.at) > 0:
		b.DeleteNeighbor(slices.SortedFunc(maps.Keys(k.neighbors.at), compareNeighborKeys)[pick(len(k.neighbors.at))])
	case kind == 1 && len(k.neighbors.at) > 0:
		key := slices.SortedFunc(maps.Keys(k.neighbors.at), compareNeighborKeys)[pick(len(k.neighbors.at))]
		b.SetNeighbor(nl.Neighbor{NeighborKey: key, MAC: mac})
	case kind == 2 && len(k.forwards.at) > 0:
		b.DeleteForward(k.forwards.at[slices.SortedFunc(maps.Keys(k.forwards.at), compareForwardKeys)[pick(len(k.forwards.at))]])
	case kind == 3 && len(k.routes.at) > 0:
		b.DeleteRoute(k.routes.at[slices.SortedFunc(maps.Keys(k.routes.at), nl.CompareRouteKeys)[pick(len(k.routes.at))]])
	case kind == 4 && len(k.nexthops.at) > 0:
		b.DeleteNexthop(k.nexthops.at[slices.SortedFunc(maps.Keys(k.nexthops.at), compareVias)[pick(len(k.nexthops.at))]].ID)
	case kind == 5:
		b.SetForward(nl.Forward{ForwardKey: nl.ForwardKey{Link: m.vx, MAC: mac}, To: m.neighborOf(66, false)})
	case kind == 6:
		b.SetUp(m.vx, false)
		b.SetUp(m.vx, true)
	case kind == 7:
		b.AddNexthop(nl.Nexthop{
			ID: m.mark.First + uint32(rapid.IntRange(0, 20).Draw(t, "id")), Protocol: uint8(rapid.SampledFrom([]int{someone, int(m.mark.Protocol)}).Draw(t, "whose")),
			Gateway: m.neighborOf(200, false), Link: m.eth0,
		})
	}
}

// intrude puts another program's route in the place of peer number i. It then waits until the Table has heard of it: a
// ReplaceRoute of ours that is already on its way takes over whatever stands at its key, and the kernel offers no other.
func (m *model) intrude(i int) {
	r := m.theirs(m.peer(i, i%2 == 1), m.peer(i, i%2 == 1).Routes[0].key().Metric)
	if m.try(m.t, func(b *nl.Batch) { b.ReplaceRoute(r) }) == nil {
		m.foreign[r.Prefix] = r
	}
	m.heard(m.t)
}

// settle runs passes until the Table has heard everything and believes it.
func (m *model) settle(t *rapid.T) {
	for range 20 {
		m.pass(t)
		m.heard(m.t)
		if m.table.Trusted(m.scope) {
			return
		}
	}
	t.Fatal("never settles")
}

// check compares the kernel with the plainest idea of it.
func (m *model) check(t *rapid.T) {
	neighbors, forwards, routes, nexthops := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, e := range m.want {
		for _, n := range e.Neighbors {
			neighbors[fmt.Sprint(n)] = true
		}
		for _, f := range e.Forwards {
			forwards[fmt.Sprint(f)] = true
		}
		for _, r := range e.Routes {
			nexthops[fmt.Sprint(r.via())] = true
			if _, blocked := m.foreign[r.Prefix]; !blocked {
				routes[fmt.Sprint(r.key(), r.via())] = true
			}
		}
	}
	k := m.kernel(m.t)
	require.ElementsMatch(t, keys(neighbors), values(k.neighbors.at))
	require.ElementsMatch(t, keys(forwards), values(k.forwards.at))
	require.ElementsMatch(t, keys(nexthops), texts(maps.Keys(k.nexthops.at)))
	require.Empty(t, k.doubles)
	var got []string
	for key, r := range k.routes.at {
		if _, blocked := m.foreign[key.Prefix]; blocked && key.Prefix.Addr().Is6() {
			continue // ours may stay beside it: the kernel replaces a route that has a gateway by none without (fib6_add_rt2node)
		}
		got = append(got, fmt.Sprint(key, via{link: r.Link, gateway: r.Gateway, onlink: r.Onlink}))
	}
	require.ElementsMatch(t, keys(routes), got)
	for _, r := range m.foreign {
		require.Equal(t, []error{unix.EEXIST}, m.try(m.t, func(b *nl.Batch) { b.AddRoute(r) }), "another program's route is gone")
	}
}

func texts[T any](all iter.Seq[T]) (list []string) {
	for v := range all {
		list = append(list, fmt.Sprint(v))
	}
	return list
}

func keys(m map[string]bool) []string                { return slices.Collect(maps.Keys(m)) }
func values[K comparable, V any](m map[K]V) []string { return texts(maps.Values(m)) }

// TestModel lets peers come, go and move, and somebody else add and delete things of every kind. Whether the Table took the
// difference or read everything: at rest the kernel holds what is wanted, and everything of others.
func TestModel(t *testing.T) {
	w := newWatched(t)
	changes := 0
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{watched: w, t: t, want: map[int]Entry{}, foreign: map[netip.Prefix]nl.Route{}}
		m.calm(t)
		defer func() {
			for _, r := range m.foreign {
				m.try(t, func(b *nl.Batch) { b.DeleteRoute(r) })
			}
		}()
		rt.Repeat(map[string]func(*rapid.T){
			"set": func(rt *rapid.T) {
				i := rapid.IntRange(0, modelPeers-1).Draw(rt, "peer")
				m.want[i] = m.variant(i, rapid.IntRange(0, 5).Draw(rt, "variant"))
			},
			"remove": func(rt *rapid.T) { delete(m.want, rapid.IntRange(0, modelPeers-1).Draw(rt, "peer")) },
			"pass":   m.pass,
			"sabotage": func(rt *rapid.T) {
				m.try(t, func(b *nl.Batch) { m.sabotage(rt, b) })
			},
			"another's route comes": func(rt *rapid.T) { m.intrude(rapid.IntRange(0, modelPeers-1).Draw(rt, "peer")) },
			"another's route goes": func(rt *rapid.T) {
				for _, p := range slices.SortedFunc(maps.Keys(m.foreign), netip.Prefix.Compare) {
					m.try(t, func(b *nl.Batch) { b.DeleteRoute(m.foreign[p]) })
					delete(m.foreign, p)
					return
				}
			},
			"": func(rt *rapid.T) {},
		})
		m.settle(rt)
		m.check(rt)
		changes += m.changes
	})
	require.Positive(t, changes, "the difference was never taken")
}
