package storetest

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

var leaseTests = []check{
	{"update", update},
	{"renew", renew},
	{"lost lease", lostLease},
	{"lease taken over", takenOver},
	{"expiry", expiry},
	{"renewed leases live", renewedLives},
}

func update(h *harness) {
	s := h.store(fifty)
	l := h.acquire(s, node(1))
	h.acquire(s, node(2))
	w := h.watch(h.another(s))
	w.until("both leases", func(s *subnet.Snapshot) bool { return len(s.Leases) == 2 })

	changed := *l
	changed.Underlay = underlay(77)
	changed.Data = subnet.Data{V6: json.RawMessage(`{"VNI":2}`)}
	got, err := s.Update(h.Context(), &changed)
	h.ok(err, "Update")
	if got.Prefixes != l.Prefixes || got.Underlay != changed.Underlay || !got.Data.Equal(changed.Data) {
		h.Fatalf("Update: want %+v, got %+v", changed, got)
	}
	shown := w.until("the new underlay address", at("node-1", changed.Underlay))
	if mine := h.leaseOf(shown, "node-1"); !mine.Data.Equal(changed.Data) || mine.Prefixes != l.Prefixes {
		h.Fatalf("want %+v in the snapshot, got %+v", changed, mine)
	}

	changed.Data = subnet.Data{V4: []byte("}")}
	_, err = s.Update(h.Context(), &changed)
	h.refused(err, podweft.ErrInvalid, "Update with data that is not JSON")
	w.stop()
}

func renew(h *harness) {
	s := h.store(fifty)
	l := h.acquire(s, node(1))
	got, err := s.Renew(h.Context(), l)
	h.ok(err, "Renew")
	if got.Key != l.Key || got.Prefixes != l.Prefixes || got.Underlay != l.Underlay || !got.Data.Equal(l.Data) {
		h.Fatalf("Renew: want %+v unchanged, got %+v", l, got)
	}
	if got.Expires.Before(l.Expires) {
		h.Fatalf("a renewed lease expires earlier: %s, was %s", got.Expires, l.Expires)
	}
}

// lost checks that l is not its node's any more, whatever is tried with it.
func (h *harness) lost(s subnet.Store, l *subnet.Lease) {
	h.Helper()
	_, err := s.Renew(h.Context(), l)
	h.refused(err, subnet.ErrLeaseLost, "Renew of a lost lease")
	_, err = s.Update(h.Context(), l)
	h.refused(err, subnet.ErrLeaseLost, "Update of a lost lease")
	h.release(s, l)
}

func lostLease(h *harness) {
	s := h.store(fifty)
	l := h.acquire(s, node(1))
	h.release(h.another(s), l) // as if somebody removed it
	h.lost(s, l)
	if got := h.acquire(s, exactly(node(1), l.Prefixes)); got.Prefixes != l.Prefixes {
		h.Fatalf("want the lost subnet %s back, got %s", l.Prefixes, got.Prefixes)
	}
}

func takenOver(h *harness) {
	s := h.store(fifty)
	l := h.acquire(s, node(1))
	other := h.another(s)
	h.release(other, l)
	h.acquire(other, exactly(node(2), l.Prefixes))
	h.lost(s, l)
	if got := h.now(s); len(got.Leases) != 1 || got.Leases[0].Node != "node-2" || got.Leases[0].Underlay != underlay(2) {
		h.Fatalf("a lost lease's node changed its successor: %+v", got.Leases)
	}
}

func expiry(h *harness) {
	h.needTTL()
	s := h.store(four)
	short, long := node(1), node(2)
	short.TTL, long.TTL = h.cfg.TTL, 100*h.cfg.TTL
	w := h.watch(h.another(s))
	brief := h.acquire(s, short)
	if brief.Expires.IsZero() || time.Until(brief.Expires) > h.cfg.TTL {
		h.Fatalf("want the lease to expire within %s, got %s", h.cfg.TTL, brief.Expires)
	}
	h.acquire(s, long)
	w.until("the long lease", holds("node-2"))
	shown := w.until("the end of the short lease", lacks("node-1"))
	if shown.Lease("node-2") == nil {
		h.Fatal("the long lease is gone with the short one")
	}
	h.lost(s, brief)
	h.acquire(s, exactly(node(3), brief.Prefixes))
	w.until("the subnet's next node", holds("node-3"))
	w.stop()
}

// lives renews the lease again and again for that long, and looks whether it is there then. It is false if it was too late for that.
func (h *harness) lives(s subnet.Store, l *subnet.Lease, long time.Duration) bool {
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(h.cfg.TTL / 4) {
		renewed, err := s.Renew(h.Context(), l)
		if errors.Is(err, subnet.ErrLeaseLost) && time.Now().After(l.Expires) {
			return false
		}
		h.ok(err, "Renew before expiry")
		l = renewed
	}
	shown := h.now(s).Lease(l.Node)
	if shown == nil && time.Now().Before(l.Expires) {
		h.Fatal("a lease that was renewed in time is gone")
	}
	return shown != nil
}

func renewedLives(h *harness) {
	h.needTTL()
	s := h.store(four)
	c := node(1)
	c.TTL = h.cfg.TTL
	// A busy machine may not let us renew in time. That is not the store's fault, and the next try may go better.
	for tries := 10; !h.lives(s, h.acquire(s, c), 3*h.cfg.TTL); tries-- {
		if tries == 0 {
			h.Fatalf("a lease of %s ended though it was renewed every quarter of that, in each of ten tries", h.cfg.TTL)
		}
	}
}
