package nat

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"regexp"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
)

// DefaultOwner is the owner of an instance that does not name itself. Its table is podweft-nat.
const DefaultOwner = "podweft"

// Config says how a Driver reaches the kernel. Its zero value is good.
type Config struct {
	// Owner names the instance; empty means DefaultOwner. Its table is podweft-OWNER-nat: instances with different owners
	// live side by side.
	Owner string
	// NetNS is the path of the network namespace to work in; empty means the caller's.
	NetNS string
	// Logger gets each change at debug level; nil means silence.
	Logger *slog.Logger
}

var ownerForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// Validate reports what makes no sense in the Config as a [*podweft.FieldError].
func (cfg Config) Validate() error {
	if cfg.Owner != "" && !ownerForm.MatchString(cfg.Owner) {
		return &podweft.FieldError{
			Field: "Owner", Value: cfg.Owner, Problem: "cannot be part of a table's name",
			Remedy: "use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
		}
	}
	return nil
}

// Driver keeps the masquerade table of one node. It is a [podweft.Driver] and safe for concurrent use.
type Driver struct {
	conn *nft.Conn
	name nft.Table
	log  *slog.Logger

	applying sync.Mutex // an Apply reads and writes without another in between
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
	return &Driver{conn: conn, name: tableName(cmp.Or(cfg.Owner, DefaultOwner)), log: log}, nil
}

// Close frees the driver's sockets and ends its Watch. The table stays: a node daemon restarts without cutting traffic.
func (d *Driver) Close() error { return d.conn.Close() }

// Plan reads the table and returns what Apply would do.
func (d *Driver) Plan(ctx context.Context, spec Spec) (podweft.Plan, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	steps, err := d.compare(ctx, spec)
	return planOf(steps), err
}

// Apply makes the table what spec asks for, in one transaction: packets see it as it was or as it will be. Where a kernel
// before 5.2 has no nat in the inet family the error is [podweft.ErrNotSupported]; where another process owns the table by
// nftables' owner flag it is [podweft.ErrConflict].
func (d *Driver) Apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	d.applying.Lock()
	defer d.applying.Unlock()
	plan, err := d.apply(ctx, spec)
	d.report(ctx, plan)
	return plan, err
}

// tries is how often an Apply begins anew because the table was changed between reading and writing.
const tries = 4

func (d *Driver) apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	for try := 1; ; try++ {
		steps, err := d.compare(ctx, spec)
		if err != nil {
			return nil, err
		}
		hold(podweft.PassOf(ctx), steps)
		d.write(ctx, steps)
		plan := planOf(steps)
		if err = failures(plan); try == tries || !moved(err) {
			return plan, err
		}
	}
}

// Watch calls changed once when it listens, and then whenever somebody else has changed something in the table, until ctx
// ends or the driver is closed.
func (d *Driver) Watch(ctx context.Context, changed func()) error {
	return d.conn.Watch(ctx, d.name, changed)
}

// Teardown deletes the table: from then on pods leave with their own addresses, but for connections under way.
func (d *Driver) Teardown(ctx context.Context) (podweft.Plan, error) { return d.Apply(ctx, Spec{}) }

// compare reads the table and lists what is to be changed.
func (d *Driver) compare(ctx context.Context, spec Spec) ([]step, error) {
	have, err := d.read(ctx)
	if err != nil {
		return nil, err
	}
	steps := compare(d.name, have, wanted(d.name, spec))
	if len(steps) > 0 && have != nil && have.owner != 0 {
		return []step{{Change: nft.OwnedByOther(nft.TableInfo{Table: d.name, Owner: have.owner})}}, nil
	}
	return steps, nil
}

// read reads the table; nil is none. One that disappears meanwhile is none, too.
func (d *Driver) read(ctx context.Context) (*table, error) {
	t, err := d.readTable(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return t, err
}

func (d *Driver) readTable(ctx context.Context) (*table, error) {
	info, err := d.conn.Table(ctx, d.name)
	if err != nil {
		return nil, err
	}
	t := &table{flags: info.Flags, owner: info.Owner, elements: map[nft.Set][]nft.Element{}}
	if t.chains, err = d.conn.Chains(ctx, d.name); err != nil {
		return nil, err
	}
	if t.rules, err = d.conn.Rules(ctx, d.name); err != nil {
		return nil, err
	}
	if t.sets, err = d.conn.Sets(ctx, d.name); err != nil {
		return nil, err
	}
	for _, s := range t.sets {
		if t.elements[s], err = d.conn.Elements(ctx, s); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// moved reports whether err is what one gets for changing something that has gone or come since it was read.
func moved(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST)
}

func (d *Driver) report(ctx context.Context, plan podweft.Plan) {
	if !d.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	for _, c := range plan {
		d.log.DebugContext(ctx, "masquerade changed", "op", c.Op.String(), "object", c.Object.String(), "err", c.Err)
	}
}
