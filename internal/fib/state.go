package fib

import (
	"context"
	"maps"
	"slices"

	"github.com/podweft/podweft/internal/nl"
)

// state is what the kernel holds of our concern: everything permanent on the links that are wholly ours, the routes and
// nexthop objects that bear our mark, and other programs' routes in the places that we want.
type state struct {
	neighbors map[nl.NeighborKey]nl.Neighbor
	forwards  map[nl.ForwardKey]nl.Forward // the first destination of each MAC
	spare     map[nl.Forward]struct{}      // further destinations of a MAC, never wanted
	routes    map[nl.RouteKey]nl.Route     // ours
	foreign   map[place]nl.Route           // others' that win against or exclude ours
	nexthops  map[via]nl.Nexthop           // ours
	doubles   map[uint32]nl.Nexthop        // ours, with the via of another
	taken     map[uint32]struct{}          // ids in our range that are not ours

	agreed agreed
}

// agreed is at how many keys of each kind the kernel was seen to hold what is wanted, while it was being read: the kernel is at
// work then too, so that looking is nearly free. It says nothing any more when the state or what is wanted has changed.
type agreed struct{ neighbors, forwards, nexthops, routes int }

// unknown is a number of keys that nobody counted.
const unknown = -1

// forget takes out what is to be read anew. With it the count is lost.
func forget[K comparable, V any](m map[K]V, n *int, old func(K) bool) {
	before := len(m)
	maps.DeleteFunc(m, func(k K, _ V) bool { return old(k) })
	if len(m) < before {
		*n = unknown
	}
}

// store puts v at k and counts it if it is as wanted. What is listed twice makes the count worthless.
func store[K comparable, V any](m map[K]V, k K, v V, n *int, wanted bool) {
	before := len(m)
	m[k] = v
	switch {
	case len(m) == before || *n == unknown:
		*n = unknown
	case wanted:
		*n++
	}
}

// newState is empty, with room for about n peers.
func newState(n int) *state {
	return &state{
		neighbors: make(map[nl.NeighborKey]nl.Neighbor, n),
		forwards:  make(map[nl.ForwardKey]nl.Forward, n),
		spare:     map[nl.Forward]struct{}{},
		routes:    make(map[nl.RouteKey]nl.Route, n),
		foreign:   map[place]nl.Route{},
		nexthops:  make(map[via]nl.Nexthop, n),
		doubles:   map[uint32]nl.Nexthop{},
		taken:     map[uint32]struct{}{},
	}
}

// clear forgets everything and keeps the memory.
func (s *state) clear() {
	clear(s.neighbors)
	clear(s.forwards)
	clear(s.spare)
	clear(s.routes)
	clear(s.foreign)
	clear(s.nexthops)
	clear(s.doubles)
	clear(s.taken)
	s.agreed = agreed{}
}

// read lists the kernel's tables into the empty s. w says in which places other programs' routes matter; seen is told where any are.
func (s *state) read(ctx context.Context, conn *nl.Conn, mark Mark, scope Scope, w *want, seen func(place)) error {
	for _, link := range slices.Sorted(maps.Keys(scope.Own)) {
		if link < 0 {
			continue // in a plan: a link that is not there yet
		}
		if err := s.readLink(ctx, conn, link, w); err != nil {
			return err
		}
	}
	err := conn.Nexthops(ctx, func() {
		clear(s.nexthops)
		clear(s.doubles)
		clear(s.taken)
		s.agreed.nexthops = 0
	}, func(nh nl.Nexthop) { s.addNexthop(mark, nh, w) })
	if err != nil {
		return err
	}
	return conn.Routes(ctx, func() {
		clear(s.routes)
		clear(s.foreign)
		s.agreed.routes = 0
	}, func(r nl.Route) { s.addRoute(mark, r, w, seen) })
}

// recall adds the IPv6 routes that an earlier listing of the same pass had. While others come and go a listing skips some that
// are there, each time others, and nothing tells (see nl). One that was really deleted meanwhile has been announced.
func (s *state) recall(before *state) {
	s.agreed.routes = unknown
	for k, r := range before.routes {
		_, there := s.routes[k]
		f, foreign := s.foreign[placeOf(k)]
		if !there && k.Prefix.Addr().Is6() && !(foreign && f.Metric == k.Metric) {
			s.routes[k] = r
		}
	}
}

// readLink lists what is permanent on one link of ours. A listing that begins anew forgets what it had of this link.
func (s *state) readLink(ctx context.Context, conn *nl.Conn, link int, w *want) error {
	err := conn.Neighbors(ctx, link, func() {
		forget(s.neighbors, &s.agreed.neighbors, func(k nl.NeighborKey) bool { return k.Link == link })
	}, func(n nl.Neighbor) {
		store(s.neighbors, n.NeighborKey, n, &s.agreed.neighbors, w.neighbors[n.NeighborKey] == n)
	})
	if err != nil {
		return err
	}
	return conn.Forwards(ctx, link, func() {
		forget(s.forwards, &s.agreed.forwards, func(k nl.ForwardKey) bool { return k.Link == link })
		maps.DeleteFunc(s.spare, func(f nl.Forward, _ struct{}) bool { return f.Link == link })
	}, func(f nl.Forward) { s.addForward(f, w) })
}

func (s *state) addForward(f nl.Forward, w *want) {
	if _, more := s.forwards[f.ForwardKey]; more {
		s.spare[f] = struct{}{}
		return
	}
	store(s.forwards, f.ForwardKey, f, &s.agreed.forwards, w.forwards[f.ForwardKey] == f)
}

func (s *state) addNexthop(mark Mark, nh nl.Nexthop, w *want) {
	if !mark.owns(nh.ID) {
		return
	}
	v := asVia(nh)
	_, double := s.nexthops[v]
	switch {
	case nh.Protocol != mark.Protocol:
		s.taken[nh.ID] = struct{}{}
	case double:
		s.doubles[nh.ID] = nh
	default:
		store(s.nexthops, v, nh, &s.agreed.nexthops, w.users[v] > 0)
	}
}

func (s *state) addRoute(mark Mark, r nl.Route, w *want, seen func(place)) {
	if mark.ours(r) {
		wanted, ok := w.routes[r.RouteKey]
		store(s.routes, r.RouteKey, r, &s.agreed.routes, ok && w.ids.given[wanted.via()] == r.Nexthop)
		return
	}
	p := placeOf(r.RouteKey)
	seen(p)
	if w.concerns(p, r) {
		s.foreign[p] = r
	}
}

// ours reports whether the route bears our mark.
func (m Mark) ours(r nl.Route) bool { return r.Protocol == m.Protocol && m.owns(r.Nexthop) }
