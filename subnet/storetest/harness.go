package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/podweft/podweft/subnet"
)

// The networks of the tests. The names say how many subnets they have.
const (
	fifty     = `{"Network": "10.244.0.0/16", "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.50.0"}`
	four      = `{"Network": "10.244.0.0/16", "SubnetMin": "10.244.10.0", "SubnetMax": "10.244.13.0"}`
	fourDual  = `{"EnableIPv6": true, "Network": "10.244.0.0/16", "SubnetMin": "10.244.10.0", "SubnetMax": "10.244.13.0", "IPv6Network": "fd00:244::/48"}`
	fiftyV6   = `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "IPv6SubnetMin": "fd00:244:0:1::", "IPv6SubnetMax": "fd00:244:0:32::"}`
	threeWide = `{"Network": "10.244.0.0/22", "SubnetLen": 24}`
	narrow    = `{"Network": "10.244.0.0/22", "SubnetLen": 26, "SubnetMin": "10.244.0.0"}`
)

// harness is a testing.T with the words the tests need.
type harness struct {
	*testing.T
	cfg   Config
	conf  *subnet.Network            // of the store
	given map[string]subnet.Prefixes // by node: what Config.Give gave
}

func (h *harness) network(conf string) *subnet.Network {
	h.Helper()
	n, err := subnet.ParseNetwork([]byte(conf))
	if err != nil {
		h.Fatal(err)
	}
	return n
}

func (h *harness) store(conf string) subnet.Store {
	h.Helper()
	h.conf, h.given = h.network(conf), map[string]subnet.Prefixes{}
	return h.cfg.New(h.T, h.conf)
}

// give has the node given a subnet, where that has to be done: the one that it claims, or any free one.
func (h *harness) give(s subnet.Store, c subnet.Claim) {
	h.Helper()
	if _, has := h.given[c.Node]; has || h.cfg.Give == nil {
		return
	}
	p := c.Prefer
	if !c.Exact {
		var err error
		p, err = h.conf.Pick(nil, maps.Values(h.given))
		h.ok(err, "Pick a subnet to give")
	}
	h.given[c.Node] = p
	h.cfg.Give(h.T, s, c.Node, p)
}

// another is a second client of the same place.
func (h *harness) another(s subnet.Store) subnet.Store {
	h.Helper()
	if h.cfg.Another == nil {
		return s
	}
	return h.cfg.Another(h.T, s)
}

func (h *harness) reserver(s subnet.Store) subnet.Reserver {
	h.Helper()
	r, ok := s.(subnet.Reserver)
	if !ok {
		h.Skip("the store is no subnet.Reserver")
	}
	return r
}

func (h *harness) needChoice() {
	h.Helper()
	if h.cfg.Give != nil {
		h.Skip("the store does not choose subnets (storetest.Config.Give)")
	}
}

func (h *harness) needTTL() {
	h.Helper()
	if h.cfg.TTL == 0 {
		h.Skip("the store's leases do not expire (storetest.Config.TTL)")
	}
}

// node is what the i-th node claims.
func node(i int) subnet.Claim {
	return subnet.Claim{
		Node:     fmt.Sprintf("node-%d", i),
		Underlay: underlay(i),
		Backend:  "vxlan",
		Data:     subnet.Data{V4: json.RawMessage(fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:00:00:%02x"}`, i))},
	}
}

func underlay(i int) subnet.Addrs {
	return subnet.Addrs{V4: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), V6: netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 15: byte(i)})}
}

// only is p alone: a claim or a reservation of one IPv4 subnet.
func only(p string) subnet.Prefixes { return subnet.Prefixes{V4: netip.MustParsePrefix(p)} }

// exactly is c for nothing but p.
func exactly(c subnet.Claim, p subnet.Prefixes) subnet.Claim {
	c.Prefer, c.Exact = p, true
	return c
}

func (h *harness) acquire(s subnet.Store, c subnet.Claim) *subnet.Lease {
	h.Helper()
	h.give(s, c)
	l, err := s.Acquire(h.Context(), c)
	if err != nil {
		h.Fatalf("Acquire for %s: %v", c.Node, err)
	}
	if l.Node != c.Node {
		h.Fatalf("Acquire for %s returned the lease of %q", c.Node, l.Node)
	}
	return l
}

func (h *harness) release(s subnet.Store, l *subnet.Lease) {
	h.Helper()
	h.ok(s.Release(h.Context(), l), "Release of %s", l)
}

func (h *harness) ok(err error, format string, args ...any) {
	h.Helper()
	if err != nil {
		h.Fatalf("%s: %v", fmt.Sprintf(format, args...), err)
	}
}

// refused fails the test unless err is want.
func (h *harness) refused(err, want error, format string, args ...any) {
	h.Helper()
	if !errors.Is(err, want) {
		h.Fatalf("%s: want %q, got %v", fmt.Sprintf(format, args...), want, err)
	}
}

// disjoint fails the test if any two of the leases overlap.
func (h *harness) disjoint(leases []*subnet.Lease) {
	h.Helper()
	for i, a := range leases {
		for _, b := range leases[:i] {
			if a.Prefixes.Overlaps(b.Prefixes) {
				h.Fatalf("two nodes hold overlapping subnets: %s, and %s", a, b)
			}
		}
	}
}

// fits fails the test unless the lease is one of the network's subnets, in each family.
func (h *harness) fits(l *subnet.Lease, conf string) {
	h.Helper()
	if !h.network(conf).Fits(l.Prefixes) {
		h.Fatalf("%s is not a subnet of %s", l.Prefixes, conf)
	}
}

// now returns the present snapshot: the first of a new watch.
func (h *harness) now(s subnet.Store) *subnet.Snapshot {
	h.Helper()
	for snapshot, err := range s.Watch(h.Context()) {
		h.ok(err, "Watch")
		if snapshot == nil {
			h.Fatal("Watch yielded neither a snapshot nor an error")
		}
		return snapshot
	}
	h.Fatal("Watch ended without a snapshot")
	return nil
}

// watcher runs a watch in a goroutine of its own.
type watcher struct {
	h         *harness
	snapshots chan *subnet.Snapshot
	err       chan error // what Watch yielded at its end, nil if it ended by itself
	cancel    context.CancelFunc
	last      *subnet.Snapshot
}

func (h *harness) watch(s subnet.Store) *watcher {
	ctx, cancel := context.WithCancel(h.Context())
	w := &watcher{h: h, snapshots: make(chan *subnet.Snapshot), err: make(chan error, 1), cancel: cancel}
	go func() {
		var last error
		for snapshot, err := range s.Watch(ctx) {
			if last = err; err != nil {
				continue // the watch must end now by itself
			}
			select {
			case w.snapshots <- snapshot:
			case <-ctx.Done():
			}
		}
		w.err <- last
	}()
	h.Cleanup(cancel)
	return w
}

// until waits for a snapshot that is as wanted, and returns it.
func (w *watcher) until(what string, wanted func(*subnet.Snapshot) bool) *subnet.Snapshot {
	w.h.Helper()
	timeout := time.After(w.h.cfg.Patience)
	for w.last == nil || !wanted(w.last) {
		select {
		case next := <-w.snapshots:
			if w.last != nil && w.last.Revision == next.Revision {
				w.h.Fatalf("two snapshots of one watch have revision %d", next.Revision)
			}
			w.last = next
		case err := <-w.err:
			w.h.Fatalf("the watch ended (%v) before it showed %s", err, what)
		case <-timeout:
			w.h.Fatalf("the watch did not show %s within %s", what, w.h.cfg.Patience)
		}
	}
	return w.last
}

// ended waits for the watch's end and returns the error it yielded last.
func (w *watcher) ended() error {
	w.h.Helper()
	timeout := time.After(w.h.cfg.Patience)
	for {
		select {
		case <-w.snapshots:
		case err := <-w.err:
			return err
		case <-timeout:
			w.h.Fatalf("the watch did not end within %s", w.h.cfg.Patience)
		}
	}
}

// stop ends the watch, which must not take that for an error.
func (w *watcher) stop() {
	w.h.Helper()
	w.cancel()
	if err := w.ended(); err != nil && !errors.Is(err, context.Canceled) {
		w.h.Fatalf("the watch yielded %q when its context ended", err)
	} else if err != nil {
		w.h.Fatal("the watch yielded its context's end as an error: it must just end")
	}
}

// leaseOf returns the node's lease, which the snapshot must have.
func (h *harness) leaseOf(s *subnet.Snapshot, node string) *subnet.Lease {
	h.Helper()
	l := s.Lease(node)
	if l == nil {
		h.Fatalf("the snapshot has no lease of %s: %v", node, s.Leases)
	}
	return l
}

// at reports whether the node's lease has the underlay address.
func at(node string, a subnet.Addrs) func(*subnet.Snapshot) bool {
	return func(s *subnet.Snapshot) bool { return s.Lease(node) != nil && s.Lease(node).Underlay == a }
}

// holds reports whether the node has a lease in the snapshot.
func holds(node string) func(*subnet.Snapshot) bool {
	return func(s *subnet.Snapshot) bool { return s.Lease(node) != nil }
}

func lacks(node string) func(*subnet.Snapshot) bool {
	return func(s *subnet.Snapshot) bool { return s.Lease(node) == nil }
}

// noMoreGoroutines fails the test if there stay more goroutines than there were before.
func (h *harness) noMoreGoroutines(before int) {
	h.Helper()
	deadline := time.Now().Add(h.cfg.Patience)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			h.Fatalf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
		}
		time.Sleep(time.Millisecond)
	}
}
