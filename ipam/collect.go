package ipam

import (
	"context"
	"errors"
	"fmt"
)

// Collect frees what the dead hold: containers whose runtime never said goodbye. It first notes what is held, then calls
// dead with that, in the order of the addresses, and frees what the owners that dead returns held at the first step. It
// returns what was freed.
//
// Only dead's word frees anything: an error frees nothing, and somebody forgotten in a list stays. An allocation made after
// the first step stays too, even by an owner that is returned, so dead should find out who lives after it is called.
func (p *Pool) Collect(
	ctx context.Context, dead func(ctx context.Context, held []Allocation) ([]Owner, error),
) (freed []Allocation, err error) {
	records, err := p.held(ctx)
	if err != nil {
		return nil, fmt.Errorf("collect addresses: %w", err)
	}
	noted := make(map[Owner]*record, len(records))
	all := make([]Allocation, len(records))
	for i := range records {
		noted[records[i].Owner] = &records[i]
		all[i] = records[i].Allocation
	}
	owners, err := dead(ctx, all)
	if err != nil {
		return nil, fmt.Errorf("collect addresses: %w", err)
	}
	var errs []error
	for _, owner := range owners {
		rec, ok := noted[owner]
		if !ok {
			continue
		}
		switch ok, err := p.releaseBorn(ctx, rec); {
		case err != nil:
			errs = append(errs, fmt.Errorf("collect from %s: %w", owner, err))
		case ok:
			freed = append(freed, rec.Allocation)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return freed, errors.Join(errs...)
}

// releaseBorn releases the very allocation that rec is, not a later one of its owner.
func (p *Pool) releaseBorn(ctx context.Context, rec *record) (ok bool, err error) {
	err = p.locked(ctx, func(s *store) error {
		here, err := s.find(rec.Owner)
		if err != nil || !here.found() || here.rec.born != rec.born || !here.rec.Since.Equal(rec.Since) {
			return err
		}
		ok = true
		return p.release(s, here)
	})
	return ok && err == nil, err
}
