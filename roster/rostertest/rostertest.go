// Package rostertest tests whether a roster.Store keeps its promises: nodes are known until they are forgotten and alive as long
// as they say so, those who live are in an order that heartbeats do not change, and watches tell of every change, of deaths too.
// Whoever writes a Store runs it from a test of their own:
//
//	func TestStore(t *testing.T) {
//		rostertest.Run(t, rostertest.Config{New: func(t *testing.T) roster.Store { return mystore.New() }})
//	}
//
// It does not test speed, nor what is special to an engine.
package rostertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/subnet"
)

// Config tells [Run] how to make the Store. Only New is required.
type Config struct {
	// New returns a Store over an empty place of its own, such as a fresh directory or key prefix. Each test calls it
	// once; t.Cleanup takes the place away.
	New func(t *testing.T) roster.Store

	// Another returns a second client of s's place, as another node's process has it. nil: s itself serves all nodes.
	Another func(t *testing.T, s roster.Store) roster.Store

	// TTL is how long a node lives in tests that wait for its death. Zero: 200 milliseconds.
	TTL time.Duration

	// Patience is how long a change may take to be seen. Zero: 10 seconds.
	Patience time.Duration
}

// Run tests the Store; each promise is a subtest.
func Run(t *testing.T, cfg Config) {
	if cfg.TTL == 0 {
		cfg.TTL = 200 * time.Millisecond
	}
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	if cfg.Another == nil {
		cfg.Another = func(_ *testing.T, s roster.Store) roster.Store { return s }
	}
	for _, c := range []struct {
		name string
		run  func(h *harness)
	}{
		{"join and read", joinAndRead},
		{"in order", inOrder},
		{"says something new", saysNew},
		{"heartbeat", heartbeat},
		{"death and return", deathAndReturn},
		{"longer life", longerLife},
		{"seniority", seniority},
		{"forget", forget},
		{"forget the dead", forgetDead},
		{"forget who comes back", forgetReturning},
		{"bad node", badNode},
		{"answers are copies", copies},
		{"all at once", allAtOnce},
		{"watch", watch},
		{"context", contextEnds},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := cfg.New(t)
			c.run(&harness{T: t, cfg: cfg, store: s, other: cfg.Another(t, s)})
		})
	}
}

// harness is a testing.T with the words the tests need.
type harness struct {
	*testing.T
	cfg          Config
	store, other roster.Store // two clients of one place
}

// long is a TTL that does not end in a test.
const long = time.Hour

func node(name string) roster.Node {
	return roster.Node{Name: name, Underlay: subnet.Addrs{V4: netip.MustParseAddr("192.0.2.7")}}
}

func full(name string) roster.Node {
	return roster.Node{
		Name: name, Underlay: subnet.Addrs{V4: netip.MustParseAddr("192.0.2.7"), V6: netip.MustParseAddr("2001:db8::7")},
		Backend: "vxlan", Data: subnet.Data{V4: json.RawMessage(`{"VNI":1}`), V6: json.RawMessage(`{"VNI":2}`)},
		AS: 4200000001, Cluster: netip.MustParseAddr("10.0.0.1"), Labels: map[string]string{"rack": "a", "zone": ""},
	}
}

func (h *harness) join(s roster.Store, n roster.Node, ttl time.Duration) {
	h.Helper()
	if err := s.Join(h.Context(), n, ttl); err != nil {
		h.Fatalf("Join of %s: %v", n.Name, err)
	}
}

func (h *harness) nodes() roster.Nodes {
	h.Helper()
	nodes, err := h.other.Nodes(h.Context())
	if err != nil {
		h.Fatalf("Nodes: %v", err)
	}
	return nodes
}

// one returns the only node there is, or the one of that name.
func (h *harness) one(name string) roster.Node {
	h.Helper()
	nodes := h.nodes()
	n, ok := nodes.Node(name)
	if !ok {
		h.Fatalf("%s is not among %v", name, nodes)
	}
	return n
}

// until waits until the node is as wanted.
func (h *harness) until(what, name string, wanted func(roster.Node) bool) roster.Node {
	h.Helper()
	for deadline := time.Now().Add(h.cfg.Patience); ; h.pause(2 * time.Millisecond) {
		n := h.one(name)
		if wanted(n) {
			return n
		}
		if time.Now().After(deadline) {
			h.Fatalf("%s: not within %s: %+v", what, h.cfg.Patience, n)
		}
	}
}

func (h *harness) pause(d time.Duration) {
	select {
	case <-h.Context().Done():
	case <-time.After(d):
	}
}

func alive(n roster.Node) bool { return n.Alive }
func dead(n roster.Node) bool  { return !n.Alive }

func joinAndRead(h *harness) {
	if nodes := h.nodes(); len(nodes) != 0 {
		h.Fatalf("want no nodes, got %v", nodes)
	}
	h.join(h.store, full("node-1"), long)
	got := h.one("node-1")
	if !got.Says(full("node-1")) || !got.Alive || got.Rank == 0 || got.Revision == 0 || got.Problem != nil {
		h.Fatalf("want %+v, alive, got %+v", full("node-1"), got)
	}
	empty := roster.Node{Name: "a node/of any name: \u00e4 %2f"}
	h.join(h.store, empty, long)
	if got := h.one(empty.Name); !got.Says(empty) {
		h.Fatalf("want %+v, got %+v", empty, got)
	}
}

func inOrder(h *harness) {
	for _, name := range []string{"b", "a", "node-10", "node-2", "c/d", "c"} {
		h.join(h.store, node(name), long)
	}
	var names []string
	for _, n := range h.nodes() {
		names = append(names, n.Name)
	}
	if want := []string{"a", "b", "c", "c/d", "node-10", "node-2"}; !slices.Equal(want, names) {
		h.Fatalf("want %q, got %q", want, names)
	}
}

func saysNew(h *harness) {
	h.join(h.store, node("a"), long)
	h.join(h.store, node("b"), long)
	before := h.one("a")
	h.join(h.other, full("a"), long)
	after := h.one("a")
	if !after.Says(full("a")) || after.Revision == before.Revision || after.Rank != before.Rank {
		h.Fatalf("want new words, a new revision and the old rank: %+v, then %+v", before, after)
	}
	if after.Revision == h.one("b").Revision {
		h.Fatal("two nodes have the same revision")
	}
}

func heartbeat(h *harness) {
	h.join(h.store, full("a"), long)
	before := h.one("a")
	h.join(h.store, full("a"), long)
	h.join(h.other, full("a"), long)
	if after := h.one("a"); after.Revision != before.Revision || after.Rank != before.Rank || !after.Alive {
		h.Fatalf("a heartbeat changed %+v to %+v", before, after)
	}
	// Heartbeats keep it alive for longer than a TTL.
	last := time.Now()
	h.join(h.store, node("b"), h.cfg.TTL)
	before = h.one("b")
	for end := last.Add(2 * h.cfg.TTL); time.Now().Before(end); h.pause(h.cfg.TTL / 20) {
		begun := time.Now()
		h.join(h.store, node("b"), h.cfg.TTL)
		n := h.one("b")
		if time.Since(last) > h.cfg.TTL/2 {
			h.Skip("this machine is too slow to say")
		}
		if !n.Alive || n.Rank != before.Rank {
			h.Fatalf("it did not live on: %+v, then %+v", before, n)
		}
		last = begun
	}
}

func deathAndReturn(h *harness) {
	h.join(h.store, full("a"), h.cfg.TTL)
	before := h.one("a")
	gone := h.until("death", "a", dead)
	if !gone.Says(full("a")) || gone.Rank != 0 || gone.Revision != before.Revision {
		h.Fatalf("want it known as before, got %+v after %+v", gone, before)
	}
	h.join(h.store, full("a"), long)
	if back := h.one("a"); !back.Alive || back.Rank <= before.Rank || back.Revision != before.Revision {
		h.Fatalf("want it back at the end of the queue, got %+v after %+v", back, before)
	}
}

// longerLife changes the TTL of a node that is alive.
func longerLife(h *harness) {
	begun := time.Now()
	h.join(h.store, node("a"), h.cfg.TTL)
	before := h.one("a")
	h.join(h.other, node("a"), long)
	inTime := time.Since(begun) < h.cfg.TTL // else it may have died on a busy machine, and come back
	h.join(h.store, node("b"), h.cfg.TTL)
	h.until("death", "b", dead)
	if after := h.one("a"); !after.Alive || inTime && after.Rank != before.Rank {
		h.Fatalf("it died in spite of its longer life: %+v, then %+v", before, after)
	}
}

func seniority(h *harness) {
	h.join(h.store, node("z"), h.cfg.TTL)
	h.join(h.store, node("m"), long)
	h.join(h.store, node("a"), long)
	h.until("death", "z", dead)
	leader, ok := h.nodes().Leader()
	if !ok || leader.Name != "m" {
		h.Fatalf("want the one that lives longest to lead, got %+v", leader)
	}
	h.join(h.store, node("z"), long)
	h.join(h.store, full("m"), long)
	if leader, _ = h.nodes().Leader(); leader.Name != "m" {
		h.Fatalf("want the same leader still, got %+v", leader)
	}
	if err := h.store.Forget(h.Context(), "m"); err != nil {
		h.Fatal(err)
	}
	if leader, _ = h.nodes().Leader(); leader.Name != "a" {
		h.Fatalf("want the next one to lead, got %+v", leader)
	}
}

func forget(h *harness) {
	h.join(h.store, node("a"), long)
	h.join(h.store, node("b"), h.cfg.TTL)
	h.until("death", "b", dead)
	for _, name := range []string{"a", "b", "a", "never"} {
		if err := h.other.Forget(h.Context(), name); err != nil {
			h.Fatalf("Forget of %s: %v", name, err)
		}
	}
	if nodes := h.nodes(); len(nodes) != 0 {
		h.Fatalf("want nobody known, got %v", nodes)
	}
	h.join(h.store, node("a"), long)
	h.until("its return", "a", alive)
}

func (h *harness) forgetDead(s roster.Store, name string) bool {
	h.Helper()
	forgotten, err := s.ForgetDead(h.Context(), name)
	if err != nil {
		h.Fatalf("ForgetDead of %s: %v", name, err)
	}
	return forgotten
}

func forgetDead(h *harness) {
	h.join(h.store, full("a"), long)
	before := h.one("a")
	h.join(h.store, node("b"), h.cfg.TTL)
	h.until("death", "b", dead)
	for name, want := range map[string]bool{"a": false, "b": true, "never": true} {
		if got := h.forgetDead(h.other, name); got != want {
			h.Fatalf("ForgetDead of %s: want %t, got %t", name, want, got)
		}
	}
	if after := h.one("a"); !after.Says(full("a")) || !after.Alive || after.Rank != before.Rank || after.Revision != before.Revision {
		h.Fatalf("want the one that lives as it was, got %+v after %+v", after, before)
	}
	if nodes := h.nodes(); len(nodes) != 1 {
		h.Fatalf("want the dead one unknown, got %v", nodes)
	}
	if !h.forgetDead(h.store, "b") {
		h.Fatal("want who is unknown reported so")
	}
	h.join(h.store, node("b"), long)
	h.until("its return", "b", alive)
}

// forgetReturning lets dead nodes come back in the moment in which they are forgotten: once they have joined they are known.
func forgetReturning(h *harness) {
	const many = 20
	name := func(i int) string { return fmt.Sprint("node-", i) }
	for i := range many {
		h.join(h.store, full(name(i)), h.cfg.TTL)
	}
	for i := range many {
		h.until("death", name(i), dead)
	}
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			if err := h.store.Join(h.Context(), full(name(i)), long); err != nil {
				h.Error(err)
			}
		})
		wg.Go(func() {
			for range 3 {
				if _, err := h.other.ForgetDead(h.Context(), name(i)); err != nil {
					h.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range many {
		if n := h.one(name(i)); !n.Says(full(n.Name)) || !n.Alive {
			h.Fatalf("want it known and alive, got %+v", n)
		}
	}
}

func badNode(h *harness) {
	bad := full("a")
	bad.Data.V4 = json.RawMessage("{")
	for _, c := range []struct {
		node roster.Node
		ttl  time.Duration
	}{{roster.Node{}, long}, {bad, long}, {node("a"), 0}, {node("a"), -1}} {
		if err := h.store.Join(h.Context(), c.node, c.ttl); !errors.Is(err, podweft.ErrInvalid) {
			h.Fatalf("Join of %+v for %s: want %q, got %v", c.node, c.ttl, podweft.ErrInvalid, err)
		}
	}
	if nodes := h.nodes(); len(nodes) != 0 {
		h.Fatalf("want no nodes, got %v", nodes)
	}
}

func copies(h *harness) {
	n := full("a")
	h.join(h.store, n, long)
	n.Labels["rack"] = "stolen"
	h.nodes()[0].Labels["rack"] = "stolen"
	if got := h.one("a"); !got.Says(full("a")) {
		h.Fatalf("want %+v, got %+v", full("a"), got)
	}
}

// allAtOnce lets 50 nodes join in one moment: all are known, and no two have the same rank.
func allAtOnce(h *harness) {
	var wg sync.WaitGroup
	for i := range 50 {
		s := h.store
		if i%2 == 1 {
			s = h.other
		}
		wg.Go(func() {
			for range 2 {
				if err := s.Join(h.Context(), node(fmt.Sprint("node-", i)), long); err != nil {
					h.Error(err)
				}
			}
		})
	}
	wg.Wait()
	ranks := map[uint64]string{}
	for _, n := range h.nodes() {
		if other, ok := ranks[n.Rank]; ok || !n.Alive {
			h.Fatalf("%s and %s have the rank %d", n.Name, other, n.Rank)
		}
		ranks[n.Rank] = n.Name
	}
	if len(ranks) != 50 {
		h.Fatalf("want 50 nodes, got %d", len(ranks))
	}
}

// quiet is longer than a hint takes.
const quiet = 300 * time.Millisecond

func watch(h *harness) {
	ctx, cancel := context.WithCancel(h.Context())
	defer cancel()
	hints, done := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		done <- h.other.Watch(ctx, func() {
			select {
			case hints <- struct{}{}:
			default:
			}
		})
	}()
	until := func(what string, wanted func(roster.Nodes) bool) {
		h.Helper()
		timeout := time.After(h.cfg.Patience)
		for {
			select {
			case <-hints:
			case err := <-done:
				h.Fatalf("the watch ended (%v) before it told of %s", err, what)
			case <-timeout:
				h.Fatalf("the watch did not tell of %s within %s", what, h.cfg.Patience)
			}
			if wanted(h.nodes()) {
				return
			}
		}
	}
	until("its beginning", func(ns roster.Nodes) bool { return len(ns) == 0 })
	h.join(h.store, node("a"), long)
	until("a new node", func(ns roster.Nodes) bool { return len(ns) == 1 })
	h.join(h.store, full("a"), long)
	until("what it says new", func(ns roster.Nodes) bool { return ns[0].Says(full("a")) })
	h.join(h.store, node("b"), h.cfg.TTL)
	until("a death", func(ns roster.Nodes) bool { return len(ns) == 2 && !ns[1].Alive })
	h.join(h.store, node("b"), long)
	until("a return", func(ns roster.Nodes) bool { return ns[1].Alive })
	for tries := 5; ; tries-- { // on a busy machine a hint may be on its way for long; but those of each time would be new ones
		h.pause(quiet)
		select {
		case <-hints:
		default:
		}
		for range 3 {
			h.join(h.store, node("b"), long)
			h.join(h.other, full("a"), long)
		}
		h.pause(quiet)
		if len(hints) == 0 {
			break
		}
		if tries == 0 {
			h.Fatal("the watch told of nodes that had joined again and said nothing new")
		}
	}
	if err := h.store.Forget(h.Context(), "a"); err != nil {
		h.Fatal(err)
	}
	until("a removal", func(ns roster.Nodes) bool { return len(ns) == 1 })
	cancel()
	select {
	case err := <-done:
		if err != nil {
			h.Fatalf("the watch ended with %v when its context did", err)
		}
	case <-time.After(h.cfg.Patience):
		h.Fatal("the watch did not end with its context")
	}
}

func contextEnds(h *harness) {
	ctx, cancel := context.WithCancel(h.Context())
	cancel()
	if _, err := h.store.Nodes(ctx); !errors.Is(err, context.Canceled) {
		h.Fatalf("Nodes: want %q, got %v", context.Canceled, err)
	}
	if err := h.store.Join(ctx, node("a"), long); !errors.Is(err, context.Canceled) {
		h.Fatalf("Join: want %q, got %v", context.Canceled, err)
	}
	if err := h.store.Forget(ctx, "a"); !errors.Is(err, context.Canceled) {
		h.Fatalf("Forget: want %q, got %v", context.Canceled, err)
	}
	if _, err := h.store.ForgetDead(ctx, "a"); !errors.Is(err, context.Canceled) {
		h.Fatalf("ForgetDead: want %q, got %v", context.Canceled, err)
	}
	if nodes := h.nodes(); len(nodes) != 0 {
		h.Fatalf("want no nodes, got %v", nodes)
	}
}
