package forward

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
)

// Driver keeps our rules in the FORWARD chains that drop. It is a [podweft.Driver] and safe for concurrent use.
type Driver struct {
	mark  string // comment of our rules
	netns string
	log   *slog.Logger
	conn  *nft.Conn // nil where the kernel has no nf_tables
	ended chan struct{}
	end   func() // closes ended
}

var _ podweft.Driver[Spec] = (*Driver)(nil)

// New returns a Driver and changes nothing. It fails with EPERM without CAP_NET_ADMIN. Where the kernel has no nf_tables, the old
// tables are all that there is.
func New(cfg Config) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	conn, err := nft.Open(cfg.NetNS)
	if err != nil && !errors.Is(err, podweft.ErrNotSupported) {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ended := make(chan struct{})
	return &Driver{
		mark: "podweft-forward-" + cmp.Or(cfg.Owner, DefaultOwner), netns: cfg.NetNS, log: log, conn: conn,
		ended: ended, end: sync.OnceFunc(func() { close(ended) }),
	}, nil
}

// Close frees the driver's sockets and ends its Watch. The rules stay.
func (d *Driver) Close() error {
	d.end()
	if d.conn == nil {
		return nil
	}
	return d.conn.Close()
}

// Plan reads the chains and returns what Apply would do.
func (d *Driver) Plan(ctx context.Context, spec Spec) (podweft.Plan, error) {
	steps, err := d.compare(ctx, spec)
	return planOf(steps), err
}

// Apply adds our rules where they are missing and removes those that nothing wants. Where there are old tables and their program is
// not installed, whether they drop and what is in them cannot be known: what might be necessary there fails with
// [podweft.ErrNotSupported].
func (d *Driver) Apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	steps, err := d.compare(ctx, spec)
	if err != nil {
		return nil, err
	}
	for i := range steps {
		if s := &steps[i]; podweft.PassOf(ctx).Held(s.Object) {
			s.Err = podweft.ErrHeld
		} else {
			s.Err = s.do(ctx)
		}
	}
	plan := planOf(steps)
	plan.Log(ctx, d.log)
	return plan, plan.Err()
}

// Watch calls changed once when it listens, and then whenever somebody else has changed something in iptables' table filter. The
// old tables are not listened to: they cannot be.
func (d *Driver) Watch(ctx context.Context, changed func()) error {
	if d.conn == nil {
		changed()
		select {
		case <-ctx.Done():
			return nil
		case <-d.ended:
			return os.ErrClosed
		}
	}
	var tables []nft.Table
	for _, f := range families {
		tables = append(tables, f.table())
	}
	return d.conn.WatchAll(ctx, tables, changed)
}

// Teardown removes our rules.
func (d *Driver) Teardown(ctx context.Context) (podweft.Plan, error) { return d.Apply(ctx, Spec{}) }

// step is a change and how it is made.
type step struct {
	podweft.Change
	do func(context.Context) error
}

func planOf(steps []step) podweft.Plan {
	var plan podweft.Plan
	for _, s := range steps {
		plan = append(plan, s.Change)
	}
	return plan
}

// compare lists what is to be changed.
func (d *Driver) compare(ctx context.Context, spec Spec) ([]step, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	var steps []step
	for _, f := range families {
		some, err := d.compareNFT(ctx, f, spec)
		if err != nil {
			return nil, err
		}
		old, err := d.compareLegacy(ctx, f, spec)
		if err != nil {
			return nil, err
		}
		steps = append(append(steps, some...), old...)
	}
	return steps, nil
}
