// Package peers keeps the kernel equal to a Spec that is a few links and thousands of peers. It is what the drivers of such
// Specs share: when to read everything and when to write a difference alone, and what to remember for that.
//
// A pass whose Spec differs from the last in its peers alone, while nothing has happened to the links, checks and writes what
// differs. Any other pass looks at everything: it makes the links, lays the peers' entries out over them, and has package
// fib read and compare.
//
// The package knows neither a kind of link nor what a peer needs; its drivers do.
package peers

import (
	"context"
	"slices"
	"sync"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/delta"
	"github.com/podweft/podweft/internal/fib"
)

// Layout is what the links of one moment mean for the peers' entries.
type Layout[L any] interface {
	Equal(L) bool
	Scope() fib.Scope
}

// Kind says how a driver deals with Specs of type S, their peers P, layouts L and an index X of what peers must not share.
// All but Finish and Report are required.
type Kind[S, P any, L Layout[L], X any] struct {
	// Peers is where a Spec has its peers, Order the order in which no two are alike, and Same whether nothing differs.
	Peers func(*S) *[]P
	Order func(a, b P) int
	Same  func(a, b *P) bool
	// SameLinks reports whether nothing but peers differs.
	SameLinks func(a, b S) bool
	// Check makes the index of a Spec, or says what is wrong with it. Recheck brings an index from one list of peers to
	// another; after an error it is thrown away.
	Check   func(S) (X, error)
	Recheck func(x X, removed, added []P) error
	// Names are the links that matter.
	Names func(S) []string
	// Links makes the Spec's links or, unless write is set, says what would have to be done.
	Links func(ctx context.Context, spec S, write bool) (podweft.Plan, L, error)
	// Entry is what some peers need.
	Entry func(l L, spec S, some []P) fib.Entry
	// Finish is the last step of looking at everything: what had to stay until no route leads there.
	Finish func(ctx context.Context, l L, write bool) podweft.Plan
	// Report says of a whole Spec what no entry can.
	Report func(l L, spec S) podweft.Plan
}

// Keeper keeps a Table at the entries of Specs. It is safe for concurrent use.
type Keeper[S, P any, L Layout[L], X any] struct {
	kind  Kind[S, P, L, X]
	table *fib.Table

	mu   sync.Mutex           // one pass at a time
	last *applied[S, P, L, X] // nil when the next pass must look at everything
}

// applied is the Spec that the kernel agrees with, as far as events tell, and the links it was applied to.
type applied[S, P any, L Layout[L], X any] struct {
	spec   S
	index  X
	layout L
	moves  uint64
}

// New returns a Keeper that has applied nothing yet.
func New[S, P any, L Layout[L], X any](table *fib.Table, kind Kind[S, P, L, X]) *Keeper[S, P, L, X] {
	if kind.Finish == nil {
		kind.Finish = func(context.Context, L, bool) podweft.Plan { return nil }
	}
	if kind.Report == nil {
		kind.Report = func(L, S) podweft.Plan { return nil }
	}
	return &Keeper[S, P, L, X]{kind: kind, table: table}
}

// Plan says what Apply would do.
func (k *Keeper[S, P, L, X]) Plan(ctx context.Context, spec S) (podweft.Plan, error) {
	if _, err := k.kind.Check(spec); err != nil {
		return nil, err
	}
	plan, layout, err := k.kind.Links(ctx, spec, false)
	if err != nil {
		return plan, err
	}
	entries, err := k.table.Plan(ctx, layout.Scope(), []fib.Entry{k.kind.Entry(layout, spec, *k.kind.Peers(&spec))})
	return slices.Concat(plan, entries, k.kind.Finish(ctx, layout, false), k.kind.Report(layout, spec)), err
}

// Apply makes the kernel agree with spec.
func (k *Keeper[S, P, L, X]) Apply(ctx context.Context, spec S) (podweft.Plan, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	given, last := spec, k.last
	list := k.kind.Peers(&spec)
	var before []P
	if last != nil {
		before = *k.kind.Peers(&last.spec)
	}
	ordered, rest := delta.InOrderLike(*list, before, k.kind.Order, k.kind.Same)
	*list = ordered
	k.last = nil
	if k.trusts(ctx, last, spec) {
		return k.change(ctx, last, spec, rest)
	}
	again := last != nil && k.kind.SameLinks(last.spec, spec) && rest.Empty()
	if !again {
		index, err := k.kind.Check(given) // its errors number the peers as their author did
		if err != nil {
			return nil, err
		}
		last = &applied[S, P, L, X]{spec: spec, index: index}
	}
	return k.all(ctx, last, again)
}

// trusts reports whether only peers may differ from what was applied last, and what is remembered of the kernel holds.
func (k *Keeper[S, P, L, X]) trusts(ctx context.Context, last *applied[S, P, L, X], spec S) bool {
	return podweft.PassOf(ctx).Watching() && last != nil && last.moves == k.table.Moves() &&
		k.kind.SameLinks(last.spec, spec) && k.table.Trusted(last.layout.Scope())
}

// all looks at everything. again says that the Table has next's entries already, if they are for the same layout.
func (k *Keeper[S, P, L, X]) all(ctx context.Context, next *applied[S, P, L, X], again bool) (podweft.Plan, error) {
	spec := next.spec
	moves := k.table.Moves()
	k.table.Meet(k.kind.Names(spec))
	plan, layout, err := k.kind.Links(ctx, spec, true)
	if err != nil {
		return plan, err
	}
	scope := layout.Scope()
	k.table.Follow(k.kind.Names(spec), scope)
	var entries podweft.Plan
	if again && layout.Equal(next.layout) {
		entries, err = k.table.Resync(ctx, scope)
	} else {
		entries, err = k.table.Apply(ctx, scope, []fib.Entry{k.kind.Entry(layout, spec, *k.kind.Peers(&spec))})
	}
	if err != nil {
		return append(plan, entries...), err
	}
	finished := k.kind.Finish(ctx, layout, true)
	if plan.Err() == nil && finished.Err() == nil {
		next.layout, next.moves = layout, moves
		k.last = next
	}
	return slices.Concat(plan, entries, finished, k.kind.Report(layout, spec)), nil
}

// change writes the difference between two lists of peers, and checks only what differs.
func (k *Keeper[S, P, L, X]) change(ctx context.Context, last *applied[S, P, L, X], spec S, rest delta.Rest[P]) (podweft.Plan, error) {
	removed, added := rest.Sorted()
	if err := k.kind.Recheck(last.index, removed, added); err != nil {
		return nil, err
	}
	plan, err := k.table.Change(ctx, last.layout.Scope(),
		[]fib.Entry{k.kind.Entry(last.layout, spec, removed)}, []fib.Entry{k.kind.Entry(last.layout, spec, added)})
	if err == nil {
		last.spec = spec
		k.last = last
	}
	return append(plan, k.kind.Report(last.layout, spec)...), err
}
