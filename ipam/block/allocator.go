package block

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipam"
)

// AllocatorConfig says where an Allocator gets addresses and keeps the record of them.
type AllocatorConfig struct {
	// Claimers get the blocks: one, or on a dual-stack node one of each family. An owner gets an address from each.
	Claimers []*Claimer
	// IPAM is how addresses are given out: Path is required, Prefixes and Sets come from the Claimers. Nobody else may
	// allocate in that file; to look up and release is free to all.
	IPAM ipam.Config
	// Gateways go with the addresses, at most one of each family: what routed ports have, such as 169.254.1.1.
	Gateways []netip.Addr
}

// Allocator gives out the addresses of a node's blocks, and claims another block when it has none left. It is safe for
// concurrent use. The addresses are for routed ports: each goes with its full length.
//
// Blocks of one node may lie in any number of places that have less than 65,536 addresses ([ipam.Window]) from the first to the last; else
// in twelve ([ipam.MaxRanges]), of both families together.
type Allocator struct {
	cfg AllocatorConfig

	// turn is held, by a value in it, by a call. A channel, so that waiting can be called off.
	turn   chan struct{}
	shares [][]Share // by Claimer, in order
	pool   *ipam.Pool
	uses   int // how often shares and pool have become others

	mu    sync.Mutex
	shown []Share // for Shares, which waits for nobody's turn
}

// NewAllocator returns an Allocator that knows the node's shares. Its file has what was given out before, if that was in this
// boot.
func NewAllocator(ctx context.Context, cfg AllocatorConfig) (*Allocator, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	a := &Allocator{cfg: cfg, turn: make(chan struct{}, 1), shares: make([][]Share, len(cfg.Claimers))}
	if _, err := a.Sync(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

func (cfg AllocatorConfig) validate() error {
	var errs []error
	bad := func(field string, value any, problem string) {
		errs = append(errs, &podweft.FieldError{Field: field, Value: value, Problem: problem})
	}
	if len(cfg.Claimers) == 0 {
		bad("Claimers", nil, "are missing")
	}
	families := map[netip.Prefix]bool{}
	for i, c := range cfg.Claimers {
		if c == nil {
			bad(fmt.Sprintf("Claimers[%d]", i), nil, "is missing")
			continue
		}
		if families[c.family()] {
			bad(fmt.Sprintf("Claimers[%d]", i), nil, "is of the same family as another")
		}
		families[c.family()] = true
	}
	if len(cfg.IPAM.Prefixes)+len(cfg.IPAM.Sets) > 0 {
		bad("IPAM.Sets", nil, "are given; they come from the Claimers")
	}
	for i, g := range cfg.Gateways {
		if slices.ContainsFunc(cfg.Gateways[:i], func(h netip.Addr) bool { return g.Is4() == h.Is4() }) {
			bad(fmt.Sprintf("Gateways[%d]", i), g, "is of the same family as another")
		}
	}
	return errors.Join(errs...)
}

// locked runs fn alone.
func (a *Allocator) locked(ctx context.Context, fn func() error) error {
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-a.turn }()
	return fn()
}

// Close closes the file. What is held stays held, and what is claimed stays claimed.
func (a *Allocator) Close() error {
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	return a.pool.Close()
}

// Allocate gives owner an address of each family, and the same ones when it asks again, as [ipam.Pool.Allocate] does and with
// the same errors. When the node's shares are full, or do not have an address that is wanted, it first claims another; where
// that is not to be had the error is [ErrExhausted] or [ErrTaken] of this package.
func (a *Allocator) Allocate(ctx context.Context, owner ipam.Owner, want ...netip.Addr) (given ipam.Allocation, err error) {
	return a.allocate(ctx, owner, nil, want)
}

// AllocateOf is Allocate for an owner that is to have addresses of these pools alone, each named by its prefix: some are for the pods
// of a few namespaces, say. What owner holds already it keeps. Where no pool of a family is among them, the error is [ErrExhausted].
func (a *Allocator) AllocateOf(ctx context.Context, owner ipam.Owner, pools []netip.Prefix, want ...netip.Addr) (ipam.Allocation, error) {
	return a.allocate(ctx, owner, append([]netip.Prefix{}, pools...), want)
}

// allocate gives owner addresses of pools, of all if that is nil.
func (a *Allocator) allocate(ctx context.Context, owner ipam.Owner, pools []netip.Prefix, want []netip.Addr) (given ipam.Allocation, err error) {
	err = a.locked(ctx, func() error {
		if err := a.reach(ctx, owner, pools, want); err != nil {
			return err
		}
		for {
			from := a.from(pools)
			given, err = from.Allocate(ctx, owner, want...)
			if !errors.Is(err, ipam.ErrExhausted) {
				return err
			}
			claimed, extendErr := a.extend(ctx, from, pools)
			if extendErr != nil {
				return extendErr
			}
			if claimed == 0 {
				return err
			}
		}
	})
	return given, err
}

// from is what gives addresses of pools.
func (a *Allocator) from(pools []netip.Prefix) *ipam.Pool {
	if pools == nil {
		return a.pool
	}
	return a.pool.Within(pools...)
}

// reach claims a share of pools for every Claimer that has none, and for wanted addresses that are in none.
func (a *Allocator) reach(ctx context.Context, owner ipam.Owner, pools []netip.Prefix, want []netip.Addr) error {
	if _, err := a.pool.Lookup(ctx, owner); err == nil {
		return nil // it has what it has
	}
	for i, c := range a.cfg.Claimers {
		for _, w := range want {
			w = w.Unmap()
			if w.Is4() != c.family().Addr().Is4() || covers(a.shares[i:i+1], w) {
				continue
			}
			if err := a.claim(ctx, i, pools, w); err != nil {
				return err
			}
		}
		if !slices.ContainsFunc(a.shares[i], func(s Share) bool { return inside(s, pools) }) {
			if err := a.claim(ctx, i, pools, netip.Addr{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// inside reports whether a share is of one of pools; nil pools are all.
func inside(s Share, pools []netip.Prefix) bool {
	return pools == nil || slices.ContainsFunc(pools, s.Prefix.Overlaps)
}

// extend claims a share of pools for every Claimer whose shares are full, as from sees them.
func (a *Allocator) extend(ctx context.Context, from *ipam.Pool, pools []netip.Prefix) (claimed int, err error) {
	usage, err := from.Usage(ctx)
	if err != nil {
		return 0, err
	}
	for i, u := range usage {
		if u.Taken < u.Total {
			continue
		}
		if err := a.claim(ctx, i, pools, netip.Addr{}); err != nil {
			return claimed, err
		}
		claimed++
	}
	return claimed, nil
}

// claim claims one more share of pools. One that the pool cannot take is returned.
func (a *Allocator) claim(ctx context.Context, claimer int, pools []netip.Prefix, want netip.Addr) error {
	c := a.cfg.Claimers[claimer]
	s, err := c.claimOf(ctx, c.inside(pools), want)
	if err != nil {
		return err
	}
	next := slices.Clone(a.shares)
	next[claimer] = append(slices.Clone(next[claimer]), s)
	if err := a.use(next); err != nil {
		return errors.Join(err, a.cfg.Claimers[claimer].Return(ctx, s.Prefix))
	}
	return nil
}

// use makes the pool give out the addresses of shares, and of no others.
func (a *Allocator) use(shares [][]Share) error {
	cfg := a.cfg.IPAM
	for i, of := range shares {
		slices.SortFunc(of, func(s, t Share) int { return s.Prefix.Addr().Compare(t.Prefix.Addr()) })
		cfg.Sets = append(cfg.Sets, a.ranges(of, a.cfg.Claimers[i].family()))
	}
	if slices.ContainsFunc(cfg.Sets, func(set []ipam.Range) bool { return len(set) == 0 }) {
		cfg.Sets = nil // until there is something of each family, it looks up and releases
	}
	bridge(&cfg)
	pool, err := ipam.Open(cfg)
	if err != nil {
		return err
	}
	old := a.pool
	a.pool, a.shares = pool, shares
	a.uses++
	a.mu.Lock()
	a.shown = slices.Concat(shares...)
	a.mu.Unlock()
	if old != nil {
		_ = old.Close() // who heard of an error here would return a share that the pool gives out
	}
	return nil
}

// ranges makes one range of shares that follow on each other, since a pool takes few.
func (a *Allocator) ranges(shares []Share, family netip.Prefix) (ranges []ipam.Range) {
	for _, s := range shares {
		if n := len(ranges) - 1; n >= 0 && ranges[n].Last.Next() == s.Prefix.Addr() {
			ranges[n] = upTo(ranges[n], last(s.Prefix))
			continue
		}
		r := ipam.Range{Prefix: s.Prefix, First: s.Prefix.Addr(), Last: last(s.Prefix), Routed: true}
		if i := slices.IndexFunc(a.cfg.Gateways, func(g netip.Addr) bool { return g.Is4() == family.Addr().Is4() }); i >= 0 {
			r.Gateway = a.cfg.Gateways[i]
		}
		ranges = append(ranges, r)
	}
	return ranges
}

// Release takes back what owner holds. An owner that holds nothing is no error.
func (a *Allocator) Release(ctx context.Context, owner ipam.Owner) error {
	return a.locked(ctx, func() error { return a.pool.Release(ctx, owner) })
}

// Collect frees what the dead hold; see [ipam.Pool.Collect].
func (a *Allocator) Collect(
	ctx context.Context, dead func(ctx context.Context, held []ipam.Allocation) ([]ipam.Owner, error),
) (freed []ipam.Allocation, err error) {
	err = a.locked(ctx, func() error {
		freed, err = a.pool.Collect(ctx, dead)
		return err
	})
	return freed, err
}

// Trim returns the shares in which nobody holds an address, nor held one within the grace, but for as many of each family as
// it is told to keep. A node calls it now and then, and with none to keep when it is to be emptied. It returns what is not
// the node's any more.
func (a *Allocator) Trim(ctx context.Context, keep int) (returned []Share, err error) {
	return a.trim(ctx, keep, nil)
}

// TrimOf is Trim that keeps shares of these pools alone, each named by its prefix: nobody may be given an address of the others any more.
func (a *Allocator) TrimOf(ctx context.Context, keep int, pools []netip.Prefix) (returned []Share, err error) {
	return a.trim(ctx, keep, append([]netip.Prefix{}, pools...))
}

// trim keeps shares of pools, of any if that is nil.
func (a *Allocator) trim(ctx context.Context, keep int, pools []netip.Prefix) (returned []Share, err error) {
	if keep < 0 {
		return nil, &podweft.FieldError{Field: "keep", Value: keep, Problem: "is negative"}
	}
	err = a.locked(ctx, func() error {
		next := make([][]Share, len(a.shares))
		idle := make([][]Share, len(a.shares))
		for i, of := range a.shares {
			kept := 0
			for _, s := range of {
				used, err := a.pool.InUse(ctx, s.Prefix)
				if err != nil {
					return err
				}
				switch {
				case used:
					next[i] = append(next[i], s)
				case kept < keep && inside(s, pools):
					next[i] = append(next[i], s)
					kept++
				default:
					idle[i] = append(idle[i], s)
				}
			}
		}
		// First nobody can be given an address of them, then they are others' to have.
		if err := a.use(next); err != nil {
			return err
		}
		var errs []error
		for i, of := range idle {
			for _, s := range of {
				if err := a.cfg.Claimers[i].Return(ctx, s.Prefix); err != nil {
					errs = append(errs, err)
					continue
				}
				returned = append(returned, s)
			}
		}
		return errors.Join(errs...)
	})
	return returned, err
}

// Sync reads again what the node has, and so dispels doubts about it: call it now and then, as [Claimer.Shares]. It returns
// what is held of shares that are the node's no more, because somebody took it for dead: those pods have to be started anew.
func (a *Allocator) Sync(ctx context.Context) (lost []ipam.Allocation, err error) {
	for done := false; !done && err == nil; {
		var before int
		if err := a.locked(ctx, func() error { before = a.uses; return nil }); err != nil {
			return nil, err
		}
		// Not in a turn: while the Store is away, addresses of shares that are known can be had all the same.
		next := make([][]Share, len(a.cfg.Claimers))
		for i, c := range a.cfg.Claimers {
			if next[i], err = c.Shares(ctx); err != nil {
				return nil, err
			}
		}
		err = a.locked(ctx, func() (err error) {
			if done = a.uses == before; done { // else what was read is of before somebody's claim
				lost, err = a.settle(ctx, next)
			}
			return err
		})
	}
	return lost, err
}

// settle makes shares the node's, and returns who holds what is in none.
func (a *Allocator) settle(ctx context.Context, shares [][]Share) (lost []ipam.Allocation, err error) {
	if err := a.use(shares); err != nil {
		return nil, err
	}
	all, err := a.pool.All(ctx)
	for _, held := range all {
		if slices.ContainsFunc(held.Addresses, func(has ipam.Address) bool {
			addr := has.Prefix.Addr()
			return a.claims(addr) && !covers(shares, addr)
		}) {
			lost = append(lost, held)
		}
	}
	return lost, err
}

// claims reports whether a Claimer is of the address's family. Of another nobody knows whose the shares are: the node may have had pools
// of it when the address was given out.
func (a *Allocator) claims(addr netip.Addr) bool {
	return slices.ContainsFunc(a.cfg.Claimers, func(c *Claimer) bool { return c.family().Addr().Is4() == addr.Is4() })
}

// Shares returns what the node has, as far as the Allocator knows. It asks nobody and waits for nobody.
func (a *Allocator) Shares() []Share {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.shown)
}

// covers reports whether one of the shares has the address.
func covers(shares [][]Share, addr netip.Addr) bool {
	for _, of := range shares {
		if slices.ContainsFunc(of, func(s Share) bool { return s.Prefix.Contains(addr) }) {
			return true
		}
	}
	return false
}
