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
	neighbors *held[nl.NeighborKey, nl.Neighbor]
	forwards  *held[nl.ForwardKey, nl.Forward] // the first destination of each MAC
	spare     map[nl.Forward]struct{}          // further destinations of a MAC, never wanted
	nexthops  *held[via, nl.Nexthop]           // ours
	doubles   map[uint32]nl.Nexthop            // ours, with the via of another
	taken     map[uint32]struct{}              // ids in our range that are not ours
	routes    *held[nl.RouteKey, nl.Route]     // ours
	foreign   map[place]nl.Route               // others' that win against or exclude ours

	version uint64 // of the want that it was read for
	learned bool   // ids has seen nexthops, doubles and taken
}

// newState is empty, with room for about n peers.
func newState(n int) *state {
	return &state{
		neighbors: newHeld[nl.NeighborKey, nl.Neighbor](n),
		forwards:  newHeld[nl.ForwardKey, nl.Forward](n),
		spare:     map[nl.Forward]struct{}{},
		nexthops:  newHeld[via, nl.Nexthop](n),
		doubles:   map[uint32]nl.Nexthop{},
		taken:     map[uint32]struct{}{},
		routes:    newHeld[nl.RouteKey, nl.Route](n),
		foreign:   map[place]nl.Route{},
	}
}

// read lists the kernel's tables into s, whose memory it uses. What they hold as they did in last, where that is not nil, is taken
// over from there. w says in which places other programs' routes matter; seen is told where any are.
func (s *state) read(ctx context.Context, conn *nl.Conn, mark Mark, scope Scope, w *want, last *state, seen func(place)) error {
	s.version = w.version
	if last == nil {
		last = &state{version: w.version + 1} // of another want than w: nothing is taken over
	}
	for _, table := range []func() error{
		func() error { return s.readNeighbors(ctx, conn, scope, w, last) },
		func() error { return s.readForwards(ctx, conn, scope, w, last) },
		func() error { return s.readNexthops(ctx, conn, mark, w, last) },
		func() error { return s.readRoutes(ctx, conn, mark, w, last, seen) },
	} {
		if err := table(); err != nil {
			return err
		}
	}
	return nil
}

// links are those of ours that can be read. In a plan there may be some that are not there yet.
func (s Scope) links() []int {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.Own)), func(link int) bool { return link < 0 })
}

func (s *state) readNeighbors(ctx context.Context, conn *nl.Conn, scope Scope, w *want, last *state) error {
	l := list(s.neighbors, last.neighbors, s.version == last.version, func(h *held[nl.NeighborKey, nl.Neighbor], n nl.Neighbor) {
		h.store(n.NeighborKey, n, w.neighbors[n.NeighborKey] == n)
	}, func() {})
	for _, link := range scope.links() {
		if err := conn.Neighbors(ctx, link, l.restart(), l.next); err != nil {
			return err
		}
	}
	s.neighbors = l.end()
	return nil
}

func (s *state) readForwards(ctx context.Context, conn *nl.Conn, scope Scope, w *want, last *state) error {
	reset := func() { s.spare = map[nl.Forward]struct{}{} }
	reset()
	l := list(s.forwards, last.forwards, s.version == last.version, func(h *held[nl.ForwardKey, nl.Forward], f nl.Forward) {
		if _, more := h.at[f.ForwardKey]; more {
			s.spare[f] = struct{}{}
			return
		}
		h.store(f.ForwardKey, f, w.forwards[f.ForwardKey] == f)
	}, reset)
	for _, link := range scope.links() {
		if err := conn.Forwards(ctx, link, l.restart(), l.next); err != nil {
			return err
		}
	}
	if s.forwards = l.end(); s.forwards == last.forwards {
		s.spare = last.spare
	}
	return nil
}

func (s *state) readNexthops(ctx context.Context, conn *nl.Conn, mark Mark, w *want, last *state) error {
	reset := func() { s.doubles, s.taken = map[uint32]nl.Nexthop{}, map[uint32]struct{}{} }
	reset()
	l := list(s.nexthops, last.nexthops, s.version == last.version, func(h *held[via, nl.Nexthop], nh nl.Nexthop) {
		v := asVia(nh)
		_, double := h.at[v]
		switch {
		case nh.Protocol != mark.Protocol:
			s.taken[nh.ID] = struct{}{}
		case double:
			s.doubles[nh.ID] = nh
		default:
			h.store(v, nh, w.users[v] > 0)
		}
	}, reset)
	err := conn.Nexthops(ctx, l.restart(), func(nh nl.Nexthop) {
		if mark.owns(nh.ID) {
			l.next(nh)
		}
	})
	if err != nil {
		return err
	}
	s.learned = false
	if s.nexthops = l.end(); s.nexthops == last.nexthops {
		s.doubles, s.taken, s.learned = last.doubles, last.taken, last.learned
	}
	return nil
}

func (s *state) readRoutes(ctx context.Context, conn *nl.Conn, mark Mark, w *want, last *state, seen func(place)) error {
	reset := func() { s.foreign = map[place]nl.Route{} }
	reset()
	l := list(s.routes, last.routes, s.version == last.version, func(h *held[nl.RouteKey, nl.Route], r nl.Route) {
		if !mark.ours(r) {
			s.foreign[placeOf(r.RouteKey)] = r
			return
		}
		wanted, ok := w.routes[r.RouteKey]
		h.store(r.RouteKey, r, ok && w.ids.given[wanted.via()] == r.Nexthop)
	}, reset)
	err := conn.Routes(ctx, l.restart(), func(r nl.Route) {
		if !mark.ours(r) {
			p := placeOf(r.RouteKey)
			seen(p)
			if !w.concerns(p, r) {
				return // of those there may be hundreds of thousands
			}
		}
		l.next(r)
	})
	if err != nil {
		return err
	}
	if s.routes = l.end(); s.routes == last.routes {
		s.foreign = last.foreign
	}
	return nil
}

// recall adds the IPv6 routes that an earlier listing of the same pass had. While others come and go a listing skips some that
// are there, each time others, and nothing tells (see nl). One that was really deleted meanwhile has been announced.
func (s *state) recall(before *state) {
	s.routes.agreed = unknown
	for k, r := range before.routes.at {
		_, there := s.routes.at[k]
		f, foreign := s.foreign[placeOf(k)]
		if !there && k.Prefix.Addr().Is6() && !(foreign && f.Metric == k.Metric) {
			s.routes.keep(k, r, true)
		}
	}
}

// ours reports whether the route bears our mark.
func (m Mark) ours(r nl.Route) bool { return r.Protocol == m.Protocol && m.owns(r.Nexthop) }
