package iptables

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy/internal/bridges"
)

// Driver keeps one node's rules and sets of policies. It is a [podweft.Driver] and safe for concurrent use.
type Driver struct {
	cfg     Config
	names   names
	tools   tools
	variant Variant
	log     *slog.Logger
	gate    bridges.Gate
	closed  chan struct{}
	once    sync.Once

	moves    atomic.Uint64 // counts what others have done to the rules
	listings atomic.Uint64

	mu   sync.Mutex
	last *applied // what there is, unless somebody has moved it; nil if that is not known
}

// applied is what an Apply has left behind.
type applied struct {
	bridges []string
	images  [len(families)]*image
	moves   uint64
}

var _ podweft.Driver[Spec] = (*Driver)(nil)

// New finds the programs, and which variant of them is to be used, and changes nothing. The error is [podweft.ErrNotSupported] where
// one is not installed.
func New(cfg Config) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	t, variant, err := find(context.Background(), cfg) // programs that only read
	if err != nil {
		return nil, err
	}
	return &Driver{
		cfg: cfg, names: cfg.names(), tools: t, variant: variant, log: log, closed: make(chan struct{}),
		gate: bridges.Gate{NetNS: cfg.NetNS, Name: cfg.names().frame(start)},
	}, nil
}

// Variant is which programs the driver uses.
func (d *Driver) Variant() Variant { return d.variant }

// Close ends the driver's Watch. Rules and sets stay, and policies with them: a node daemon restarts without opening anything.
func (d *Driver) Close() error {
	d.once.Do(func() { close(d.closed) })
	return nil
}

// Plan reads what there is and returns what Apply would do. A set that is to be made is one line, whatever is in it. Whether bridges
// ask policies it does not look at: Apply finds that out by making them ask.
func (d *Driver) Plan(ctx context.Context, spec Spec) (podweft.Plan, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	var plan podweft.Plan
	have, errs := d.read(ctx)
	for i, f := range families {
		want := d.cfg.render(f, spec)
		if have[i] != nil {
			plan = append(plan, compare(d.names, have[i], want).plan...)
		} else if len(want.chains) == 0 && errors.Is(errs[i], podweft.ErrNotSupported) {
			errs[i] = nil
		}
	}
	return plan, errors.Join(errs[:]...)
}

// Apply makes rules and sets what spec asks for: a packet is judged as it was before or as it is after, also while elements move one
// by one. One family comes after the other, and one that fails does not keep the other from being made.
//
// In a [podweft.Loop] and while the rules are not touched, an Apply reads nothing but the switches of br_netfilter, where bridges are
// named. Any other reads rules and sets; so does the one after an Apply that has written rules, which Watch takes for another's.
//
// Where programs or what they need of the kernel are missing the error is [podweft.ErrNotSupported], and so it is where bridges cannot
// be made to ask.
func (d *Driver) Apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	plan, err := d.apply(ctx, spec)
	plan.Log(ctx, d.log)
	return plan, err
}

func (d *Driver) apply(ctx context.Context, spec Spec) (podweft.Plan, error) {
	now := &applied{bridges: spec.bridged(), moves: d.moves.Load()}
	last := d.last
	d.last = nil
	var plan podweft.Plan
	var berr error
	// Nobody tells when br_netfilter is turned off, as many a sysctl.conf has it: named bridges are looked at each time.
	if len(now.bridges) > 0 || last == nil || !podweft.PassOf(ctx).Watching() || !slices.Equal(last.bridges, now.bridges) {
		plan, berr = d.gate.Reach(ctx, now.bridges)
	}
	var errs [len(families)]error
	if last != nil && podweft.PassOf(ctx).Watching() && last.moves == now.moves {
		now.images = last.images
	} else {
		now.images, errs = d.read(ctx)
	}
	for i, f := range families {
		want := d.cfg.render(f, spec)
		if now.images[i] == nil {
			if len(want.chains) == 0 && errors.Is(errs[i], podweft.ErrNotSupported) {
				errs[i] = nil // nothing is there, and nothing should be
			}
			continue
		}
		c := compare(d.names, now.images[i], want)
		errs[i] = d.write(ctx, c)
		plan = append(plan, c.plan...)
		now.images[i] = c.next
	}
	err := errors.Join(append(errs[:], berr)...)
	if err == nil {
		d.last = now
	}
	return plan, err
}

// read reads both families. The image of one that cannot be read is nil.
func (d *Driver) read(ctx context.Context) (images [len(families)]*image, errs [len(families)]error) {
	d.listings.Add(1)
	sets, serr := d.tools.saveSets(ctx)
	for i, f := range families {
		rules, err := d.tools.save(ctx, f)
		if errs[i] = errors.Join(err, serr); errs[i] != nil {
			continue
		}
		images[i] = newImage(f)
		images[i].readRules(d.names, rules)
		images[i].readSets(d.names, sets)
	}
	return images, errs
}

// write makes the change. When it cannot be made each part of the plan has the error, and what ipset has done until then stays: new sets,
// to which nothing leads, or some of the elements that move one by one, in whose order any beginning is good. The next pass finds what
// is left to do. Where only the sets cannot be destroyed that nothing leads to any more, their deletions have the error.
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
	if c.before.Len() > 0 {
		if err := d.tools.restoreSets(ctx, c.before.String()); err != nil {
			return c.fail(err)
		}
	}
	if c.rules.Len() > 0 {
		if err := d.tools.restore(ctx, c.family, c.rules.String()); err != nil {
			return c.fail(err)
		}
	}
	if c.after.Len() > 0 {
		if err := d.tools.restoreSets(ctx, c.after.String()); err != nil {
			return failed(c.plan[c.swept:], err)
		}
	}
	return nil
}

func (c *change) fail(err error) error { return failed(c.plan, err) }

func failed(plan podweft.Plan, err error) error {
	for i := range plan {
		plan[i].Err = err
	}
	return err
}

// Teardown removes rules and sets: from then on no policy is enforced.
func (d *Driver) Teardown(ctx context.Context) (podweft.Plan, error) { return d.Apply(ctx, Spec{}) }
