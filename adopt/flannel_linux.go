package adopt

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/subnet"
)

// DefaultOwner is the owner of an instance that does not name itself.
const DefaultOwner = "podweft"

// Config says for whom a node is taken over. Its zero value is good.
type Config struct {
	// Owner is that of the drivers that go on with flannel's links; empty means DefaultOwner, which is theirs too.
	Owner string
	// NetNS is the path of the network namespace to work in; empty means the caller's.
	NetNS string
	// Logger gets each change at debug level; nil means silence.
	Logger *slog.Logger
}

// Flannel takes over from flanneld. It is not safe for concurrent use.
type Flannel struct {
	owner, netns string
	log          *slog.Logger
	conn         *nl.Conn
	rules        *nft.Conn // nil where the kernel has no nf_tables
}

// NewFlannel opens what it needs and changes nothing.
func NewFlannel(cfg Config) (*Flannel, error) {
	conn, err := nl.Dial(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	rules, err := nft.Open(cfg.NetNS)
	if err != nil && !errors.Is(err, podweft.ErrNotSupported) {
		return nil, errors.Join(err, conn.Close())
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Flannel{owner: cmp.Or(cfg.Owner, DefaultOwner), netns: cfg.NetNS, log: log, conn: conn, rules: rules}, nil
}

// Close frees the sockets.
func (f *Flannel) Close() error {
	err := f.conn.Close()
	if f.rules != nil {
		err = errors.Join(err, f.rules.Close())
	}
	return err
}

// Plan says what Begin and Finish would do, and changes nothing. Like them it wants the store's snapshot: the network, in which it
// looks for what flannel left, and the leases, by which routes that need no link of flannel's are known.
func (f *Flannel) Plan(ctx context.Context, snap *subnet.Snapshot) (podweft.Plan, error) {
	found, err := f.look(ctx, snap)
	if err != nil {
		return nil, err
	}
	steps := append(f.marks(found), f.stepBack(found)...)
	removals, err := f.removals(ctx)
	return planOf(append(steps, removals...)), err
}

// Begin gives flannel's links our mark and lets its routes step back. What it returns is what it did; on a node where flannel
// never was, nothing.
func (f *Flannel) Begin(ctx context.Context, snap *subnet.Snapshot) (podweft.Plan, error) {
	found, err := f.look(ctx, snap)
	if err != nil {
		return nil, err
	}
	return f.do(ctx, append(f.marks(found), f.stepBack(found)...))
}

// Finish removes what is left of flannel, when the driver's routes are in their places. It goes on past what fails. A route to a
// node's subnet that is still the only one stays and is among the failed; a later Finish takes it.
func (f *Flannel) Finish(ctx context.Context, snap *subnet.Snapshot) (podweft.Plan, error) {
	found, err := f.look(ctx, snap)
	if err != nil {
		return nil, err
	}
	removals, err := f.removals(ctx)
	plan, failed := f.do(ctx, append(f.forget(found, snap), removals...))
	return plan, errors.Join(err, failed)
}

// Teardown removes the routes that have stepped back and are left, whatever else leads there. It wants nothing of a store.
func (f *Flannel) Teardown(ctx context.Context) (podweft.Plan, error) {
	links, err := f.conn.Links()
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	var steps []step
	err = f.conn.Routes(ctx, func() { steps = nil }, func(r nl.Route) {
		if r.Table == nl.TableMain && f.steppedBack(r) {
			steps = append(steps, f.forgetting(r, names))
		}
	})
	if err != nil {
		return nil, err
	}
	return f.do(ctx, steps)
}

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

// do makes the changes, one after the other.
func (f *Flannel) do(ctx context.Context, steps []step) (podweft.Plan, error) {
	for i := range steps {
		s := &steps[i]
		if err := s.do(ctx); err != nil {
			s.Err = &podweft.OpError{Op: s.Op.String(), Object: s.Object, Err: err}
		}
	}
	plan := planOf(steps)
	plan.Log(ctx, f.log)
	return plan, plan.Err()
}

// request is a change over rtnetlink.
func (f *Flannel) request(op podweft.Op, o podweft.Object, note string, fill func(*nl.Batch)) step {
	return step{podweft.Change{Op: op, Object: o, Note: note}, func(ctx context.Context) error {
		var b nl.Batch
		fill(&b)
		return errors.Join(f.conn.Do(ctx, &b)...)
	}}
}

// inside reports whether addresses that begin with those bits of a are a part of the network, and not all of it.
func inside(network *subnet.Network, a netip.Addr, bits int) bool {
	for _, r := range []subnet.Range{network.V4, network.V6} {
		if r.Network.IsValid() && r.Network.Contains(a) && bits > r.Network.Bits() {
			return true
		}
	}
	return false
}
