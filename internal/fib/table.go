// Package fib keeps routes, nexthop objects, neighbours and forwarding entries equal to what a driver wants. It is the
// common engine of the drivers whose bytes the kernel moves.
//
// It reads, compares and writes the difference in pipelined batches, in the order in which traffic needs it:
// neighbours, forwarding entries, nexthop objects, routes; deletions follow in the reverse order. Ours is what bears the
// owner's Mark, and everything permanent on links that are wholly ours. Another program's route in a place that we
// want is left untouched. One that wins against ours is reported as podweft.ErrConflict; one that loses is logged.
//
// What was last read and written is remembered (the shadow), so that one changed peer among thousands costs its own
// entries alone. Notifications are compared with the shadow: our own echoes agree with it, anything that does not
// voids it, and then the kernel is read again. Nothing's correctness rests on the shadow.
//
// The package creates no links and knows nothing of leases.
package fib

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

// Scope is the links that a Spec is about.
type Scope struct {
	// Own are the indexes of links that are wholly ours, with their names: whatever permanent neighbour or forwarding
	// entry is there and not wanted is deleted.
	Own map[int]string
	// Others are links that routes lead to, with their names. Nothing is swept there but our own routes.
	Others map[int]string
}

func (s Scope) name(link int) string {
	if name, ok := s.Own[link]; ok {
		return name
	}
	return s.Others[link]
}

// Table is the engine of one driver instance. It is safe for concurrent use.
type Table struct {
	conn *nl.Conn
	mark Mark
	log  *slog.Logger

	apply sync.Mutex // one comparison at a time

	mu      sync.Mutex // guards what events and passes share; nobody waits for the kernel while holding it
	want    want       // written with both locks held
	have    *state     // the shadow; nil when nothing has been read
	trusted bool       // have is what the kernel holds, as far as notifications tell
	eager   bool       // the links moved: what failed before deserves a try at once
	reading bool       // have is being replaced: no event can be compared with it
	own     map[int]string
	others  others // where other programs' routes were seen
	follows follows
	met     map[int]struct{} // links that had an event since Meet; nil after Follow
	changed func()           // that of Events
	moves   uint64           // events on the links we follow

	reads atomic.Uint64
}

// New returns an engine that writes through conn and marks what it writes with mark. log is told, at level warn, of other programs'
// routes at prefixes of ours that do no harm; nil means silence. The rest is in plans.
func New(conn *nl.Conn, mark Mark, log *slog.Logger) *Table {
	return &Table{conn: conn, mark: mark, log: cmp.Or(log, slog.New(slog.DiscardHandler)), want: newWant(newIDs(mark), nil)}
}

// Reads is the number of times the kernel's tables have been listed.
func (t *Table) Reads() uint64 { return t.reads.Load() }

// Plan compares the kernel with entries and writes nothing.
func (t *Table) Plan(ctx context.Context, scope Scope, entries []Entry) (podweft.Plan, error) {
	w := newWant(newIDs(t.mark), entries)
	have, err := readState(ctx, t.conn, t.mark, scope, &w, nil, func(place) {})
	if err != nil {
		return nil, err
	}
	w.ids.learn(have, w.users)
	return w.compare(true, t.mark, scope, have), nil
}

// Apply makes the kernel hold entries and nothing else of ours. It reads everything first.
func (t *Table) Apply(ctx context.Context, scope Scope, entries []Entry) (podweft.Plan, error) {
	t.apply.Lock()
	defer t.apply.Unlock()
	w := newWant(t.want.ids, entries) // a nexthop keeps its id
	w.blocked, w.version = t.want.blocked, t.want.version+1
	t.mu.Lock()
	t.want = w
	t.mu.Unlock()
	return t.full(ctx, scope)
}

// Resync is Apply of what was applied last.
func (t *Table) Resync(ctx context.Context, scope Scope) (podweft.Plan, error) {
	t.apply.Lock()
	defer t.apply.Unlock()
	return t.full(ctx, scope)
}

// Trusted reports whether Change may be used: the shadow is true and about these links.
func (t *Table) Trusted(scope Scope) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.trusted && maps.Equal(t.own, scope.Own)
}

// Change brings the kernel from what was last applied to the same without the entries removed and with those added,
// without reading it. What failed earlier is tried again too. The caller has made sure with Trusted that this is allowed.
func (t *Table) Change(ctx context.Context, scope Scope, removed, added []Entry) (podweft.Plan, error) {
	t.apply.Lock()
	defer t.apply.Unlock()
	t.mu.Lock()
	t.want.version++
	for _, e := range removed {
		t.want.remove(e)
		t.want.touch(e)
	}
	meets := slices.ContainsFunc(added, func(e Entry) bool { return t.want.meets(e, &t.others) })
	for _, e := range added {
		t.want.add(e)
		t.want.touch(e)
	}
	if meets {
		t.mu.Unlock()
		return t.full(ctx, scope)
	}
	plan := t.want.compare(false, t.mark, scope, t.have)
	t.mu.Unlock()
	if surprised := t.write(ctx, plan, podweft.PassOf(ctx).Held); !surprised {
		return plan, nil
	}
	// Something stands at a key that we believed free. Read, so that the conflict can be named.
	again, err := t.full(ctx, scope)
	return append(made(plan), again...), err
}

// fullTries is how often a pass reads when it is surprised by what it finds after reading. A listing leaves out what stands where one
// of its pieces ends, which is mostly the same again: the slower the processor, the more often.
const fullTries = 10

// full reads, compares everything and writes. When the kernel then holds something that the listing did not have, it reads
// again: somebody was faster, or the listing left it out (see recall).
func (t *Table) full(ctx context.Context, scope Scope) (podweft.Plan, error) {
	held := t.holder(ctx)
	var before podweft.Plan
	for try := 1; ; try++ {
		last := t.have
		have, err := t.refresh(ctx, scope)
		if err != nil {
			return before, err
		}
		if try > 1 {
			t.mu.Lock()
			have.recall(last)
			t.mu.Unlock()
		}
		t.want.ids.learn(have, t.want.users)
		plan, surprised := t.writeAlong(ctx, t.want.steps(true, t.mark, scope, have), held)
		if surprised {
			t.Distrust()
		}
		if try == 1 && !surprised { // usually, and the plan may be long
			return plan, nil
		}
		if !surprised || try == fullTries {
			return append(before, plan...), nil
		}
		before = append(before, made(plan)...)
	}
}

// made is the changes of plan that succeeded. It uses plan's memory.
func made(plan podweft.Plan) podweft.Plan {
	return slices.DeleteFunc(plan, func(c podweft.Change) bool { return c.Err != nil })
}

// holder says what the pass holds back: nothing, when the links have moved.
func (t *Table) holder(ctx context.Context) func(podweft.Object) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.eager {
		t.eager = false
		return func(podweft.Object) bool { return false }
	}
	return podweft.PassOf(ctx).Held
}

// refresh replaces the shadow by what the kernel holds.
func (t *Table) refresh(ctx context.Context, scope Scope) (*state, error) {
	t.mu.Lock()
	t.reading, t.trusted, t.own = true, true, maps.Clone(scope.Own)
	t.others = newOthers(t.want.places)
	t.mu.Unlock()
	t.reads.Add(1)
	have, err := readState(ctx, t.conn, t.mark, scope, &t.want, t.have, t.seeOther)
	for _, r := range t.replace(have, err) {
		t.tellBehind(r)
	}
	return have, err
}

// replace makes have the shadow and returns the routes behind ours that the one before did not have.
func (t *Table) replace(have *state, err error) (behind []nl.Route) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.have
	t.reading, t.have = false, have // an event during the reading has cleared trusted meanwhile
	if err != nil {
		t.trusted = false
		return nil
	}
	for k, r := range have.behind {
		if last == nil || last.behind[k] == (nl.Route{}) {
			behind = append(behind, r)
		}
	}
	slices.SortFunc(behind, func(a, b nl.Route) int { return nl.CompareRouteKeys(a.RouteKey, b.RouteKey) })
	return behind
}

func (t *Table) seeOther(p place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.others.see(p)
}

// Eager reports whether the links have moved since the last pass: what failed then deserves a try at once.
func (t *Table) Eager() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.eager
}

// Distrust voids the shadow: the next pass reads everything.
func (t *Table) Distrust() {
	t.mu.Lock()
	t.trusted = false
	t.mu.Unlock()
}

// portion is how many changes are encoded before they are sent, while more follow: the kernel should not wait for the rest.
const portion = 1024

// writeAlong sends each portion of each step while the next is being compared and encoded, and returns the whole.
func (t *Table) writeAlong(ctx context.Context, steps iter.Seq[podweft.Plan], held func(podweft.Object) bool) (plan podweft.Plan, surprised bool) {
	queue, sent := make(chan *transaction, 32), make(chan bool)
	go func() {
		surprised := false
		for x := range queue {
			surprised = x.send(ctx) || surprised
		}
		sent <- surprised
	}()
	var all []podweft.Plan
	lacking := lacking{}
	for step := range steps {
		for some := range slices.Chunk(step, portion) {
			queue <- t.prepare(some, held, lacking)
		}
		all = append(all, step)
	}
	close(queue)
	surprised = <-sent // and with it every Change's Err
	return slices.Concat(all...), surprised
}

// write sends the changes of plan as one batch.
func (t *Table) write(ctx context.Context, plan podweft.Plan, held func(podweft.Object) bool) (surprised bool) {
	return t.prepare(plan, held, lacking{}).send(ctx)
}

// transaction is a batch that the shadow knows of already.
type transaction struct {
	table   *Table
	batch   nl.Batch
	changes []*podweft.Change // one for each request
	lacking lacking           // guarded by the table's mu
}

// prepare encodes the changes that are to be tried, and makes the shadow say that they were made: when the kernel's
// notification of one arrives, it must find the shadow agreeing.
func (t *Table) prepare(plan podweft.Plan, held func(podweft.Object) bool, lacking lacking) *transaction {
	x := &transaction{table: t, lacking: lacking, changes: make([]*podweft.Change, 0, len(plan))}
	x.batch.Grow(len(plan))
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range plan {
		c := &plan[i]
		it := c.Object.(item)
		switch {
		case c.Err != nil:
		case !freed(it) && held(it):
			c.Err = opError(c, podweft.ErrHeld)
		case c.Op != podweft.Delete && lacks(it, lacking) != nil: // its nexthop was held, or is known to have failed
			c.Err = opError(c, lacks(it, lacking))
		}
		if c.Err != nil {
			_ = it.failed(lacking, c.Err)
			it.unsettled(&t.want.touched)
			continue
		}
		it.record(t.have, c.Op)
		for it.put(&x.batch, c.Op); len(x.changes) < x.batch.Len(); {
			x.changes = append(x.changes, c)
		}
	}
	return x
}

// send sends the batch and takes back from the shadow what failed. surprised means that the kernel held something else than
// the shadow said.
func (x *transaction) send(ctx context.Context) (surprised bool) {
	t := x.table
	errs := t.conn.Do(ctx, &x.batch)
	t.mu.Lock()
	defer t.mu.Unlock()
	for n, c := range x.changes {
		it := c.Object.(item)
		if errs == nil || errs[n] == nil || gone(c.Op, errs[n]) {
			it.settled(&t.want, c.Op)
			continue
		}
		it.revert(t.have, c.Op)
		it.unsettled(&t.want.touched)
		surprised = surprised || errors.Is(errs[n], unix.EEXIST)
		if !ordinary(errs[n]) {
			t.trusted = false
		}
		why := it.failed(x.lacking, errs[n])
		if c.Op == podweft.Delete { // which needs no nexthop
			why = errs[n]
		}
		c.Err = opError(c, why)
	}
	return surprised
}

// freed reports whether what failed last time was not tried then: another program's route stood in the way and is gone.
func freed(it item) bool {
	r, ok := it.(*route)
	return ok && r.freed
}

// lacks returns why the nexthop of a route is missing, if it is.
func lacks(it item, lacking lacking) error {
	if r, ok := it.(*route); ok {
		return lacking[r.Nexthop]
	}
	return nil
}

func opError(c *podweft.Change, err error) error {
	return &podweft.OpError{Op: c.Op.String(), Object: c.Object, Err: err}
}

// gone reports whether err says that what was to be deleted is not there, which is success. EINVAL is the kernel's word for a
// route whose nexthop object does not exist (rtm_to_fib_config in net/ipv4/fib_frontend.c, ip6_route_del): both are gone.
func gone(op podweft.Op, err error) bool {
	return op == podweft.Delete && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL))
}

// ordinary reports whether err is the kernel's refusal of one request. After anything else, such as lost answers, what the
// kernel did is unknown.
func ordinary(err error) bool {
	var errno unix.Errno
	return errors.As(err, &errno)
}

// conflict is the error of a route that cannot be ours because of another program's.
func conflict(scope Scope, f nl.Route) error {
	return fmt.Errorf("%w: %s", podweft.ErrConflict, describe(f, scope.name(f.Link)))
}
