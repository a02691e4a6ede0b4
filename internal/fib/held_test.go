package fib

import (
	"maps"
	"runtime"
	"slices"
	"testing"
	"weak"

	"github.com/stretchr/testify/assert"

	"github.com/podweft/podweft/internal/nl"
)

// numbered is an entry of a listing: what stands at key.
type numbered struct{ key, value int }

// TestListing: whatever was listed before, the result is what is listed now, and it is taken over when it may be.
func TestListing(t *testing.T) {
	one, two, three, other := numbered{1, 10}, numbered{2, 20}, numbered{3, 30}, numbered{2, 21}
	tests := []struct {
		name      string
		last, now []numbered
		written   bool // since the last listing
		anew      bool // something else is wanted than at the last listing
		again     int  // how much of it is listed before the kernel begins anew
		takenOver bool
		doubles   int
	}{
		{name: "first", now: []numbered{one, two}},
		{name: "as before", last: []numbered{one, two, three}, now: []numbered{one, two, three}, takenOver: true},
		{name: "nothing as before", takenOver: true},
		{name: "written meanwhile", last: []numbered{one, two}, now: []numbered{one, two}, written: true},
		{name: "something else wanted", last: []numbered{one, two}, now: []numbered{one, two}, anew: true},
		{name: "another order", last: []numbered{one, two, three}, now: []numbered{one, three, two}},
		{name: "one changed", last: []numbered{one, two, three}, now: []numbered{one, other, three}},
		{name: "one less", last: []numbered{one, two, three}, now: []numbered{one, two}},
		{name: "one more", last: []numbered{one, two}, now: []numbered{one, two, three}},
		{name: "all gone", last: []numbered{one, two}},
		{name: "one twice", last: []numbered{one, two}, now: []numbered{one, one, two}, doubles: 1},
		{name: "one twice, as before", last: []numbered{one, one, two}, now: []numbered{one, one, two}, takenOver: true},
		{name: "begun anew", last: []numbered{one, two, three}, now: []numbered{one, two, three}, again: 2, takenOver: true},
		{name: "begun anew when different", last: []numbered{three, two}, now: []numbered{one, other, three}, again: 2},
		{name: "begun anew, with one twice", now: []numbered{one, one, two}, again: 2, doubles: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := map[int]int{1: 10, 2: 20}
			doubles := 0
			put := func(h *held[int, numbered], v numbered) {
				if _, more := h.at[v.key]; more {
					doubles++
					return
				}
				h.store(v.key, v, want[v.key] == v.value)
			}
			reset := func() { doubles = 0 }
			read := func(last *held[int, numbered], again bool, begun int, entries []numbered) *held[int, numbered] {
				l := list(2, last, again, put, reset)
				restart := l.restart()
				restart()
				for _, v := range entries[:begun] {
					l.next(v)
				}
				restart()
				for _, v := range entries {
					l.next(v)
				}
				return l.end()
			}
			var last *held[int, numbered]
			if tt.name != "first" {
				last = read(nil, false, 0, tt.last)
			}
			if tt.written {
				last.keep(9, numbered{9, 90}, true)
			}
			before := heldMap(last)

			got := read(last, last != nil && !tt.anew, tt.again, tt.now)

			first, agreed := map[int]numbered{}, 0
			for _, v := range slices.Backward(tt.now) {
				first[v.key] = v
			}
			for _, v := range first {
				if want[v.key] == v.value {
					agreed++
				}
			}
			assert.Equal(t, first, got.at)
			assert.Equal(t, agreed, got.agreed)
			assert.Equal(t, tt.doubles, doubles)
			assert.Equal(t, tt.now, slices.Clone(got.listed))
			assert.Equal(t, tt.takenOver, got == last)
			assert.False(t, got.written)
			assert.Equal(t, before, heldMap(last), "somebody may look at it meanwhile")
		})
	}
}

func heldMap(h *held[int, numbered]) map[int]numbered {
	if h == nil {
		return nil
	}
	return maps.Clone(h.at)
}

// TestResyncTakesOver: what is as it was is not compared again, and what somebody changed is found all the same, also after our own
// writes.
func TestResyncTakesOver(t *testing.T) {
	m := newMachine(t)
	entries := m.peers(10)
	m.apply(t, entries...)
	read := func() *state {
		plan, err := m.table.Resync(t.Context(), m.scope)
		assert.NoError(t, err)
		assert.Empty(t, plan.String())
		return m.table.have
	}
	before := weak.Make(m.table.have)
	defer func() {
		runtime.GC()
		assert.Nil(t, before.Value(), "a state that nobody needs is kept")
	}()
	first := *read() // the shadow of the writes is replaced
	second := *read()
	assert.Same(t, first.neighbors, second.neighbors)
	assert.Same(t, first.forwards, second.forwards)
	assert.Same(t, first.nexthops, second.nexthops)
	assert.Same(t, first.routes, second.routes)

	for range 2 {
		for i, e := range entries {
			m.must(t, func(b *nl.Batch) {
				b.DeleteNeighbor(e.Neighbors[0].NeighborKey)
				b.DeleteForward(e.Forwards[0])
				b.DeleteRoute(m.kernel(t).routes.at[e.Routes[0].key()])
			})
			plan, err := m.table.Resync(t.Context(), m.scope)
			assert.NoError(t, err)
			assert.Len(t, plan, 3, "peer %d", i)
			m.requireInSync(t, entries...)
		}
		read()
	}
}
