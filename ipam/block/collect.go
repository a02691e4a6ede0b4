package block

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/podweft/podweft"
)

// Collect takes back the shares of dead nodes, in two steps. It calls dead with the nodes that have any, and what that
// returns it doubts: it notes in the Store when it first did. The shares of a node that is still returned when it has been
// doubted for the grace are freed, and returned. A node that lives dispels doubts with [Claimer.Shares].
//
// So to free something takes two calls, a grace apart, of this process or of any other, and dead's word each time. An error of
// dead frees and doubts nothing. The time is the wall clock's, since those who collect may be on different machines: let the
// grace be longer than their clocks are apart.
func Collect(
	ctx context.Context, store Store, grace time.Duration, dead func(ctx context.Context, nodes []string) ([]string, error),
) (freed []Share, err error) {
	freed, err = collect(ctx, store, dead, func(s Share, now time.Time) bool { return now.Sub(s.Doubted) >= grace })
	if err != nil {
		err = fmt.Errorf("collect blocks: %w", err)
	}
	return freed, err
}

// collect is Collect, where ripe says whether a doubt about a share is old enough.
func collect(
	ctx context.Context, store Store, dead func(ctx context.Context, nodes []string) ([]string, error), ripe func(s Share, now time.Time) bool,
) (freed []Share, err error) {
	var all []Block
	for _, family := range everywhere() {
		blocks, err := store.Blocks(ctx, family)
		if err != nil {
			return nil, err
		}
		all = append(all, blocks...)
	}
	gone, err := dead(ctx, nodesOf(all))
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	var errs []error
	for _, b := range all {
		next, lost, changed := b.judge(gone, now, ripe)
		if !changed {
			continue
		}
		switch _, err := store.Write(ctx, next); {
		case errors.Is(err, ErrChanged): // by somebody who lives; the next call looks again
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", b.Prefix, err))
		default:
			freed = append(freed, lost...)
		}
	}
	return freed, errors.Join(errs...)
}

// Free takes back all that a node has, at once, on the caller's word that it is gone for good and its pods with it, and returns what that
// was. It is for what an operator knows and nobody can prove: a node that lives would go on to use its addresses beside their new owners
// until it looks at its shares again.
func Free(ctx context.Context, store Store, node string) (freed []Share, err error) {
	if node == "" {
		return nil, &podweft.FieldError{Field: "node", Problem: "is missing", Remedy: "name the node that is gone"}
	}
	its := func(s Share) bool { return s.Node == node }
	for _, family := range everywhere() {
		err = retry(ctx, func() error {
			blocks, err := store.Blocks(ctx, family)
			if err != nil {
				return err
			}
			for _, b := range blocks {
				if !slices.ContainsFunc(b.Shares, its) {
					continue
				}
				if _, err := store.Write(ctx, b.without(its)); err != nil {
					return err
				}
				for _, s := range b.Shares {
					if its(s) {
						freed = append(freed, s)
					}
				}
			}
			return nil
		})
		if err != nil {
			return freed, fmt.Errorf("free the blocks of %s: %w", node, err)
		}
	}
	return freed, nil
}

// judge is b as it should be when the nodes in gone are held for dead, with the shares that nobody has any more.
func (b Block) judge(gone []string, now time.Time, ripe func(Share, time.Time) bool) (next Block, lost []Share, changed bool) {
	next = b.without(func(s Share) bool {
		free := slices.Contains(gone, s.Node) && !s.Doubted.IsZero() && ripe(s, now)
		if free {
			lost = append(lost, s)
		}
		return free
	})
	for i, s := range next.Shares {
		switch doubt := slices.Contains(gone, s.Node); {
		case doubt && s.Doubted.IsZero():
			next.Shares[i].Doubted = now
			changed = true
		case !doubt && !s.Doubted.IsZero(): // it has come back to life, for whoever asks
			next.Shares[i].Doubted = time.Time{}
			changed = true
		}
	}
	if len(lost) == 0 {
		next.Node = b.Node
	}
	return next, lost, changed || len(lost) > 0
}

// nodesOf names the nodes that have shares, in order.
func nodesOf(blocks []Block) []string {
	var nodes []string
	for _, b := range blocks {
		for _, s := range b.Shares {
			nodes = append(nodes, s.Node)
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}
