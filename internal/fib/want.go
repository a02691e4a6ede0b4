package fib

import (
	"sync"

	"github.com/podweft/podweft/internal/nl"
)

// want is what should be there, and which keys may differ from what is.
type want struct {
	neighbors map[nl.NeighborKey]nl.Neighbor
	forwards  map[nl.ForwardKey]nl.Forward
	routes    map[nl.RouteKey]Route
	users     map[via]int              // how many routes need the nexthop
	places    map[place]uint32         // where our routes stand, and with which metric
	blocked   map[nl.RouteKey]struct{} // routes that another program's kept us from making
	ids       *ids
	version   uint64 // another one for each change of the above but blocked

	touched touched
}

// touched are the keys that may differ: what was added or removed since the last comparison, and what failed after it.
type touched struct {
	neighbors map[nl.NeighborKey]struct{}
	forwards  map[nl.ForwardKey]struct{}
	routes    map[nl.RouteKey]struct{}
	nexthops  map[via]struct{}
}

// newWant is what entries need.
func newWant(ids *ids, entries []Entry) want {
	neighbors, forwards, routes := 0, 0, 0
	for _, e := range entries {
		neighbors, forwards, routes = neighbors+len(e.Neighbors), forwards+len(e.Forwards), routes+len(e.Routes)
	}
	w := want{
		neighbors: make(map[nl.NeighborKey]nl.Neighbor, neighbors),
		forwards:  make(map[nl.ForwardKey]nl.Forward, forwards),
		routes:    make(map[nl.RouteKey]Route, routes),
		users:     make(map[via]int, routes),
		places:    make(map[place]uint32, routes),
		blocked:   map[nl.RouteKey]struct{}{},
		ids:       ids,
		touched: touched{
			neighbors: map[nl.NeighborKey]struct{}{},
			forwards:  map[nl.ForwardKey]struct{}{},
			routes:    map[nl.RouteKey]struct{}{},
			nexthops:  map[via]struct{}{},
		},
	}
	// To fill the maps is a good part of what passes before the first write; they share nothing.
	var half sync.WaitGroup
	half.Go(func() {
		for _, e := range entries {
			w.addRoutes(e)
		}
	})
	for _, e := range entries {
		w.addHops(e)
	}
	half.Wait()
	return w
}

func (w *want) add(e Entry) {
	w.addHops(e)
	w.addRoutes(e)
}

func (w *want) addHops(e Entry) {
	for _, n := range e.Neighbors {
		w.neighbors[n.NeighborKey] = n
	}
	for _, f := range e.Forwards {
		w.forwards[f.ForwardKey] = f
	}
	for _, r := range e.Routes {
		w.users[r.via()]++
	}
}

func (w *want) addRoutes(e Entry) {
	for _, r := range e.Routes {
		k := r.key()
		w.routes[k] = r
		w.places[placeOf(k)] = k.Metric
	}
}

func (w *want) remove(e Entry) {
	for _, n := range e.Neighbors {
		delete(w.neighbors, n.NeighborKey)
	}
	for _, f := range e.Forwards {
		delete(w.forwards, f.ForwardKey)
	}
	for _, r := range e.Routes {
		k := r.key()
		delete(w.routes, k)
		delete(w.places, placeOf(k))
		if w.users[r.via()]--; w.users[r.via()] <= 0 {
			delete(w.users, r.via())
		}
	}
}

// touch has the entry's keys compared.
func (w *want) touch(e Entry) {
	for _, n := range e.Neighbors {
		w.touched.neighbors[n.NeighborKey] = struct{}{}
	}
	for _, f := range e.Forwards {
		w.touched.forwards[f.ForwardKey] = struct{}{}
	}
	for _, r := range e.Routes {
		w.touched.routes[r.key()] = struct{}{}
		w.touched.nexthops[r.via()] = struct{}{}
	}
}

// meets reports whether e wants a place that w does not, and another program's route may be there.
func (w *want) meets(e Entry, o *others) bool {
	for _, r := range e.Routes {
		p := placeOf(r.key())
		if _, had := w.places[p]; !had && o.at(p) {
			return true
		}
	}
	return false
}

// loses reports whether ours at p, if we want it, loses against another program's route there. In IPv4 and IPv6 alike the lower
// metric wins; at the same metric the kernel refuses a second route.
func (w *want) loses(p place, r nl.Route) bool {
	metric, ok := w.places[p]
	return ok && r.Metric <= metric
}
