package nftables

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/policy/internal/bridges"
)

// Driver keeps one node's table of policies. It is a [podweft.Driver] and safe for concurrent use.
type Driver struct {
	conn  *nft.Conn
	gate  bridges.Gate
	table nft.Table
	group uint16
	log   *slog.Logger
	flags atomic.Uint32 // that a new table gets; none where the kernel does not know them

	moves    atomic.Uint64 // counts what others have done to the table
	listings atomic.Uint64

	mu   sync.Mutex
	last *applied // what the table has, unless somebody has moved it; nil if that is not known
}

// applied is what an Apply has left behind.
type applied struct {
	spec  Spec
	moves uint64
	lists map[string]int // chains that use each list of ports
}

var _ podweft.Driver[Spec] = (*Driver)(nil)

// New returns a Driver and changes nothing. It fails with EPERM without CAP_NET_ADMIN and with [podweft.ErrNotSupported]
// where the kernel has no nf_tables.
func New(cfg Config) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	conn, err := nft.Open(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Generation(context.Background()); err != nil { // answered at once
		return nil, errors.Join(err, conn.Close())
	}
	gate := bridges.Gate{NetNS: cfg.NetNS, Name: cfg.table().Name, Conn: conn}
	d := &Driver{conn: conn, gate: gate, table: cfg.table(), group: cfg.LogGroup, log: log}
	if !cfg.Shared {
		d.flags.Store(uint32(nft.Owned | nft.Persist))
	}
	return d, nil
}

// Close frees the driver's sockets and ends its Watch. The table stays, and policies with it: a node daemon restarts without
// opening anything. It is nobody's then, and whoever may, can change it.
func (d *Driver) Close() error { return d.conn.Close() }

// Plan reads the table and returns what Apply would do. A set or map that is to be made is one line, whatever is in it. Whether bridges
// ask policies it does not look at: Apply finds that out by making them ask. Where the table is another process's own, a change that
// has failed says so in front of those that wait for that process's end.
func (d *Driver) Plan(ctx context.Context, spec Spec) (podweft.Plan, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	c, info, err := d.compare(ctx, spec)
	if err != nil {
		return nil, err
	}
	if d.theirs(info) && len(c.plan) > 0 {
		return append(podweft.Plan{nft.OwnedByOther(info)}, c.plan...), nil
	}
	return c.plan, nil
}

// Apply makes the table what spec asks for: packets see it as it was or as it will be. New chains and sets are made first, when
// nothing leads to them; the rest is one transaction. Only a load of some thousand pods into no table takes several, and
// whatever is too large for the socket's buffer; then what [Spec.Closed] has is closed from the first until the last.
//
// In a [podweft.Loop] and while nobody else touches the table, an Apply looks only at what has changed since the last, which
// costs what changed. Any other reads the table.
//
// Where there is something to change in a table that another process owns, as a predecessor does which has not ended yet, the error
// is [podweft.ErrConflict]; a [podweft.Loop] tries again. Where bridges cannot be made to ask, it is [podweft.ErrNotSupported].
func (d *Driver) Apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	plan, err := d.apply(ctx, spec)
	plan.Log(ctx, d.log)
	return plan, err
}

// tries is how often an Apply begins anew because the table was changed between reading and writing.
const tries = 4

// An owner's socket outlives its Close for a moment where its process is starting another one, which has a copy of it until it has
// become that program. Until then, and not much longer, a table that is another's is waited for.
const (
	lingering = time.Second
	lookAgain = 5 * time.Millisecond
)

func (d *Driver) apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	last := d.last
	d.last = nil
	known := last != nil && podweft.PassOf(ctx).Watching() && last.moves == d.moves.Load() && spec.Rules != nil && last.spec.equalButRules(spec)
	if !known {
		if err := spec.Validate(); err != nil {
			return nil, err
		}
		info, err := d.outlast(ctx)
		if err != nil {
			return nil, err
		}
		if d.theirs(info) {
			return d.beside(ctx, spec)
		}
	}
	var bridged podweft.Plan
	var err error
	if !known || len(spec.Bridges) > 0 { // nobody tells when br_netfilter is turned off, as many a sysctl.conf has it
		if bridged, err = d.gate.Reach(ctx, spec.bridged()); err != nil && bridged == nil {
			return nil, err
		}
	}
	if known && err == nil {
		c, err := between(d.renderer(last.spec), d.renderer(spec), last.lists)
		if err != nil {
			return bridged, err
		}
		err = d.write(ctx, c)
		if err == nil {
			last.spec = spec
			d.last = last
		}
		if !moved(err) {
			return append(bridged, c.plan...), err
		}
	}
	for try := 1; ; try++ {
		moves := d.moves.Load()
		c, _, cerr := d.compare(ctx, spec)
		if cerr != nil {
			return bridged, errors.Join(err, cerr)
		}
		cerr = d.write(ctx, c)
		if try < tries && (moved(cerr) || d.unowned(cerr)) {
			continue
		}
		if cerr == nil && err == nil && spec.Rules != nil {
			d.last = &applied{spec: spec, moves: moves, lists: countLists(spec.Rules)}
		}
		return append(bridged, c.plan...), errors.Join(err, cerr)
	}
}

// theirs reports whether the table is another process's own, or another Driver's.
func (d *Driver) theirs(info nft.TableInfo) bool { return info.Owner != 0 && !d.conn.Owns(info) }

// outlast waits for a lingering owner, and returns the table as it is then.
func (d *Driver) outlast(ctx context.Context) (nft.TableInfo, error) {
	for begun := time.Now(); ; {
		info, err := d.conn.Table(ctx, d.table)
		if errors.Is(err, fs.ErrNotExist) {
			return nft.TableInfo{}, nil
		}
		settled := err != nil || !d.theirs(info) || podweft.PassOf(ctx).Held(nft.OwnedByOther(info).Object)
		if settled || time.Since(begun) > lingering || !pause(ctx, lookAgain) {
			return info, err
		}
	}
}

// beside is an Apply to another's table, and leaves what closes bridges to its owner too. If there is something to change, the plan
// is one change that failed.
func (d *Driver) beside(ctx context.Context, spec Spec) (podweft.Plan, error) {
	c, info, err := d.compare(ctx, spec)
	if err != nil || len(c.plan) == 0 {
		return nil, err
	}
	plan := podweft.Plan{nft.OwnedByOther(info)}
	return plan, plan.Err()
}

// pause reports whether it has waited so long before ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// moved reports whether err is what one gets for changing something that has gone or come since it was read, or become another's.
func moved(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EPERM)
}

// unowned reports whether err is a kernel's that cannot make a table with our flags: EOPNOTSUPP, and before 5.12 EINVAL. There will
// be none then.
func (d *Driver) unowned(err error) bool {
	var refused *podweft.OpError
	none := errors.As(err, &refused) && refused.Object == podweft.Object(d.table) &&
		(errors.Is(refused.Err, unix.EOPNOTSUPP) || errors.Is(refused.Err, unix.EINVAL))
	return none && d.flags.Swap(0) != 0
}

func (d *Driver) renderer(spec Spec) renderer {
	return renderer{table: d.table, group: d.group, audit: spec.Audit, strict: spec.Strict, im: newImage(), rules: spec.Rules}
}

// compare reads the table and says what is to be done.
func (d *Driver) compare(ctx context.Context, spec Spec) (*change, nft.TableInfo, error) {
	want := newImage()
	if spec.Rules != nil {
		r := d.renderer(spec)
		r.all(spec)
		want = r.im
	}
	d.listings.Add(1)
	info, have, err := d.read(ctx)
	there := !errors.Is(err, fs.ErrNotExist)
	if there && err != nil {
		return nil, info, err
	}
	return d.difference(there, info, have, want), info, nil
}

// difference is compare, and what is to be done about the table itself.
func (d *Driver) difference(there bool, info nft.TableInfo, have, want *image) *change {
	flags := nft.TableFlags(d.flags.Load())
	c := &change{}
	switch {
	case want.empty() && !there:
		return c
	case want.empty():
		c.plan = podweft.Plan{{Op: podweft.Delete, Object: d.table}}
		c.batch.DeleteTable(d.table)
		return c
	case there && unlike(have, want):
		c.whole = true
		c.batch.DeleteTable(d.table)
		c.batch.AddTable(d.table, flags)
		c.note(podweft.Update, d.table, "has things of our names that are not ours: all of it is made anew")
		return c.from(newImage(), want)
	case !there:
		c.whole, c.first = true, true
		c.before.AddTable(d.table, flags) // by itself: where the kernel does not know the flags, it says so before it has seen the rest
		c.note(podweft.Create, d.table, "")
		return c.from(newImage(), want)
	}
	note := ""
	if !info.Orphan() || flags == 0 {
		flags = info.Flags &^ nft.Dormant
	} else {
		note = "was nobody's"
	}
	if info.Flags&nft.Dormant != 0 {
		note = "was dormant"
	}
	if note != "" {
		c.note(podweft.Update, d.table, note)
		c.batch.AddTable(d.table, flags)
	}
	return c.from(have, want)
}

// read reads the table. The error is fs.ErrNotExist if there is none.
func (d *Driver) read(ctx context.Context) (info nft.TableInfo, im *image, err error) {
	im = newImage()
	if info, err = d.conn.Table(ctx, d.table); err != nil {
		return info, nil, err
	}
	chains, err := d.conn.Chains(ctx, d.table)
	if err != nil {
		return info, nil, err
	}
	for _, c := range chains {
		im.chain(c)
	}
	rules, err := d.conn.Rules(ctx, d.table)
	if err != nil {
		return info, nil, err
	}
	for _, r := range rules {
		if c := im.chains[r.Chain]; c != nil { // else it came since, and so will a hint
			c.rules = append(c.rules, r)
		}
	}
	sets, err := d.conn.Sets(ctx, d.table)
	if err != nil {
		return info, nil, err
	}
	for _, s := range sets {
		in := im.set(s)
		if in.elements, err = d.conn.Elements(ctx, s); err != nil {
			return info, nil, err
		}
	}
	return info, im, nil
}

// write makes the change. When it cannot be made, each part of the plan has the error: no packet is judged otherwise than before,
// unless a load into no table has begun, and what nothing leads to is removed by the next pass.
func (d *Driver) write(ctx context.Context, c *change) error {
	if len(c.plan) == 0 {
		return nil
	}
	pass := podweft.PassOf(ctx)
	for i := range c.plan {
		if pass.Held(c.plan[i].Object) {
			return c.fail(podweft.ErrHeld)
		}
	}
	send := d.conn.Commit
	if c.first {
		send = d.conn.Load
	}
	for _, b := range []*nft.Batch{&c.before, &c.batch} {
		err := send(ctx, b)
		if !c.first && errors.Is(err, nft.ErrTooLarge) {
			err = d.conn.Load(ctx, b)
		}
		if err != nil {
			return c.fail(explain(err))
		}
	}
	return nil
}

func (c *change) fail(err error) error {
	for i := range c.plan {
		c.plan[i].Err = err
	}
	return err
}

// explain says of a rule that the kernel does not know what it is likely to lack.
func explain(err error) error {
	var refused *nft.TransactionError
	if !errors.As(err, &refused) {
		return err
	}
	f := refused.Failed[0] // the others often only miss this one
	if r, ok := f.Object.(nft.Rule); ok && (errors.Is(f.Err, unix.ENOENT) || errors.Is(f.Err, unix.EOPNOTSUPP)) {
		return &podweft.OpError{Op: f.Op, Object: r, Err: fmt.Errorf("%w: a module for the rule, or what it names, is missing: %w", podweft.ErrNotSupported, f.Err)}
	}
	return f
}

// Watch calls changed once when it listens, and then whenever somebody else has changed something in the table, or in that which closes
// bridges, until ctx ends or the driver is closed.
func (d *Driver) Watch(ctx context.Context, changed func()) error {
	return d.conn.WatchAll(ctx, []nft.Table{d.table, d.gate.Table()}, func() {
		d.moves.Add(1)
		changed()
	})
}

// Teardown deletes the table, and with it whatever closes a bridge: from then on no policy is enforced. The table of a process that
// is still at work stays, and the error is [podweft.ErrConflict].
func (d *Driver) Teardown(ctx context.Context) (podweft.Plan, error) { return d.Apply(ctx, Spec{}) }
