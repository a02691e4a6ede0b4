package storetest

import (
	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

var reservationTests = []check{
	{"reserved for nobody", reservedForNobody},
	{"reserved for a node", reservedForNode},
	{"reservation outlives expiry", reservationOutlivesExpiry},
	{"reservation refused", reservationRefused},
}

func reservedForNobody(h *harness) {
	s := h.store(four)
	r := h.reserver(s)
	// A /23 covers two of the four subnets.
	h.ok(r.Reserve(h.Context(), only("10.244.12.0/23"), ""), "Reserve")
	h.ok(r.Reserve(h.Context(), only("10.244.12.0/23"), ""), "Reserve again")
	h.acquire(s, node(1))
	h.acquire(s, node(2))
	_, err := h.another(s).Acquire(h.Context(), node(3))
	h.refused(err, subnet.ErrExhausted, "Acquire with the rest reserved")
	_, err = s.Acquire(h.Context(), exactly(node(3), only("10.244.13.0/24")))
	h.refused(err, subnet.ErrTaken, "exact claim of a reserved subnet")

	h.ok(r.Unreserve(h.Context(), only("10.244.12.0/23")), "Unreserve")
	h.ok(r.Unreserve(h.Context(), only("10.244.12.0/23")), "Unreserve again")
	h.acquire(s, exactly(node(3), only("10.244.13.0/24")))
}

func reservedForNode(h *harness) {
	s := h.store(four)
	r := h.reserver(s)
	reserved := only("10.244.11.0/24")
	h.ok(r.Reserve(h.Context(), reserved, "node-7"), "Reserve")
	c := node(7)
	c.Prefer = only("10.244.13.0/24")
	l := h.acquire(s, c)
	if l.Prefixes != reserved {
		h.Fatalf("want the node's reserved subnet %s before the one it prefers, got %s", reserved, l.Prefixes)
	}
	h.release(s, l)
	for i := range 3 {
		if l := h.acquire(s, node(i)); l.Prefixes == reserved {
			h.Fatalf("%s was given to %s by chance", reserved, l.Node)
		}
	}
	_, err := s.Acquire(h.Context(), node(8))
	h.refused(err, subnet.ErrExhausted, "Acquire with the rest reserved")
	for range 2 { // the second time, the reservation must have survived the first lease
		l := h.acquire(h.another(s), node(7))
		if l.Prefixes != reserved {
			h.Fatalf("want the node's reserved subnet %s, got %s", reserved, l.Prefixes)
		}
		h.release(s, l)
		_, err = s.Acquire(h.Context(), node(8))
		h.refused(err, subnet.ErrExhausted, "Acquire with the rest reserved")
	}
}

func reservationOutlivesExpiry(h *harness) {
	h.needTTL()
	s := h.store(four)
	r := h.reserver(s)
	reserved := only("10.244.11.0/24")
	h.ok(r.Reserve(h.Context(), reserved, "node-7"), "Reserve")
	c := node(7)
	c.TTL = h.cfg.TTL
	h.acquire(s, c)
	w := h.watch(s)
	w.until("the lease from the reservation", holds("node-7"))
	w.until("its end", lacks("node-7"))
	w.stop()
	_, err := s.Acquire(h.Context(), exactly(node(1), reserved))
	h.refused(err, subnet.ErrTaken, "exact claim of a subnet reserved for another node")
}

func reservationRefused(h *harness) {
	s := h.store(four)
	r := h.reserver(s)
	l := h.acquire(s, exactly(node(1), only("10.244.11.0/24")))
	h.ok(r.Reserve(h.Context(), l.Prefixes, "node-1"), "Reserve a node's subnet for itself")
	h.ok(r.Unreserve(h.Context(), l.Prefixes), "Unreserve")
	h.refused(r.Reserve(h.Context(), l.Prefixes, ""), subnet.ErrTaken, "Reserve another's subnet for nobody")
	h.refused(r.Reserve(h.Context(), l.Prefixes, "node-2"), subnet.ErrTaken, "Reserve another's subnet for node-2")
	h.ok(r.Reserve(h.Context(), only("10.244.12.0/24"), "node-2"), "Reserve")
	h.refused(r.Reserve(h.Context(), only("10.244.12.0/24"), "node-3"), subnet.ErrTaken, "Reserve twice")
	h.refused(r.Reserve(h.Context(), only("10.244.12.0/23"), ""), subnet.ErrTaken, "Reserve around a reservation")
	h.refused(r.Reserve(h.Context(), only("10.9.0.0/24"), ""), podweft.ErrInvalid, "Reserve outside the network")
	h.refused(r.Reserve(h.Context(), only("10.244.13.0/25"), "node-3"), podweft.ErrInvalid, "Reserve half a subnet for a node")
	h.refused(r.Reserve(h.Context(), subnet.Prefixes{}, ""), podweft.ErrInvalid, "Reserve nothing")
}
