package fib

import (
	"bytes"
	"cmp"
	"fmt"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// item is an object of our plans: its text is what `ip` and `bridge` print, and it knows how to be written.
type item interface {
	podweft.Object
	// put adds the request, or several.
	put(b *nl.Batch, op podweft.Op)
	// record makes the shadow say what the request will do, and revert undoes that.
	record(s *state, op podweft.Op)
	revert(s *state, op podweft.Op)
	// settled is told that the change was made, unsettled that it was not: the key is to be compared again.
	settled(w *want, op podweft.Op)
	unsettled(t *touched)
	// failed returns the reason to report for err. A nexthop that failed is the reason of the routes that need it.
	failed(lacking lacking, err error) error
}

// lacking is why nexthops are missing, by their ids.
type lacking map[uint32]error

type neighbor struct {
	nl.Neighbor
	dev string
	was nl.Neighbor
	had bool
}

func (n *neighbor) ID() string { return fmt.Sprintf("neighbour %s dev %s", n.Addr, n.dev) }

func (n *neighbor) String() string {
	return fmt.Sprintf("neighbour %s lladdr %s dev %s permanent", n.Addr, n.MAC, n.dev)
}

func (n *neighbor) put(b *nl.Batch, op podweft.Op) {
	if op == podweft.Delete {
		b.DeleteNeighbor(n.NeighborKey)
		return
	}
	b.SetNeighbor(n.Neighbor)
}

func (n *neighbor) record(s *state, op podweft.Op) {
	s.neighbors.keep(n.NeighborKey, n.Neighbor, op != podweft.Delete)
}

func (n *neighbor) revert(s *state, _ podweft.Op) { s.neighbors.keep(n.NeighborKey, n.was, n.had) }

func (n *neighbor) settled(*want, podweft.Op) {}

func (n *neighbor) unsettled(t *touched) { t.neighbors[n.NeighborKey] = struct{}{} }

func (n *neighbor) failed(_ lacking, err error) error { return err }

type forward struct {
	nl.Forward
	dev string
	was nl.Forward
	had bool
}

func (f *forward) ID() string { return fmt.Sprintf("fdb %s dev %s", f.MAC, f.dev) }

func (f *forward) String() string { return f.Format(f.dev) }

func (f *forward) put(b *nl.Batch, op podweft.Op) {
	if op == podweft.Delete {
		b.DeleteForward(f.Forward)
		return
	}
	if f.was.Nexthop != 0 {
		b.DeleteForward(f.was)
	}
	b.SetForward(f.Forward)
}

func (f *forward) record(s *state, op podweft.Op) {
	s.forwards.keep(f.ForwardKey, f.Forward, op != podweft.Delete)
}

func (f *forward) revert(s *state, _ podweft.Op) { s.forwards.keep(f.ForwardKey, f.was, f.had) }

func (f *forward) settled(*want, podweft.Op) {}

func (f *forward) unsettled(t *touched) { t.forwards[f.ForwardKey] = struct{}{} }

func (f *forward) failed(_ lacking, err error) error { return err }

// spareForward is a second destination of a MAC: the device would send to both. Only deleted, never made.
type spareForward struct {
	nl.Forward
	dev string
}

func (f *spareForward) ID() string { return fmt.Sprintf("fdb %s dev %s dst %s", f.MAC, f.dev, f.To) }

func (f *spareForward) String() string { return f.Format(f.dev) }

func (f *spareForward) put(b *nl.Batch, _ podweft.Op) { b.DeleteForward(f.Forward) }

func (f *spareForward) record(s *state, _ podweft.Op) {
	s.forwards.written = true
	delete(s.spare, f.Forward)
}

func (f *spareForward) revert(s *state, _ podweft.Op) { s.spare[f.Forward] = struct{}{} }

func (f *spareForward) settled(*want, podweft.Op) {}

func (f *spareForward) unsettled(*touched) {}

func (f *spareForward) failed(_ lacking, err error) error { return err }

type nexthop struct {
	nl.Nexthop
	dev string
}

func (n *nexthop) ID() string {
	if n.Source.IsValid() {
		return fmt.Sprintf("nexthop from %s to %s dev %s", n.Source, n.Gateway, n.dev)
	}
	return fmt.Sprintf("nexthop via %s dev %s", n.Gateway, n.dev)
}

func (n *nexthop) String() string { return n.Format(n.dev) }

func (n *nexthop) put(b *nl.Batch, op podweft.Op) {
	if op == podweft.Delete {
		b.DeleteNexthop(n.Nexthop.ID)
		return
	}
	b.AddNexthop(n.Nexthop)
}

func (n *nexthop) record(s *state, op podweft.Op) {
	s.nexthops.keep(asVia(n.Nexthop), n.Nexthop, op == podweft.Create)
}

func (n *nexthop) revert(s *state, op podweft.Op) {
	s.nexthops.keep(asVia(n.Nexthop), n.Nexthop, op == podweft.Delete)
}

func (n *nexthop) settled(w *want, op podweft.Op) {
	if op == podweft.Delete {
		w.ids.release(asVia(n.Nexthop))
	}
}

func (n *nexthop) unsettled(t *touched) { t.nexthops[asVia(n.Nexthop)] = struct{}{} }

func (n *nexthop) failed(lacking lacking, err error) error {
	lacking[n.Nexthop.ID] = err
	return err
}

// spareNexthop is a second nexthop object with the gateway of another. Only deleted, never made.
type spareNexthop struct {
	nl.Nexthop
	dev string
}

func (n *spareNexthop) ID() string { return fmt.Sprintf("nexthop %d", n.Nexthop.ID) }

func (n *spareNexthop) String() string { return n.Format(n.dev) }

func (n *spareNexthop) put(b *nl.Batch, _ podweft.Op) { b.DeleteNexthop(n.Nexthop.ID) }

func (n *spareNexthop) record(s *state, _ podweft.Op) {
	s.nexthops.written = true
	delete(s.doubles, n.Nexthop.ID)
}

func (n *spareNexthop) revert(s *state, _ podweft.Op) { s.doubles[n.Nexthop.ID] = n.Nexthop }

func (n *spareNexthop) settled(*want, podweft.Op) {}

func (n *spareNexthop) unsettled(*touched) {}

func (n *spareNexthop) failed(_ lacking, err error) error { return err }

type route struct {
	nl.Route
	dev string
	was nl.Route
	had bool
	// freed: it was not tried in the last pass, since another program's route stood there, which is gone.
	freed bool
}

func (r *route) ID() string { return nl.Route{RouteKey: r.RouteKey}.Format("") }

func (r *route) String() string { return r.Format(r.dev) }

func (r *route) put(b *nl.Batch, op podweft.Op) {
	switch op {
	case podweft.Create:
		b.AddRoute(r.Route)
	case podweft.Update:
		b.ReplaceRoute(r.Route)
	case podweft.Delete:
		b.DeleteRoute(r.Route)
	}
}

func (r *route) record(s *state, op podweft.Op) {
	s.routes.keep(r.RouteKey, r.Route, op != podweft.Delete)
}

func (r *route) revert(s *state, _ podweft.Op) { s.routes.keep(r.RouteKey, r.was, r.had) }

func (r *route) settled(*want, podweft.Op) {}

func (r *route) unsettled(t *touched) { t.routes[r.RouteKey] = struct{}{} }

func (r *route) failed(lacking lacking, err error) error { return cmp.Or(lacking[r.Nexthop], err) }

// These sort tens of thousands of keys before the first is written: nothing is compared that need not be, as cmp.Or's arguments would be.

func compareNeighborKeys(a, b nl.NeighborKey) int {
	if a.Link != b.Link {
		return cmp.Compare(a.Link, b.Link)
	}
	return a.Addr.Compare(b.Addr)
}

func compareForwardKeys(a, b nl.ForwardKey) int {
	if a.Link != b.Link {
		return cmp.Compare(a.Link, b.Link)
	}
	return bytes.Compare(a.MAC[:], b.MAC[:])
}

func compareForwards(a, b nl.Forward) int {
	return cmp.Or(compareForwardKeys(a.ForwardKey, b.ForwardKey), a.To.Compare(b.To))
}

func compareVias(a, b via) int {
	if a.link != b.link {
		return cmp.Compare(a.link, b.link)
	}
	if order := a.gateway.Compare(b.gateway); order != 0 {
		return order
	}
	return a.source.Compare(b.source)
}
