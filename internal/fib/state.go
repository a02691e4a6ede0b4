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
	behind    map[nl.RouteKey]nl.Route         // others' that ours win against

	version uint64 // of the want that it was read for
	learned bool   // ids has seen nexthops, doubles and taken
}

// reader is who reads the kernel's tables into a state.
type reader struct {
	conn  *nl.Conn
	mark  Mark
	scope Scope
	want  *want       // says in which places other programs' routes matter
	last  *state      // what was read before; empty when nothing was
	again bool        // for the same want
	seen  func(place) // is told where other programs' routes are

	*state
}

// readState lists the kernel's tables. What they hold as they did in last, where that is not nil, is taken over from there; last itself
// stays as it is. seen is told where other programs' routes are.
func readState(ctx context.Context, conn *nl.Conn, mark Mark, scope Scope, w *want, last *state, seen func(place)) (*state, error) {
	r := reader{conn: conn, mark: mark, scope: scope, want: w, last: last, seen: seen, state: &state{version: w.version}}
	if last == nil {
		r.last = &state{}
	} else {
		r.again = last.version == w.version
	}
	for _, table := range []func(context.Context) error{r.readNeighbors, r.readForwards, r.readNexthops, r.readRoutes} {
		if err := table(ctx); err != nil {
			return nil, err
		}
	}
	return r.state, nil
}

// links are those of ours that can be read. In a plan there may be some that are not there yet.
func (s Scope) links() []int {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.Own)), func(link int) bool { return link < 0 })
}

func (r *reader) readNeighbors(ctx context.Context) error {
	l := list(len(r.want.neighbors), r.last.neighbors, r.again, func(h *held[nl.NeighborKey, nl.Neighbor], n nl.Neighbor) {
		h.store(n.NeighborKey, n, r.want.neighbors[n.NeighborKey] == n)
	}, func() {})
	for _, link := range r.scope.links() {
		if err := r.conn.Neighbors(ctx, link, l.restart(), l.next); err != nil {
			return err
		}
	}
	r.neighbors = l.end()
	return nil
}

func (r *reader) readForwards(ctx context.Context) error {
	l := list(len(r.want.forwards), r.last.forwards, r.again, func(h *held[nl.ForwardKey, nl.Forward], f nl.Forward) {
		if _, more := h.at[f.ForwardKey]; more {
			r.spare[f] = struct{}{}
			return
		}
		h.store(f.ForwardKey, f, r.want.forwards[f.ForwardKey] == f)
	}, func() { r.spare = map[nl.Forward]struct{}{} })
	for _, link := range r.scope.links() {
		if err := r.conn.Forwards(ctx, link, l.restart(), l.next); err != nil {
			return err
		}
	}
	if r.forwards = l.end(); r.forwards == r.last.forwards {
		r.spare = r.last.spare
	}
	return nil
}

func (r *reader) readNexthops(ctx context.Context) error {
	l := list(len(r.want.users), r.last.nexthops, r.again, func(h *held[via, nl.Nexthop], nh nl.Nexthop) {
		v := asVia(nh)
		_, double := h.at[v]
		switch {
		case nh.Protocol != r.mark.Protocol:
			r.taken[nh.ID] = struct{}{}
		case double:
			r.doubles[nh.ID] = nh
		default:
			h.store(v, nh, r.want.users[v] > 0)
		}
	}, func() { r.doubles, r.taken = map[uint32]nl.Nexthop{}, map[uint32]struct{}{} })
	err := r.conn.Nexthops(ctx, l.restart(), func(nh nl.Nexthop) {
		if r.mark.owns(nh.ID) {
			l.next(nh)
		}
	})
	if err != nil {
		return err
	}
	if r.nexthops = l.end(); r.nexthops == r.last.nexthops {
		r.doubles, r.taken, r.learned = r.last.doubles, r.last.taken, r.last.learned
	}
	return nil
}

func (r *reader) readRoutes(ctx context.Context) error {
	l := list(len(r.want.routes), r.last.routes, r.again, func(h *held[nl.RouteKey, nl.Route], route nl.Route) {
		if !r.mark.ours(route) {
			if p := placeOf(route.RouteKey); r.want.loses(p, route) {
				r.foreign[p] = route
			} else {
				r.behind[route.RouteKey] = route
			}
			return
		}
		wanted, ok := r.want.routes[route.RouteKey]
		h.store(route.RouteKey, route, ok && r.want.ids.given[wanted.via()] == route.Nexthop)
	}, func() { r.foreign, r.behind = map[place]nl.Route{}, map[nl.RouteKey]nl.Route{} })
	err := r.conn.Routes(ctx, l.restart(), func(route nl.Route) {
		if !r.mark.ours(route) {
			p := placeOf(route.RouteKey)
			r.seen(p)
			if _, wanted := r.want.places[p]; !wanted {
				return // of those there may be hundreds of thousands
			}
		}
		l.next(route)
	})
	if err != nil {
		return err
	}
	if r.routes = l.end(); r.routes == r.last.routes {
		r.foreign, r.behind = r.last.foreign, r.last.behind
	}
	return nil
}

// recall adds the IPv6 routes that an earlier listing of the same pass had. While others come and go a listing skips some that
// are there, not always the same, and nothing tells (see nl). One that was really deleted meanwhile has been announced.
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
