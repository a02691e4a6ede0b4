package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/podweft/podweft"
)

// Pool gives out addresses. It is safe for concurrent use, beside other Pools on the same file in this process and others.
type Pool struct {
	rules *ruleset
	grace uint64
	now   func() uint64 // nanoseconds since boot

	// turn is held, by a value in it, while a call uses the store. A channel, so that waiting can be called off.
	turn  chan struct{}
	store *store
}

// Open makes a Pool of the file at cfg.Path. It fails if the configuration makes no sense, if the file cannot be opened or
// made, or if it is no store ([ErrDamaged]). It waits for nobody.
func Open(cfg Config) (*Pool, error) {
	rules, err := cfg.compile()
	if err != nil {
		return nil, err
	}
	if cfg.BootID == "" {
		if cfg.BootID, err = bootID(); err != nil {
			return nil, fmt.Errorf("open address store: %w", err)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := newStore(cfg.Path, cfg.BootID, cfg.Logger)
	s.patience = cfg.Patience
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("open address store: %w", err)
	}
	return &Pool{rules: rules, grace: uint64(cfg.Grace), now: sinceBoot, turn: make(chan struct{}, 1), store: s}, nil
}

// Close closes the file. Calls under way end first, later ones return os.ErrClosed. What is held stays held.
func (p *Pool) Close() error {
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	p.store.closed = true
	return p.store.close()
}

// Within is p, but for that it gives addresses of these prefixes alone: to owners that may not have all of them. Another address that
// is wanted of it is a [*podweft.FieldError], and its Usage is of these prefixes. It is closed with p, and goes on where p does: when p has
// given a higher address meanwhile, it begins again with its lowest, so keep what is released back by Config.Grace.
func (p *Pool) Within(prefixes ...netip.Prefix) *Pool {
	return &Pool{rules: p.rules.within(prefixes), grace: p.grace, now: p.now, turn: p.turn, store: p.store}
}

// locked runs fn with the store locked.
func (p *Pool) locked(ctx context.Context, fn func(*store) error) error {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-p.turn }()
	if p.store.closed {
		return os.ErrClosed
	}
	if err := p.store.lock(ctx); err != nil {
		return err
	}
	defer p.store.unlock()
	return fn(p.store)
}

// Allocate gives owner one address from each set, and the same ones when it asks again, even if the ranges have changed
// since, or there are none. Each wanted address takes the place of the one that its set would give; it may lie beyond the set's window, but
// within its ranges.
//
// It returns [ErrExhausted] if a set has no address left and [ErrTaken] if a wanted one is somebody else's; nothing is then
// held. A wanted address that the Pool never gives, or other than what owner holds already, is a [*podweft.FieldError].
//
// After any other error (the disk is full) owner may hold addresses nevertheless, if they cannot be taken back: ask again, or Release.
func (p *Pool) Allocate(ctx context.Context, owner Owner, want ...netip.Addr) (Allocation, error) {
	var given Allocation
	err := owner.Validate()
	if err == nil {
		err = p.locked(ctx, func(s *store) (err error) {
			given, err = p.allocate(s, owner, want)
			return err
		})
	}
	if err != nil {
		return Allocation{}, fmt.Errorf("allocate for %s: %w", owner, err)
	}
	return given, nil
}

func (p *Pool) allocate(s *store, owner Owner, want []netip.Addr) (Allocation, error) {
	gives := len(p.rules.geometry) > 0
	if gives { // else the file stays laid out as it is
		if err := s.prepare(p.rules.geometry); err != nil {
			return Allocation{}, err
		}
	}
	here, err := s.find(owner)
	switch {
	case err != nil:
		return Allocation{}, err
	case here.found():
		return here.rec.Allocation, confirm(here.rec.Allocation, want)
	case !gives:
		return Allocation{}, &podweft.FieldError{Field: "Sets", Problem: "are missing", Remedy: "open the pool with Prefixes or Sets"}
	}
	chosen, err := p.rules.assign(want)
	if err != nil {
		return Allocation{}, err
	}
	// Two for one keeps up with releases; more would make one call pay for many.
	if _, err := p.thaw(s, 2); err != nil {
		return Allocation{}, err
	}
	given, err := p.give(s, owner, here, chosen)
	if errors.Is(err, ErrExhausted) {
		if n, thawErr := p.thaw(s, math.MaxInt); n == 0 || thawErr != nil {
			return Allocation{}, cmp.Or(thawErr, err)
		}
		given, err = p.give(s, owner, here, chosen)
	}
	if err != nil && !errors.Is(err, ErrExhausted) && !errors.Is(err, ErrTaken) {
		p.retract(s, owner)
	}
	return given, err
}

// retract releases what owner was given by a change that its process could not finish, and the next one would. Where that fails too, the
// owner holds it until it is released.
func (p *Pool) retract(s *store, owner Owner) {
	if s.recover() != nil {
		return
	}
	if here, err := s.find(owner); err == nil && here.found() {
		_ = p.release(s, here)
	}
}

// give makes owner, whose record is to be at here, hold the chosen address of each set, or the next one where none was
// chosen.
func (p *Pool) give(s *store, owner Owner, here place, chosen []netip.Addr) (Allocation, error) {
	// Nanoseconds, since that is what Lookup will read back.
	rec := record{Allocation: Allocation{Owner: owner, Since: time.Unix(0, time.Now().UnixNano())}}
	t := s.begin()
	for set, addr := range chosen {
		if addr.IsValid() {
			if err := t.evict(addr); err != nil {
				return Allocation{}, err
			}
		} else {
			pos, ok, err := s.search(set, s.cursors[set], p.rules.excluded[set])
			if err != nil {
				return Allocation{}, err
			}
			if !ok && p.rules.capacity(set) == 0 {
				return Allocation{}, fmt.Errorf("%s: %w: none of it is for this owner", p.rules.name(set), ErrExhausted)
			}
			if !ok {
				return Allocation{}, fmt.Errorf("%s: %w: all %d are taken", p.rules.name(set), ErrExhausted, p.rules.capacity(set))
			}
			t.super.cursors[set] = pos + 1
			addr = s.geometry.at(set, pos)
		}
		if err := t.mark(addr); err != nil {
			return Allocation{}, err
		}
		rec.Addresses = append(rec.Addresses, p.rules.address(set, addr))
	}
	if err := t.insert(here, &rec); err != nil {
		return Allocation{}, err
	}
	return rec.Allocation, t.commit()
}

// thaw frees up to limit of the released addresses that have been kept back for long enough.
func (p *Pool) thaw(s *store, limit int) (n int, err error) {
	for ; n < limit && s.coolHead != 0; n++ {
		rec, err := s.slot(s.coolHead, cooling)
		if err != nil {
			return n, err
		}
		if rec.until > p.now() {
			return n, nil
		}
		t := s.begin()
		if err := t.thaw(rec); err != nil {
			return n, err
		}
		if err := t.commit(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// confirm checks that what is held already satisfies what is wanted.
func confirm(a Allocation, want []netip.Addr) error {
	for _, w := range want {
		if !a.holds(w.Unmap()) {
			return &podweft.FieldError{
				Field: "want", Value: w, Problem: "is not what the owner holds, " + a.Addresses[0].Prefix.String(),
				Remedy: "release that first",
			}
		}
	}
	return nil
}

// Release takes back what owner holds, whatever the ranges were when it was given. An owner that holds nothing is no error.
func (p *Pool) Release(ctx context.Context, owner Owner) error {
	err := p.locked(ctx, func(s *store) error {
		here, err := s.find(owner)
		if err != nil || !here.found() {
			return err
		}
		return p.release(s, here)
	})
	if err != nil {
		return fmt.Errorf("release for %s: %w", owner, err)
	}
	return nil
}

func (p *Pool) release(s *store, here place) error {
	t := s.begin()
	err := t.unlink(here)
	switch {
	case err != nil:
	case p.grace > 0:
		err = t.cool(here.slot, here.rec, p.now()+p.grace)
	default:
		err = t.free(here.slot, here.rec)
	}
	if err != nil {
		return err
	}
	return t.commit()
}

// Lookup says what owner holds, or [ErrNotFound].
func (p *Pool) Lookup(ctx context.Context, owner Owner) (Allocation, error) {
	var a Allocation
	err := p.locked(ctx, func(s *store) error {
		here, err := s.find(owner)
		a = here.rec.Allocation
		if err == nil && !here.found() {
			err = ErrNotFound
		}
		return err
	})
	if err != nil {
		return Allocation{}, fmt.Errorf("look up %s: %w", owner, err)
	}
	return a, nil
}

// All says what everybody holds, in the order of the addresses.
func (p *Pool) All(ctx context.Context) ([]Allocation, error) {
	records, err := p.held(ctx)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	all := make([]Allocation, len(records))
	for i, rec := range records {
		all[i] = rec.Allocation
	}
	return all, nil
}

// held is the records of what everybody holds, in the order of the addresses.
func (p *Pool) held(ctx context.Context) ([]record, error) {
	// Sorted are the addresses with the records' places: records are large, and lie in the order of the slots.
	type key struct {
		addr netip.Addr
		at   int
	}
	var unsorted []record
	var keys []key
	err := p.locked(ctx, func(s *store) error {
		if !s.void {
			unsorted, keys = make([]record, 0, s.slots), make([]key, 0, s.slots)
		}
		return s.each(func(_ uint32, rec *record) bool {
			if rec.state == held {
				keys = append(keys, key{rec.Addr(), len(unsorted)})
				unsorted = append(unsorted, *rec)
			}
			return true
		})
	})
	slices.SortFunc(keys, func(a, b key) int { return a.addr.Compare(b.addr) })
	records := make([]record, len(keys))
	for i, k := range keys {
		records[i] = unsorted[k.at]
	}
	return records, err
}

// InUse reports whether somebody holds an address of prefix, or held one within the grace. It reads every allocation.
func (p *Pool) InUse(ctx context.Context, prefix netip.Prefix) (used bool, err error) {
	if !prefix.IsValid() || prefix.Addr().Is4In6() {
		return false, &podweft.FieldError{Field: "prefix", Value: prefix, Problem: "is not a prefix", Remedy: "write one like 10.244.1.0/24"}
	}
	err = p.locked(ctx, func(s *store) error {
		return s.each(func(_ uint32, rec *record) bool {
			if rec.state == held || rec.state == cooling && rec.until > p.now() {
				used = slices.ContainsFunc(rec.Addresses, func(a Address) bool { return prefix.Contains(a.Prefix.Addr()) })
			}
			return !used
		})
	})
	if err != nil {
		return false, fmt.Errorf("look for addresses of %s: %w", prefix, err)
	}
	return used, nil
}

// Ranges are those of each set, with their defaults filled in.
func (p *Pool) Ranges() (all [][]Range) {
	for _, set := range p.rules.ranges {
		all = append(all, slices.Clone(set))
	}
	return all
}

// Usage is how full a set is.
type Usage struct {
	Ranges []Range // with their defaults filled in
	Total  int     // addresses that can be given without being asked for by name
	Taken  int     // of these, those held and those kept back for the grace
}

// Usage says how full each set is.
func (p *Pool) Usage(ctx context.Context) ([]Usage, error) {
	var usage []Usage
	err := p.locked(ctx, func(s *store) error {
		if err := s.prepare(p.rules.geometry); err != nil {
			return err
		}
		for set, ranges := range p.rules.ranges {
			taken, err := s.taken(set, p.rules.excluded[set])
			if err != nil {
				return err
			}
			usage = append(usage, Usage{Ranges: slices.Clone(ranges), Total: p.rules.capacity(set), Taken: taken})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count addresses: %w", err)
	}
	return usage, nil
}
