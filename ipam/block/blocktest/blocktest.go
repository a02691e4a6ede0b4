// Package blocktest tests whether a block.Store keeps its promises: compare-and-swap, no two blocks that overlap, nothing
// forgotten, watches that tell of every change and end cleanly. Whoever writes a Store runs it from a test of their own:
//
//	func TestStore(t *testing.T) {
//		blocktest.Run(t, blocktest.Config{New: func(t *testing.T) block.Store { return mystore.New() }})
//	}
//
// It does not test speed, nor what is special to an engine.
package blocktest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipam/block"
)

// Config tells [Run] how to make the Store. Only New is required.
type Config struct {
	// New returns a Store over an empty place of its own, such as a fresh directory or key prefix. Each test calls it
	// once; t.Cleanup takes the place away.
	New func(t *testing.T) block.Store

	// Another returns a second client of s's place, as another node's process has it. nil: s itself serves all nodes.
	Another func(t *testing.T, s block.Store) block.Store

	// Patience is how long a change may take to be seen. Zero: 10 seconds.
	Patience time.Duration
}

// Run tests the Store; each promise is a subtest.
func Run(t *testing.T, cfg Config) {
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	if cfg.Another == nil {
		cfg.Another = func(_ *testing.T, s block.Store) block.Store { return s }
	}
	for _, c := range []struct {
		name string
		run  func(h *harness)
	}{
		{"write and read", writeAndRead},
		{"in order", inOrder},
		{"compare and swap", compareAndSwap},
		{"made once", madeOnce},
		{"no overlap", noOverlap},
		{"removed", removed},
		{"bad block", badBlock},
		{"answers are copies", copies},
		{"writers race", writersRace},
		{"makers race", makersRace},
		{"nodes race", nodesRace},
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
	store, other block.Store // two clients of one place
}

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

// whole is a block that one node has as a whole.
func whole(p, node string) block.Block {
	return block.Block{Prefix: prefix(p), Node: node, Shares: []block.Share{{Prefix: prefix(p), Node: node}}}
}

func (h *harness) write(b block.Block) block.Block {
	h.Helper()
	written, err := h.store.Write(h.Context(), b)
	if err != nil {
		h.Fatalf("Write of %s: %v", b.Prefix, err)
	}
	if written.Revision == "" || written.Revision == b.Revision {
		h.Fatalf("Write of %s: want a new revision, got %q after %q", b.Prefix, written.Revision, b.Revision)
	}
	return written
}

// changed fails the test unless the other client's Write is refused with ErrChanged.
func (h *harness) changed(b block.Block, why string) {
	h.Helper()
	if _, err := h.other.Write(h.Context(), b); !errors.Is(err, block.ErrChanged) {
		h.Fatalf("Write of %s, %s: want %q, got %v", b.Prefix, why, block.ErrChanged, err)
	}
}

func (h *harness) blocks(p string) []block.Block {
	h.Helper()
	blocks, err := h.other.Blocks(h.Context(), prefix(p))
	if err != nil {
		h.Fatalf("Blocks of %s: %v", p, err)
	}
	return blocks
}

// shows fails the test unless the blocks of a prefix are as wanted.
func (h *harness) shows(p string, want ...block.Block) {
	h.Helper()
	got := h.blocks(p)
	same := func(a, b block.Block) bool {
		return a.Revision == b.Revision && a.Prefix == b.Prefix && a.Node == b.Node &&
			slices.EqualFunc(a.Shares, b.Shares, func(a, b block.Share) bool {
				return a.Prefix == b.Prefix && a.Node == b.Node && a.Doubted.Equal(b.Doubted)
			})
	}
	if !slices.EqualFunc(want, got, same) {
		h.Fatalf("blocks of %s: want %+v, got %+v", p, want, got)
	}
}

func writeAndRead(h *harness) {
	h.shows("0.0.0.0/0")
	b := block.Block{Prefix: prefix("10.0.0.0/26"), Node: "node-1", Shares: []block.Share{
		{Prefix: prefix("10.0.0.0/29"), Node: "node-1"},
		{Prefix: prefix("10.0.0.8/29"), Node: "node-2", Doubted: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
	}}
	written := h.write(b)
	b.Revision = written.Revision
	h.shows("10.0.0.0/26", b)
	v6 := whole("fd00::40/122", "node-1")
	v6.Node = ""
	v6.Revision = h.write(v6).Revision
	h.shows("::/0", v6)
	h.shows("0.0.0.0/0", b)
}

func inOrder(h *harness) {
	a, b, c := h.write(whole("10.0.0.64/26", "a")), h.write(whole("10.0.0.0/26", "b")), h.write(whole("9.255.255.0/26", "c"))
	d := h.write(whole("10.0.1.0/24", "d"))
	h.shows("0.0.0.0/0", c, b, a, d)
	h.shows("10.0.0.0/24", b, a)
	h.shows("10.0.0.70/32", a) // overlaps
	h.shows("10.0.0.0/23", b, a, d)
	h.shows("10.0.2.0/24")
}

func compareAndSwap(h *harness) {
	first := h.write(whole("10.0.0.0/26", "a"))
	second := whole("10.0.0.0/26", "b")
	second.Revision = first.Revision
	second = h.write(second)
	stale := whole("10.0.0.0/26", "c")
	stale.Revision = first.Revision
	h.changed(stale, "which was written since")
	stale.Revision = "made up"
	h.changed(stale, "with a revision that never was")
	h.shows("10.0.0.0/26", second)
}

func madeOnce(h *harness) {
	a := h.write(whole("10.0.0.0/26", "a"))
	h.changed(whole("10.0.0.0/26", "b"), "which is there already")
	h.shows("10.0.0.0/26", a)
}

func noOverlap(h *harness) {
	a := h.write(whole("10.0.0.64/26", "a"))
	for _, p := range []string{"10.0.0.0/24", "10.0.0.64/27", "10.0.0.96/27", "10.0.0.100/32", "10.0.0.64/25", "0.0.0.0/0"} {
		b := whole("10.0.0.0/26", "b")
		b.Prefix = prefix(p).Masked()
		b.Shares[0].Prefix = b.Prefix
		if b.Prefix == prefix("10.0.0.0/26") {
			continue
		}
		h.changed(b, "which overlaps "+a.Prefix.String())
	}
	b := h.write(whole("10.0.0.128/25", "b"))
	h.shows("0.0.0.0/0", a, b)
}

func removed(h *harness) {
	a, b := h.write(whole("10.0.0.0/26", "a")), h.write(whole("10.0.0.64/26", "b"))
	stale := a
	a.Node = "z"
	a = h.write(a)
	stale.Shares = nil
	h.changed(stale, "to remove it, which was written since")
	a.Shares, a.Node = nil, ""
	if _, err := h.store.Write(h.Context(), a); err != nil {
		h.Fatalf("Write of %s, to remove it: %v", a.Prefix, err)
	}
	h.shows("0.0.0.0/0", b)
	h.changed(a, "which is gone")
	again := whole("10.0.0.0/26", "c")
	again.Revision = a.Revision
	h.changed(again, "which is gone")
	again.Revision = ""
	c := h.write(again)
	h.shows("0.0.0.0/0", c, b)
	a.Revision = stale.Revision
	h.changed(a, "to remove what was made anew since")
}

func badBlock(h *harness) {
	bad := whole("10.0.0.0/26", "a")
	bad.Shares[0].Prefix = prefix("10.0.9.0/29")
	nobody := whole("10.0.0.0/26", "a")
	nobody.Shares[0].Node = ""
	for _, b := range []block.Block{{}, bad, nobody} {
		if _, err := h.store.Write(h.Context(), b); !errors.Is(err, podweft.ErrInvalid) {
			h.Fatalf("Write of %+v: want %q, got %v", b, podweft.ErrInvalid, err)
		}
	}
	h.shows("0.0.0.0/0")
}

func copies(h *harness) {
	b := whole("10.0.0.0/26", "a")
	written := h.write(b)
	want := written.Clone()
	b.Shares[0].Node = "thief"
	written.Shares[0].Node = "thief"
	h.blocks("0.0.0.0/0")[0].Shares[0].Node = "thief"
	h.shows("0.0.0.0/0", want)
}

// writersRace lets many count in one block: no count may be lost.
func writersRace(h *harness) {
	const writers, counts = 8, 5
	h.write(whole("10.0.0.0/26", "0"))
	var wg sync.WaitGroup
	for i := range writers {
		s := h.store
		if i%2 == 1 {
			s = h.other
		}
		wg.Go(func() {
			for done := 0; done < counts; {
				blocks, err := s.Blocks(h.Context(), prefix("10.0.0.0/26"))
				if err != nil || len(blocks) != 1 {
					h.Errorf("Blocks: %v, %v", blocks, err)
					return
				}
				var n int
				fmt.Sscan(blocks[0].Node, &n)
				blocks[0].Node = fmt.Sprint(n + 1)
				switch _, err := s.Write(h.Context(), blocks[0]); {
				case err == nil:
					done++
				case !errors.Is(err, block.ErrChanged):
					h.Errorf("Write: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := h.blocks("10.0.0.0/26")[0].Node; got != fmt.Sprint(writers*counts) {
		h.Fatalf("want %d writes, got %s: some were lost", writers*counts, got)
	}
}

// makersRace lets blocks of several lengths be made in one place: those that are must not overlap.
func makersRace(h *harness) {
	var wg sync.WaitGroup
	for bits := 22; bits <= 28; bits++ {
		for i := range 4 {
			s := h.store
			if i%2 == 1 {
				s = h.other
			}
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), byte(bits)}), bits).Masked()
			wg.Go(func() {
				_, err := s.Write(h.Context(), whole(p.String(), fmt.Sprint("node-", bits)))
				if err != nil && !errors.Is(err, block.ErrChanged) {
					h.Errorf("Write: %v", err)
				}
			})
		}
	}
	wg.Wait()
	h.disjoint(h.blocks("0.0.0.0/0"))
}

func (h *harness) disjoint(blocks []block.Block) {
	h.Helper()
	if len(blocks) == 0 {
		h.Fatal("there are no blocks")
	}
	for i, a := range blocks {
		for _, b := range blocks[:i] {
			if a.Prefix.Overlaps(b.Prefix) {
				h.Fatalf("%s of %s overlaps %s of %s", a.Prefix, a.Node, b.Prefix, b.Node)
			}
		}
	}
}

// nodesRace lets 50 nodes claim two blocks each of a pool that has 90: all that there is, and none twice.
func nodesRace(h *harness) {
	var pools []block.Pool // 64 + 16 + 8 + 2 blocks
	for _, p := range []string{"10.0.0.0/20", "10.1.0.0/22", "10.2.0.0/23", "10.3.0.0/25"} {
		pools = append(pools, block.Pool{Prefix: prefix(p)})
	}
	ctx, cancel := context.WithTimeout(h.Context(), 6*h.cfg.Patience)
	defer cancel()
	var mu sync.Mutex
	owners := map[netip.Prefix]string{}
	var wg sync.WaitGroup
	for i := range 50 {
		s := h.store
		if i%2 == 1 {
			s = h.other
		}
		node := fmt.Sprint("node-", i)
		c, err := block.New(block.Config{Store: s, Node: node, Pools: pools})
		if err != nil {
			h.Fatal(err)
		}
		wg.Go(func() {
			for range 2 {
				share, err := c.Claim(ctx, netip.Addr{})
				if errors.Is(err, block.ErrExhausted) {
					continue
				}
				if err != nil {
					h.Error(err)
					return
				}
				mu.Lock()
				if other, ok := owners[share.Prefix]; ok {
					h.Errorf("%s was given to %s and %s", share.Prefix, other, node)
				}
				owners[share.Prefix] = node
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	blocks := h.blocks("0.0.0.0/0")
	h.disjoint(blocks)
	if len(owners) != 90 || len(blocks) != 90 {
		h.Fatalf("want all 90 blocks claimed, got %d, and %d in the store", len(owners), len(blocks))
	}
	for _, b := range blocks {
		if b.Node != owners[b.Prefix] || !reflect.DeepEqual(b.Shares, []block.Share{{Prefix: b.Prefix, Node: b.Node}}) {
			h.Fatalf("%s was given to %s, but the store has %+v", b.Prefix, owners[b.Prefix], b)
		}
	}
}

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
	until := func(what string, n int) {
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
			if len(h.blocks("0.0.0.0/0")) == n {
				return
			}
		}
	}
	until("its beginning", 0)
	a := h.write(whole("10.0.0.0/26", "a"))
	until("a new block", 1)
	a.Node = "b"
	a = h.write(a)
	until("a change", 1)
	h.write(whole("10.0.0.64/26", "a"))
	until("another block", 2)
	a.Shares = nil
	if _, err := h.store.Write(h.Context(), a); err != nil {
		h.Fatal(err)
	}
	until("a removal", 1)
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
	if _, err := h.store.Blocks(ctx, prefix("0.0.0.0/0")); !errors.Is(err, context.Canceled) {
		h.Fatalf("Blocks: want %q, got %v", context.Canceled, err)
	}
	if _, err := h.store.Write(ctx, whole("10.0.0.0/26", "a")); !errors.Is(err, context.Canceled) {
		h.Fatalf("Write: want %q, got %v", context.Canceled, err)
	}
	h.shows("0.0.0.0/0")
}
