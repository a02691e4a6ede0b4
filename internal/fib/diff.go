package fib

import (
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// compare returns what is to be done so that have becomes w, in the order of writing. It looks at the touched keys, or at all.
func (w *want) compare(all bool, mark Mark, scope Scope, have *state) podweft.Plan {
	return slices.Concat(slices.Collect(w.steps(all, mark, scope, have))...)
}

// steps yields what compare returns, kind by kind: one kind can be written while the next is being compared, since they
// share no map.
func (w *want) steps(all bool, mark Mark, scope Scope, have *state) iter.Seq[podweft.Plan] {
	return func(yield func(podweft.Plan) bool) {
		d := differ{want: w, have: have, all: all, mark: mark, scope: scope}
		for _, kind := range []func(){d.neighbors, d.forwards, d.nexthops, d.routes} {
			d.plan = nil
			kind()
			if len(d.plan) > 0 && !yield(d.plan) {
				return
			}
		}
		slices.Reverse(d.last)
		if len(d.last) > 0 {
			yield(d.last)
		}
	}
}

// differ collects the changes of one comparison.
type differ struct {
	want  *want
	have  *state
	all   bool
	mark  Mark
	scope Scope

	plan podweft.Plan // of the kind being compared
	last podweft.Plan // deletions, in the order of creation: they are made in reverse
}

// differing returns the keys at which want and have disagree, in the order of compare: among the touched keys, or all. The
// touched keys are used up. agreed is the number of keys at which they are known to agree, if it is.
func differing[K comparable, W, H any](all bool, agreed int, touched map[K]struct{}, want map[K]W, have map[K]H,
	same func(K, W, H) bool, compare func(a, b K) int) []K {
	var keys []K
	switch {
	case all && agreed == len(want) && agreed == len(have): // usually, and nobody need look
	case all:
		keys = make([]K, 0, max(len(want), len(have))-min(len(want), len(have)))
		shared := 0
		for k, w := range want {
			h, ok := have[k]
			if ok {
				shared++
			}
			if !ok || !same(k, w, h) {
				keys = append(keys, k)
			}
		}
		if shared < len(have) { // else there is nothing besides
			for k := range have {
				if _, ok := want[k]; !ok {
					keys = append(keys, k)
				}
			}
		}
	default:
		for k := range touched {
			w, wanted := want[k]
			h, there := have[k]
			if wanted != there || wanted && !same(k, w, h) {
				keys = append(keys, k)
			}
		}
	}
	clear(touched)
	slices.SortFunc(keys, compare)
	return keys
}

// set adds the change that makes i what it should be, instead of what it is or of nothing.
func (d *differ) set(had bool, i item) {
	op := podweft.Create
	if had {
		op = podweft.Update
	}
	d.plan = append(d.plan, podweft.Change{Op: op, Object: i})
}

// deleting makes room for that many deletions.
func (d *differ) deleting(n int) { d.last = slices.Grow(d.last, max(0, n)) }

func (d *differ) delete(i item) {
	d.last = append(d.last, podweft.Change{Op: podweft.Delete, Object: i})
}

func (d *differ) neighbors() {
	keys := differing(d.all, d.have.neighbors.agreed, d.want.touched.neighbors, d.want.neighbors, d.have.neighbors.at,
		func(_ nl.NeighborKey, w, h nl.Neighbor) bool { return w == h }, compareNeighborKeys)
	items := make([]neighbor, len(keys))
	d.plan = make(podweft.Plan, 0, max(0, len(d.want.neighbors)-len(d.have.neighbors.at)))
	d.deleting(len(d.have.neighbors.at) - len(d.want.neighbors))
	for n, k := range keys {
		i := &items[n]
		i.dev = d.scope.name(k.Link)
		i.was, i.had = d.have.neighbors.at[k]
		wanted, ok := d.want.neighbors[k]
		if !ok {
			i.Neighbor = i.was
			d.delete(i)
			continue
		}
		i.Neighbor = wanted
		d.set(i.had, i)
	}
}

func (d *differ) forwards() {
	keys := differing(d.all, d.have.forwards.agreed, d.want.touched.forwards, d.want.forwards, d.have.forwards.at,
		func(_ nl.ForwardKey, w, h nl.Forward) bool { return w == h }, compareForwardKeys)
	items := make([]forward, len(keys))
	d.plan = make(podweft.Plan, 0, max(0, len(d.want.forwards)-len(d.have.forwards.at)))
	d.deleting(len(d.have.forwards.at) - len(d.want.forwards))
	for n, k := range keys {
		i := &items[n]
		i.dev = d.scope.name(k.Link)
		i.was, i.had = d.have.forwards.at[k]
		wanted, ok := d.want.forwards[k]
		if !ok {
			i.Forward = i.was
			d.delete(i)
			continue
		}
		i.Forward = wanted
		d.set(i.had, i)
	}
	for _, f := range slices.SortedFunc(maps.Keys(d.have.spare), compareForwards) {
		d.delete(&spareForward{Forward: f, dev: d.scope.name(f.Link)})
	}
}

func (d *differ) nexthops() {
	keys := differing(d.all, d.have.nexthops.agreed, d.want.touched.nexthops, d.want.users, d.have.nexthops.at,
		func(via, int, nl.Nexthop) bool { return true }, compareVias)
	items := make([]nexthop, len(keys))
	d.plan = make(podweft.Plan, 0, max(0, len(d.want.users)-len(d.have.nexthops.at)))
	d.deleting(len(d.have.nexthops.at) - len(d.want.users))
	for n, v := range keys {
		i := &items[n]
		i.dev = d.scope.name(v.link)
		if there, ok := d.have.nexthops.at[v]; ok {
			i.Nexthop = there
			d.delete(i)
			continue
		}
		i.Nexthop = nl.Nexthop{
			ID: d.want.ids.of(v), Protocol: d.mark.Protocol, Gateway: v.gateway, Link: v.link, Onlink: v.onlink, Source: v.source,
		}
		d.set(false, i)
	}
	for _, id := range slices.Sorted(maps.Keys(d.have.doubles)) {
		nh := d.have.doubles[id]
		d.delete(&spareNexthop{Nexthop: nh, dev: d.scope.name(nh.Link)})
	}
}

func (d *differ) routes() {
	blocked := func(k nl.RouteKey) (nl.Route, bool) {
		f, ok := d.have.foreign[placeOf(k)]
		return f, ok
	}
	agreed := d.have.routes.agreed
	if len(d.have.foreign) > 0 {
		agreed = unknown // some may be blocked
	}
	keys := differing(d.all, agreed, d.want.touched.routes, d.want.routes, d.have.routes.at, func(k nl.RouteKey, w Route, h nl.Route) bool {
		_, is := blocked(k)
		return !is && h.Nexthop == d.want.ids.of(w.via())
	}, nl.CompareRouteKeys)
	items := make([]route, len(keys))
	d.plan = make(podweft.Plan, 0, max(0, len(d.want.routes)-len(d.have.routes.at)))
	d.deleting(len(d.have.routes.at) - len(d.want.routes))
	for n, k := range keys {
		i := &items[n]
		i.was, i.had = d.have.routes.at[k]
		wanted, ok := d.want.routes[k]
		if !ok {
			i.Route, i.dev = i.was, d.scope.name(i.was.Link)
			d.delete(i)
			continue
		}
		i.dev = d.scope.name(wanted.Link)
		i.Route = nl.Route{
			RouteKey: k, Protocol: d.mark.Protocol, Nexthop: d.want.ids.of(wanted.via()),
			Gateway: wanted.Gateway, Link: wanted.Link, Onlink: wanted.Onlink,
		}
		if wanted.Source.IsValid() {
			i.Gateway = netip.Addr{} // as the kernel lists it: the nexthop says the rest
		}
		d.set(i.had, i)
		_, i.freed = d.want.blocked[k]
		delete(d.want.blocked, k)
		if f, is := blocked(k); is {
			d.want.blocked[k] = struct{}{}
			c := &d.plan[len(d.plan)-1]
			c.Err = &podweft.OpError{Op: c.Op.String(), Object: i, Err: conflict(d.scope, f)}
		}
	}
}
