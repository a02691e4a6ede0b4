package storetest

import (
	"errors"
	"sync"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

var claimTests = []check{
	{"claims race", func(h *harness) { h.race(fifty) }},
	{"claims race v6-only", func(h *harness) { h.race(fiftyV6) }},
	{"one node's claims race", oneNodeRaces},
	{"same node same subnet", sameNode},
	{"previous subnet", previousSubnet},
	{"exact claim", exactClaim},
	{"bounds", bounds},
	{"exhaustion and release", exhaustion},
	{"dual-stack", dualStack},
	{"v6-only", v6only},
	{"length change", lengthChange},
	{"network moved", networkMoved},
	{"bad claim", badClaim},
	{"no network", noNetwork},
}

// result is what one racer got.
type result struct {
	lease *subnet.Lease
	err   error
}

// all lets n nodes claim at once, through two clients.
func (h *harness) all(s subnet.Store, n int, claim func(i int) subnet.Claim) []result {
	clients := [...]subnet.Store{s, h.another(s)}
	for i := range n {
		h.give(s, claim(i))
	}
	results := make([]result, n)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			l, err := clients[i%len(clients)].Acquire(h.Context(), claim(i))
			results[i] = result{l, err}
		})
	}
	wg.Wait()
	return results
}

// race lets 100 nodes claim 50 subnets: 50 must win and 50 must be told that there is nothing left.
func (h *harness) race(conf string) {
	h.needChoice()
	s := h.store(conf)
	var won []*subnet.Lease
	for i, r := range h.all(s, 100, node) {
		if r.err != nil {
			h.refused(r.err, subnet.ErrExhausted, "Acquire for node-%d", i)
			continue
		}
		h.fits(r.lease, conf)
		won = append(won, r.lease)
	}
	h.disjoint(won)
	if len(won) != 50 {
		h.Fatalf("50 subnets were free: want 50 winners, got %d", len(won))
	}
	if got := h.now(s).Leases; len(got) != 50 {
		h.Fatalf("want 50 leases in the snapshot, got %d", len(got))
	}
}

func oneNodeRaces(h *harness) {
	s := h.store(fifty)
	results := h.all(s, 20, func(int) subnet.Claim { return node(1) })
	for _, r := range results {
		h.ok(r.err, "Acquire")
		if r.lease.Prefixes != results[0].lease.Prefixes {
			h.Fatalf("one node was given both %s and %s", results[0].lease.Prefixes, r.lease.Prefixes)
		}
	}
	if got := h.now(s).Leases; len(got) != 1 {
		h.Fatalf("want one lease of node-1 in the snapshot, got %v", got)
	}
}

func sameNode(h *harness) {
	s := h.store(fifty)
	first := h.acquire(s, node(1))
	moved := node(1)
	moved.Underlay, moved.Backend, moved.Data = underlay(99), "host-gw", subnet.Data{}
	moved.Prefer = only("10.244.50.0/24")
	if first.Prefixes == moved.Prefer {
		moved.Prefer = only("10.244.49.0/24")
	}
	again := h.acquire(h.another(s), moved)
	if again.Prefixes != first.Prefixes {
		h.Fatalf("want the subnet the node holds, %s, got %s", first.Prefixes, again.Prefixes)
	}
	shown := h.now(s)
	if l := shown.Lease("node-1"); len(shown.Leases) != 1 || l == nil || l.Underlay != moved.Underlay || l.Backend != "host-gw" || !l.Data.Equal(moved.Data) {
		h.Fatalf("the second claim's attributes are not published: %+v", shown.Leases)
	}
}

func previousSubnet(h *harness) {
	h.needChoice()
	s := h.store(fifty)
	previous := [...]subnet.Prefixes{only("10.244.17.0/24"), only("10.244.33.0/24")}
	for _, attempt := range [...]string{"before anybody else", "after a release"} {
		for i, wanted := range previous {
			c := node(i)
			c.Prefer = wanted
			l := h.acquire(s, c)
			if l.Prefixes != wanted {
				h.Fatalf("want the preferred subnet %s, which is free, %s, got %s", wanted, attempt, l.Prefixes)
			}
			h.release(s, l)
			if found := h.now(s).Lease(l.Node); found != nil {
				h.Fatalf("a released lease is still there: %s", found)
			}
		}
	}
	h.acquire(s, exactly(node(1), previous[0]))
	for i, prefer := range []subnet.Prefixes{
		previous[0],            // another node's by now
		only("10.9.0.0/24"),    // of no network of ours
		only("10.244.7.0/25"),  // of another length
		only("10.244.99.0/24"), // beyond SubnetMax
	} {
		c := node(i + 2)
		c.Prefer = prefer
		got := h.acquire(s, c)
		h.fits(got, fifty)
		if got.Prefixes == prefer {
			h.Fatalf("%s was given %s, which is not to be had", c.Node, prefer)
		}
	}
}

func exactClaim(h *harness) {
	s := h.store(fifty)
	wanted := only("10.244.17.0/24")
	got := h.acquire(s, exactly(node(1), wanted))
	if got.Prefixes != wanted {
		h.Fatalf("want exactly %s, got %s", wanted, got.Prefixes)
	}
	if again := h.acquire(s, exactly(node(1), wanted)); again.Prefixes != wanted {
		h.Fatalf("want exactly %s again, got %s", wanted, again.Prefixes)
	}
	h.give(s, exactly(node(2), only("10.244.20.0/24")))
	for what, c := range map[string]subnet.Claim{
		"another node's subnet":        exactly(node(2), wanted),
		"a subnet outside the network": exactly(node(2), only("10.9.0.0/24")),
		"a subnet beyond SubnetMax":    exactly(node(2), only("10.244.99.0/24")),
		"a subnet of another length":   exactly(node(2), only("10.244.18.0/25")),
		"other than what one holds":    exactly(node(1), only("10.244.18.0/24")),
	} {
		_, err := s.Acquire(h.Context(), c)
		h.refused(err, subnet.ErrTaken, "exact claim of %s", what)
	}
	if got := h.now(s); len(got.Leases) != 1 || h.leaseOf(got, "node-1").Prefixes != wanted {
		h.Fatalf("refused claims left something behind: %v", got.Leases)
	}
}

func bounds(h *harness) {
	h.needChoice()
	s := h.store(four)
	got := map[subnet.Prefixes]bool{}
	for i := range 4 {
		l := h.acquire(s, node(i))
		h.fits(l, four)
		got[l.Prefixes] = true
	}
	for p := range h.network(four).V4.All() {
		if !got[subnet.Prefixes{V4: p}] {
			h.Fatalf("%s lies between SubnetMin and SubnetMax and was never given", p)
		}
	}
}

func exhaustion(h *harness) {
	h.needChoice()
	s := h.store(four)
	var leases []*subnet.Lease
	for i := range 4 {
		leases = append(leases, h.acquire(s, node(i)))
	}
	_, err := s.Acquire(h.Context(), node(9))
	h.refused(err, subnet.ErrExhausted, "Acquire with all subnets taken")
	h.acquire(s, node(2)) // who has a lease keeps it
	h.release(s, leases[2])
	h.release(s, leases[2]) // gone already: success
	if got := h.acquire(s, node(9)); got.Prefixes != leases[2].Prefixes {
		h.Fatalf("want the one released subnet %s, got %s", leases[2].Prefixes, got.Prefixes)
	}
	h.release(s, leases[2]) // another node's by now: left alone
	if h.now(s).Lease("node-9") == nil {
		h.Fatal("releasing a lost lease took it away from its new node")
	}
}

func dualStack(h *harness) {
	h.needChoice()
	s := h.store(fourDual)
	var leases []*subnet.Lease
	for i, r := range h.all(s, 6, node) {
		if r.err != nil {
			h.refused(r.err, subnet.ErrExhausted, "Acquire for node-%d", i)
			continue
		}
		h.fits(r.lease, fourDual)
		leases = append(leases, r.lease)
	}
	if len(leases) != 4 {
		h.Fatalf("four IPv4 subnets were free: want 4 winners, got %d", len(leases))
	}
	h.disjoint(leases)
	if got := h.acquire(s, subnet.Claim{Node: leases[0].Node}); got.Prefixes != leases[0].Prefixes {
		h.Fatalf("want both of %s again, got %s", leases[0].Prefixes, got.Prefixes)
	}
	// Of a previous pair whose IPv4 half is another node's now, the IPv6 half is still free and must be had again.
	h.release(s, leases[0])
	thief := subnet.Claim{Node: "thief"}
	stolen := h.acquire(s, thief)
	h.release(s, leases[1])
	back := subnet.Claim{Node: "back", Prefer: subnet.Prefixes{V4: stolen.Prefixes.V4, V6: leases[1].Prefixes.V6}}
	got := h.acquire(s, back)
	h.fits(got, fourDual)
	if got.Prefixes.V4 == stolen.Prefixes.V4 || got.Prefixes.V6 != leases[1].Prefixes.V6 {
		h.Fatalf("want a new IPv4 subnet and the previous IPv6 one, %s, got %s", leases[1].Prefixes.V6, got.Prefixes)
	}
}

// v6only: without an IPv4 address two nodes must still not look like one.
func v6only(h *harness) {
	s := h.store(fiftyV6)
	claim := func(i int) subnet.Claim {
		c := node(i)
		c.Underlay.V4 = subnet.Addrs{}.V4
		return c
	}
	one, two := h.acquire(s, claim(1)), h.acquire(s, claim(2))
	h.fits(one, fiftyV6)
	h.disjoint([]*subnet.Lease{one, two})
	if again := h.acquire(h.another(s), claim(1)); again.Prefixes != one.Prefixes {
		h.Fatalf("want %s again, got %s", one.Prefixes, again.Prefixes)
	}
	shown := h.now(s)
	for _, want := range []*subnet.Lease{one, two} {
		if l := shown.Lease(want.Node); l == nil || l.Prefixes != want.Prefixes || l.Underlay != want.Underlay {
			h.Fatalf("want %s in the snapshot, got %v", want, l)
		}
	}
}

func lengthChange(h *harness) {
	h.needChoice()
	if h.cfg.SetNetwork == nil {
		h.Skip("no storetest.Config.SetNetwork")
	}
	s := h.store(threeWide)
	old := h.acquire(s, node(0)) // a /24 of the /22's last three
	h.cfg.SetNetwork(h.T, s, h.network(narrow))
	h.watch(s).until("the new network", func(s *subnet.Snapshot) bool { return s.Network.Equal(h.network(narrow)) })
	leases := []*subnet.Lease{old}
	for i, r := range h.all(s, 20, func(i int) subnet.Claim { return node(i + 1) }) {
		if r.err != nil {
			h.refused(r.err, subnet.ErrExhausted, "Acquire for node-%d", i+1)
			continue
		}
		h.fits(r.lease, narrow)
		leases = append(leases, r.lease)
	}
	h.disjoint(leases)
	// 16 subnets of /26, of which the /24 covers four.
	if len(leases) != 1+12 {
		h.Fatalf("12 subnets were free beside %s: want 12 winners, got %d", old.Prefixes, len(leases)-1)
	}
}

func networkMoved(h *harness) {
	h.needChoice()
	if h.cfg.SetNetwork == nil {
		h.Skip("no storetest.Config.SetNetwork")
	}
	s := h.store(threeWide)
	old := h.acquire(s, node(1))
	h.cfg.SetNetwork(h.T, s, h.network(fiftyV6))
	h.watch(s).until("the new network", func(s *subnet.Snapshot) bool { return s.Network.Equal(h.network(fiftyV6)) })
	if l := h.now(s).Lease("node-1"); l == nil || l.Prefixes != old.Prefixes {
		h.Fatalf("a new network took a lease from its node: want %s, got %v", old, l)
	}
	got := h.acquire(s, node(1))
	h.fits(got, fiftyV6)
	if all := h.now(s).Leases; len(all) != 1 {
		h.Fatalf("want the new lease in place of the one that does not fit any more, got %v", all)
	}
}

func badClaim(h *harness) {
	s := h.store(four)
	for what, c := range map[string]subnet.Claim{
		"without a node":      {},
		"with data not JSON":  {Node: "n", Data: subnet.Data{V4: []byte("{")}},
		"with a negative TTL": {Node: "n", TTL: -1},
		"exact for nothing":   {Node: "n", Exact: true},
	} {
		_, err := s.Acquire(h.Context(), c)
		h.refused(err, podweft.ErrInvalid, "claim %s", what)
	}
}

func noNetwork(h *harness) {
	s := h.cfg.New(h.T, nil)
	_, err := s.Acquire(h.Context(), node(1))
	h.refused(err, subnet.ErrNoNetwork, "Acquire without a network")
	for _, err := range s.Watch(h.Context()) {
		h.refused(err, subnet.ErrNoNetwork, "Watch without a network")
	}
	if h.cfg.SetNetwork == nil {
		return
	}
	h.cfg.SetNetwork(h.T, s, h.network(four))
	l, err := s.Acquire(h.Context(), node(1))
	for errors.Is(err, subnet.ErrNoNetwork) && h.Context().Err() == nil { // the store may need a moment to hear of it
		l, err = s.Acquire(h.Context(), node(1))
	}
	h.ok(err, "Acquire with a network at last")
	h.fits(l, four)
}
