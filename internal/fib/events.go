package fib

import (
	"github.com/podweft/podweft/internal/nl"
)

// follows are the links whose events concern us. By name too: one that does not exist yet has no index.
type follows struct {
	names   map[string]struct{}
	indexes map[int]struct{}
}

// Meet begins a look at the links, which Follow ends. Until then it is not known which indexes matter: a link that was found by
// its name may be renamed before, and its event then says nothing that anybody would follow. So all are remembered.
func (t *Table) Meet(names []string) {
	t.Follow(names, Scope{})
	t.mu.Lock()
	t.met = map[int]struct{}{}
	t.mu.Unlock()
}

// Follow says which links matter: those of that name, and those in scope. Any event of theirs voids what is remembered,
// since the kernel deletes routes and nexthop objects with a link that goes down and says nothing of them.
func (t *Table) Follow(names []string, scope Scope) {
	f := follows{names: map[string]struct{}{}, indexes: map[int]struct{}{}}
	for _, name := range names {
		if name != "" { // as the events of addresses have it
			f.names[name] = struct{}{}
		}
	}
	for _, links := range []map[int]string{scope.Own, scope.Others} {
		for index := range links {
			f.indexes[index] = struct{}{}
		}
	}
	t.mu.Lock()
	moved := false
	for index := range t.met {
		if _, matters := f.indexes[index]; matters {
			moved = true
		}
	}
	t.follows, t.met = f, nil
	if moved {
		t.moved()
	}
	changed := t.changed
	t.mu.Unlock()
	if moved {
		changed()
	}
}

// moved notes an event of a link that matters. The caller holds mu.
func (t *Table) moved() {
	t.moves++
	t.trusted, t.eager = false, true
}

// Moves counts the events of the links that matter. What was read of links and addresses holds while it stays the same.
func (t *Table) Moves() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.moves
}

// linkEvent voids the shadow, and lets the next pass try at once what is held back: it may have failed for the link.
func (t *Table) linkEvent(index int, name string, changed func()) {
	t.mu.Lock()
	_, byIndex := t.follows.indexes[index]
	_, byName := t.follows.names[name]
	moved := byIndex || byName
	if moved {
		t.moved()
	} else if t.met != nil {
		t.met[index] = struct{}{}
	}
	t.mu.Unlock()
	if moved {
		changed()
	}
}

// Events compares what the kernel announces with the shadow and calls changed when they disagree. What agrees is the echo of
// our own writes, which cannot be told from others by their sender: the kernel announces forwarding entries, link changes
// and cascaded deletions as its own.
func (t *Table) Events(changed func()) nl.Events {
	t.mu.Lock()
	t.changed = changed
	t.mu.Unlock()
	check := func(agrees func(s *state) bool) {
		t.mu.Lock()
		// With no shadow there is nothing to agree with; while it is being replaced, nothing can be said.
		moved := t.have == nil || t.reading || !agrees(t.have)
		if moved {
			t.trusted = false
		}
		t.mu.Unlock()
		if moved {
			changed()
		}
	}
	return nl.Events{
		Link:    func(index int, name string) { t.linkEvent(index, name, changed) },
		Address: func(link int) { t.linkEvent(link, "", changed) },
		OfLink: func(link int) bool {
			t.mu.Lock()
			defer t.mu.Unlock()
			_, ok := t.own[link]
			return ok
		},
		Neighbor: func(n nl.Neighbor, deleted bool) {
			check(func(s *state) bool {
				have, there := s.neighbors.at[n.NeighborKey]
				return there != deleted && (deleted || have == n)
			})
		},
		Forward: func(f nl.Forward, deleted bool) {
			check(func(s *state) bool {
				// A deletion is of one destination: that of another than ours takes nothing from us.
				have, there := s.forwards.at[f.ForwardKey]
				return (there && have == f) != deleted
			})
		},
		Route:   func(r nl.Route, deleted bool) { t.routeEvent(check, r, deleted) },
		Nexthop: func(nh nl.Nexthop, deleted bool) { t.nexthopEvent(check, nh, deleted) },
		Lost: func() {
			t.Distrust()
			changed()
		},
	}
}

// routeEvent ignores the routes of others, of which there may be thousands a second, unless they stand in a place of ours. Those that
// win against ours are looked into, the rest is only told of.
func (t *Table) routeEvent(check func(func(*state) bool), r nl.Route, deleted bool) {
	if t.mark.ours(r) {
		check(func(s *state) bool {
			have, there := s.routes.at[r.RouteKey]
			return there != deleted && (deleted || have.Nexthop == r.Nexthop)
		})
		return
	}
	if !t.concerns(r, deleted) {
		if !deleted && t.meetBehind(r) {
			t.tellBehind(r)
		}
		return
	}
	check(func(s *state) bool {
		_, there := s.foreign[placeOf(r.RouteKey)]
		return there != deleted
	})
}

func (t *Table) concerns(r nl.Route, deleted bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := placeOf(r.RouteKey)
	if !deleted {
		t.others.see(p)
	}
	return t.want.loses(p, r)
}

// meetBehind notes another program's route behind one of ours, and reports whether it was not known.
func (t *Table) meetBehind(r nl.Route) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, wanted := t.want.places[placeOf(r.RouteKey)]; !wanted || t.have == nil || t.reading {
		return false // who reads sees it
	}
	_, known := t.have.behind[r.RouteKey]
	t.have.behind[r.RouteKey] = r
	return !known
}

// tellBehind reports another program's route at a prefix of ours that does no harm while ours is there. Of one that comes and goes it
// is called once for each listing.
func (t *Table) tellBehind(r nl.Route) {
	t.log.Warn("another program's route stands behind ours, and takes over where ours is missing", "route", describe(r, ""))
}

func (t *Table) nexthopEvent(check func(func(*state) bool), nh nl.Nexthop, deleted bool) {
	if !t.mark.owns(nh.ID) {
		return
	}
	check(func(s *state) bool {
		if nh.Protocol != t.mark.Protocol {
			_, there := s.taken[nh.ID]
			return there != deleted
		}
		have, there := s.nexthops.at[asVia(nh)]
		there = there && have.ID == nh.ID
		return there != deleted
	})
}
