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
}

// read lists the kernel's tables into the empty s. w says in which places other programs' routes matter.
func (s *state) read(ctx context.Context, conn *nl.Conn, mark Mark, scope Scope, w *want) error {
	for _, link := range slices.Sorted(maps.Keys(scope.Own)) {
		if link < 0 {
			continue // in a plan: a link that is not there yet
		}
		if err := s.readLink(ctx, conn, link); err != nil {
			return err
		}
	}
	err := conn.Nexthops(ctx, func() {
		clear(s.nexthops)
		clear(s.doubles)
		clear(s.taken)
	}, func(nh nl.Nexthop) { s.addNexthop(mark, nh) })
	if err != nil {
		return err
	}
	return conn.Routes(ctx, func() {
		clear(s.routes)
		clear(s.foreign)
	}, func(r nl.Route) { s.addRoute(mark, r, w) })
}

// recall adds the IPv6 routes that an earlier listing of the same pass had. While others come and go a listing skips some that
// are there, each time others, and nothing tells (see nl). One that was really deleted meanwhile has been announced.
func (s *state) recall(before *state) {
	for k, r := range before.routes {
		_, there := s.routes[k]
		f, foreign := s.foreign[placeOf(k)]
		if !there && k.Prefix.Addr().Is6() && !(foreign && f.Metric == k.Metric) {
			s.routes[k] = r
		}
	}
}

// readLink lists what is permanent on one link of ours. A listing that begins anew forgets what it had of this link.
func (s *state) readLink(ctx context.Context, conn *nl.Conn, link int) error {
	err := conn.Neighbors(ctx, link, func() {
		maps.DeleteFunc(s.neighbors, func(k nl.NeighborKey, _ nl.Neighbor) bool { return k.Link == link })
	}, func(n nl.Neighbor) { s.neighbors[n.NeighborKey] = n })
	if err != nil {
		return err
	}
	return conn.Forwards(ctx, link, func() {
		maps.DeleteFunc(s.forwards, func(k nl.ForwardKey, _ nl.Forward) bool { return k.Link == link })
		maps.DeleteFunc(s.spare, func(f nl.Forward, _ struct{}) bool { return f.Link == link })
	}, s.addForward)
}

func (s *state) addForward(f nl.Forward) {
	if _, more := s.forwards[f.ForwardKey]; more {
		s.spare[f] = struct{}{}
		return
	}
	s.forwards[f.ForwardKey] = f
}

func (s *state) addNexthop(mark Mark, nh nl.Nexthop) {
	if !mark.owns(nh.ID) {
		return
	}
	v := via{nh.Link, nh.Gateway, nh.Onlink}
	_, double := s.nexthops[v]
	switch {
	case nh.Protocol != mark.Protocol:
		s.taken[nh.ID] = struct{}{}
	case double:
		s.doubles[nh.ID] = nh
	default:
		s.nexthops[v] = nh
	}
}

func (s *state) addRoute(mark Mark, r nl.Route, w *want) {
	if mark.ours(r) {
		s.routes[r.RouteKey] = r
		return
	}
	if p := placeOf(r.RouteKey); w.concerns(p, r) {
		s.foreign[p] = r
	}
}

// ours reports whether the route bears our mark.
func (m Mark) ours(r nl.Route) bool { return r.Protocol == m.Protocol && m.owns(r.Nexthop) }
