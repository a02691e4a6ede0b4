package storetest

import (
	"context"
	"reflect"
	"runtime"
	"slices"
	"strings"

	"github.com/podweft/podweft/subnet"
)

var watchTests = []check{
	{"watch first snapshot", watchFirst},
	{"watch changes", watchChanges},
	{"watch network", watchNetwork},
	{"watchers all see", watchersAllSee},
	{"watch ends with its context", watchEnds},
	{"watch after reconnect", watchReconnect},
}

func watchFirst(h *harness) {
	s := h.store(fourDual)
	if empty := h.now(s); len(empty.Leases) != 0 || !empty.Network.Equal(h.network(fourDual)) {
		h.Fatalf("want a snapshot with the network and no lease, got %+v", empty)
	}
	var want []*subnet.Lease
	for i := range 4 {
		want = append(want, h.acquire(s, node(i)))
	}
	shown := h.now(h.another(s))
	if !slices.IsSortedFunc(shown.Leases, func(a, b *subnet.Lease) int { return strings.Compare(a.Key, b.Key) }) {
		h.Fatalf("the leases are not sorted by Key: %v", shown.Leases)
	}
	if len(shown.Leases) != len(want) || len(shown.Problems) != 0 {
		h.Fatalf("want %d leases and no problem, got %v, %v", len(want), shown.Leases, shown.Problems)
	}
	for _, l := range shown.Leases {
		if l.Revision > shown.Revision {
			h.Fatalf("a lease of revision %d in a snapshot of revision %d", l.Revision, shown.Revision)
		}
	}
	for _, w := range want {
		l := shown.Lease(w.Node)
		if l == nil || l.Key != w.Key || l.Prefixes != w.Prefixes || l.Underlay != w.Underlay || l.Backend != w.Backend || !l.Data.Equal(w.Data) {
			h.Fatalf("want %+v in the snapshot, got %+v", w, l)
		}
	}
}

func watchChanges(h *harness) {
	s := h.store(four)
	w := h.watch(h.another(s))
	w.until("no lease", func(s *subnet.Snapshot) bool { return len(s.Leases) == 0 })

	a := h.acquire(s, node(1))
	first := w.until("a new lease", holds("node-1"))
	copied := *first.Lease("node-1")

	b := h.acquire(s, node(2))
	second := w.until("a second lease", holds("node-2"))
	if h.leaseOf(second, "node-1") != first.Lease("node-1") {
		h.Fatal("a lease that did not change is not the same *Lease in the next snapshot")
	}
	if h.leaseOf(second, "node-2").Revision == copied.Revision {
		h.Fatalf("two leases changed at the same revision %d", copied.Revision)
	}

	moved := *a
	moved.Underlay = underlay(50)
	_, err := s.Update(h.Context(), &moved)
	h.ok(err, "Update")
	third := w.until("the new address", at("node-1", moved.Underlay))
	if h.leaseOf(third, "node-1").Revision == copied.Revision {
		h.Fatalf("a lease changed and kept its revision %d", copied.Revision)
	}
	if h.leaseOf(third, "node-2") != second.Lease("node-2") {
		h.Fatal("a lease that did not change is not the same *Lease in the next snapshot")
	}

	h.release(s, b)
	w.until("the released lease gone", lacks("node-2"))
	if len(first.Leases) != 1 || !reflect.DeepEqual(*first.Lease("node-1"), copied) {
		h.Fatalf("an old snapshot changed: %+v", first.Leases)
	}
	w.stop()
}

func watchNetwork(h *harness) {
	if h.cfg.SetNetwork == nil {
		h.Skip("no storetest.Config.SetNetwork")
	}
	s := h.store(four)
	w := h.watch(s)
	w.until("the first network", func(s *subnet.Snapshot) bool { return s.Network.Equal(h.network(four)) })
	h.cfg.SetNetwork(h.T, s, h.network(fiftyV6))
	w.until("the second network", func(s *subnet.Snapshot) bool { return s.Network.Equal(h.network(fiftyV6)) })
	w.stop()
}

func watchersAllSee(h *harness) {
	s := h.store(fifty)
	clients := [...]subnet.Store{s, h.another(s), s}
	var watchers []*watcher
	for _, c := range clients {
		watchers = append(watchers, h.watch(c))
	}
	h.all(s, 10, node)
	l := h.acquire(s, node(99))
	h.release(s, l)
	for i, w := range watchers {
		w.until("all ten leases and not the released one", func(s *subnet.Snapshot) bool {
			return len(s.Leases) == 10 && s.Lease("node-99") == nil
		})
		if i > 0 && !reflect.DeepEqual(keys(w.last), keys(watchers[0].last)) {
			h.Fatalf("two watchers see different leases: %v, %v", keys(watchers[0].last), keys(w.last))
		}
	}
	for _, w := range watchers {
		w.stop()
	}
}

func keys(s *subnet.Snapshot) (keys []string) {
	for _, l := range s.Leases {
		keys = append(keys, l.Key)
	}
	return keys
}

func watchEnds(h *harness) {
	s := h.store(four)
	h.now(s) // what the store keeps for itself is there now
	before := runtime.NumGoroutine()
	var watchers []*watcher
	for range 5 {
		w := h.watch(s)
		w.until("no lease", func(s *subnet.Snapshot) bool { return len(s.Leases) == 0 })
		watchers = append(watchers, w)
	}
	for _, w := range watchers {
		w.stop()
	}
	h.now(s) // breaks out of its loop
	h.noMoreGoroutines(before)

	over, cancel := context.WithCancel(h.Context())
	cancel()
	for snapshot, err := range s.Watch(over) {
		h.Fatalf("a watch whose context has ended yielded %v, %v", snapshot, err)
	}
}

func watchReconnect(h *harness) {
	s := h.store(fifty)
	other := h.another(s)
	gone, stays, moves := h.acquire(s, node(1)), h.acquire(s, node(2)), h.acquire(s, node(3))
	w := h.watch(s)
	w.until("three leases", func(s *subnet.Snapshot) bool { return len(s.Leases) == 3 })

	meanwhile := func() {
		h.release(other, gone)
		moves.Underlay = underlay(33)
		_, err := other.Update(h.Context(), moves)
		h.ok(err, "Update through another client")
		h.acquire(other, node(4))
	}
	if h.cfg.Disconnect == nil {
		w.stop()
		meanwhile()
	} else {
		h.cfg.Disconnect(h.T, s, meanwhile)
		if w.ended() == nil {
			h.Fatal("a watch whose connection broke ended without an error")
		}
	}

	again := h.watch(s)
	shown := again.until("the first snapshot", func(*subnet.Snapshot) bool { return true })
	switch {
	case shown.Lease("node-1") != nil:
		h.Fatal("a lease released while the watch was away is still shown")
	case shown.Lease("node-4") == nil:
		h.Fatal("a lease claimed while the watch was away is not shown")
	case h.leaseOf(shown, "node-3").Underlay != underlay(33):
		h.Fatal("a lease changed while the watch was away is shown as it was before")
	case h.leaseOf(shown, "node-2").Prefixes != stays.Prefixes:
		h.Fatalf("want %s as it was, got %v", stays, h.leaseOf(shown, "node-2"))
	}
	h.acquire(s, node(5))
	again.until("a change after the reconnect", holds("node-5"))
	again.stop()
}
