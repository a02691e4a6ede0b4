package nat

import (
	"cmp"
	"context"
	"log/slog"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/word"
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

// Validate reports what makes no sense in the Config as a [*podweft.FieldError].
func (cfg Config) Validate() error {
	if cfg.Owner != "" && !word.Valid(cfg.Owner, 64) {
		return &podweft.FieldError{
			Field: "Owner", Value: cfg.Owner, Problem: "cannot be part of a table's name",
			Remedy: "use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first",
		}
	}
	return nil
}

// Driver keeps the masquerade table of one node. It is a [podweft.Driver] and safe for concurrent use.
type Driver struct{ keeper }

var _ podweft.Driver[Spec] = (*Driver)(nil)

// New returns a Driver and changes nothing. It fails with EPERM without CAP_NET_ADMIN and with [podweft.ErrNotSupported]
// where the kernel has no nf_tables.
func New(cfg Config) (*Driver, error) {
	d := &Driver{}
	if err := d.open(cfg, tableName(cmp.Or(cfg.Owner, DefaultOwner), "nat")); err != nil {
		return nil, err
	}
	return d, nil
}

// Close frees the driver's sockets and ends its Watch. The table stays: a node daemon restarts without cutting traffic.
func (d *Driver) Close() error { return d.conn.Close() }

// Plan reads the table and returns what Apply would do.
func (d *Driver) Plan(ctx context.Context, spec Spec) (podweft.Plan, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	return d.plan(ctx, wanted(d.name, spec))
}

// Stamp tells the table that is there from any other: whoever has seen that it is as it should be need not look again while
// the stamp stays the same. It changes when the table or its chain is made anew, and when a rule comes or goes; only who
// changes the elements of its sets leaves it as it is. It takes a tenth of the time of a Plan. The error is fs.ErrNotExist
// where there is no table.
func (d *Driver) Stamp(ctx context.Context) (string, error) {
	return d.conn.Stamp(ctx, d.name, postrouting(d.name).Name)
}

// Apply makes the table what spec asks for, in one transaction: packets see it as it was or as it will be. Where a kernel
// before 5.2 has no nat in the inet family the error is [podweft.ErrNotSupported]; where another process owns the table by
// nftables' owner flag it is [podweft.ErrConflict].
func (d *Driver) Apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	return d.apply(ctx, wanted(d.name, spec))
}

// Watch calls changed once when it listens, and then whenever somebody else has changed something in the table, until ctx
// ends or the driver is closed.
func (d *Driver) Watch(ctx context.Context, changed func()) error {
	return d.conn.Watch(ctx, d.name, changed)
}

// Teardown deletes the table: from then on pods leave with their own addresses, but for connections under way.
func (d *Driver) Teardown(ctx context.Context) (podweft.Plan, error) { return d.Apply(ctx, Spec{}) }
