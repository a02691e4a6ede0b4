package block

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/podweft/podweft"
)

// Config says what a node claims of.
type Config struct {
	// Store has the blocks. Required.
	Store Store
	// Node is the name that blocks are claimed in. Required. It must be no other node's.
	Node string
	// Pools are those that this node may use, all of one family, the one to use first in front. A node with both families
	// has two Claimers.
	Pools []Pool
	// Logger hears about claims and returns at Debug. Nil: silent.
	Logger *slog.Logger
}

// Claimer claims blocks for one node. It keeps no state but the Store's and is safe for concurrent use.
type Claimer struct {
	store Store
	node  string
	pools []Pool
	log   *slog.Logger
}

// New returns a Claimer, which has claimed nothing. The error reports everything wrong with cfg, each as a
// [*podweft.FieldError].
func New(cfg Config) (*Claimer, error) {
	var errs []error
	bad := func(field string, value any, problem string) {
		errs = append(errs, &podweft.FieldError{Field: field, Value: value, Problem: problem})
	}
	if cfg.Store == nil {
		bad("Store", nil, "is missing")
	}
	if cfg.Node == "" {
		bad("Node", nil, "is missing")
	}
	if len(cfg.Pools) == 0 {
		bad("Pools", nil, "are missing")
	}
	c := &Claimer{store: cfg.Store, node: cfg.Node, log: cfg.Logger}
	for i, p := range cfg.Pools {
		field := fmt.Sprintf("Pools[%d]", i)
		full, err := p.complete(field)
		switch j := slices.IndexFunc(c.pools, func(q Pool) bool { return q.Prefix.Overlaps(p.Prefix) }); {
		case err != nil:
			errs = append(errs, err)
		case p.Prefix.Addr().Is4() != cfg.Pools[0].Prefix.Addr().Is4():
			bad(field+".Prefix", p.Prefix, "is of another family than the first pool")
		case j >= 0:
			bad(field+".Prefix", p.Prefix, "overlaps "+c.pools[j].Prefix.String())
		}
		c.pools = append(c.pools, full)
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}

// family is all addresses of the family that c claims of: a node keeps what it has when its pools change.
func (c *Claimer) family() netip.Prefix {
	if c.pools[0].Prefix.Addr().Is4() {
		return everywhere()[0]
	}
	return everywhere()[1]
}

// Shares returns what the node has, of whatever pools, in the order of the addresses. Only a node that lives asks, so doubts
// about it are dispelled; call it now and then, and more often than a [Collect] has grace.
func (c *Claimer) Shares(ctx context.Context) ([]Share, error) {
	var mine []Share
	err := retry(ctx, func() error {
		blocks, err := c.store.Blocks(ctx, c.family())
		if err != nil {
			return err
		}
		mine = nil
		for _, b := range blocks {
			doubted := false
			for _, s := range b.Shares {
				if s.Node == c.node {
					doubted = doubted || !s.Doubted.IsZero()
					mine = append(mine, Share{Prefix: s.Prefix, Node: s.Node})
				}
			}
			if doubted {
				if err := c.dispel(ctx, b); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("shares of %s: %w", c.node, err)
	}
	return mine, nil
}

func (c *Claimer) dispel(ctx context.Context, b Block) error {
	b = b.Clone()
	for i, s := range b.Shares {
		if s.Node == c.node {
			b.Shares[i].Doubted = time.Time{}
		}
	}
	c.log.WarnContext(ctx, "this node was held for dead", "block", b.Prefix)
	_, err := c.store.Write(ctx, b)
	return err
}

// retry runs fn until it meets nobody else's change. Each that it meets is somebody's success, so this ends; the pause is for
// the Store's sake.
func retry(ctx context.Context, fn func() error) error {
	for try := 0; ; try++ {
		err := fn()
		if !errors.Is(err, ErrChanged) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(rand.N(time.Duration(1+min(try, 50)) * time.Millisecond)):
		}
	}
}

// Claim takes one more share for the node: of a block that it has if that has a part to take, else of a block that nobody
// has, else, where a pool lets it, of another node's. With a want that is valid it takes the share that has that address.
//
// It returns [ErrExhausted], or for a want [ErrTaken]; a want that is in none of the pools is a [*podweft.FieldError].
func (c *Claimer) Claim(ctx context.Context, want netip.Addr) (Share, error) {
	return c.claimOf(ctx, c.pools, want)
}

// claimOf is Claim from some of the pools.
func (c *Claimer) claimOf(ctx context.Context, pools []Pool, want netip.Addr) (Share, error) {
	if want = want.Unmap(); want.IsValid() {
		if pools = with(pools, want); len(pools) == 0 {
			return Share{}, &podweft.FieldError{Field: "want", Value: want, Problem: "is in no pool of this node"}
		}
	}
	if len(pools) == 0 {
		return Share{}, fmt.Errorf("claim for %s: %w: no pool is for this owner", c.node, ErrExhausted)
	}
	var taken Share
	err := retry(ctx, func() (err error) {
		taken, err = c.claim(ctx, pools, want)
		return err
	})
	if err != nil {
		return Share{}, fmt.Errorf("claim for %s: %w", c.node, err)
	}
	c.log.DebugContext(ctx, "block claimed", "share", taken.Prefix)
	return taken, nil
}

// with are those of pools that have the wanted address.
func with(pools []Pool, want netip.Addr) (some []Pool) {
	for _, p := range pools {
		if p.Prefix.Contains(want) {
			some = append(some, p)
		}
	}
	return some
}

// inside are the pools that lie in these prefixes; nil prefixes are everything.
func (c *Claimer) inside(prefixes []netip.Prefix) (some []Pool) {
	for _, p := range c.pools {
		if prefixes == nil || slices.ContainsFunc(prefixes, func(q netip.Prefix) bool { return within(p.Prefix, q) }) {
			some = append(some, p)
		}
	}
	return some
}

func (c *Claimer) claim(ctx context.Context, pools []Pool, want netip.Addr) (Share, error) {
	all := make([][]Block, len(pools))
	for i, p := range pools {
		blocks, err := c.store.Blocks(ctx, p.Prefix)
		if err != nil {
			return Share{}, err
		}
		all[i] = blocks
	}
	b, s, ok := c.choose(pools, all, want)
	if !ok {
		return c.refuse(pools, all, want)
	}
	_, err := c.store.Write(ctx, b)
	return s, err
}

// refuse is the answer when there is nothing to choose. A wanted share that the node has already is no refusal.
func (c *Claimer) refuse(pools []Pool, all [][]Block, want netip.Addr) (Share, error) {
	if !want.IsValid() {
		return Share{}, fmt.Errorf("%w in %s", ErrExhausted, names(pools))
	}
	for _, b := range slices.Concat(all...) {
		for _, s := range b.Shares {
			switch {
			case !s.Prefix.Contains(want):
			case s.Node == c.node:
				return Share{Prefix: s.Prefix, Node: s.Node}, nil
			default:
				return Share{}, fmt.Errorf("%s: %w: %s", want, ErrTaken, s)
			}
		}
	}
	return Share{}, fmt.Errorf("%s: %w", want, ErrTaken)
}

func names(pools []Pool) string {
	text := ""
	for i, p := range pools {
		if i > 0 {
			text += ", "
		}
		text += p.Prefix.String()
	}
	return text
}

// choose finds the share to take, and its block as it will be. all are the blocks of each of pools.
func (c *Claimer) choose(pools []Pool, all [][]Block, want netip.Addr) (Block, Share, bool) {
	parts := func(ours func(Pool, Block) bool) (Block, Share, bool) {
		for i, p := range pools {
			for _, b := range all[i] {
				if !ours(p, b) {
					continue
				}
				if part, ok := b.free(p.shareBits(), want); ok {
					s := Share{Prefix: part, Node: c.node}
					return b.with(s), s, true
				}
			}
		}
		return Block{}, Share{}, false
	}
	if b, s, ok := parts(func(_ Pool, b Block) bool { return b.Node == c.node }); ok {
		return b, s, true
	}
	for i, p := range pools {
		if prefix, ok := p.unclaimed(all[i], c.node, want); ok {
			b := Block{Prefix: prefix, Node: c.node}
			part, _ := b.free(p.shareBits(), want)
			s := Share{Prefix: part, Node: c.node}
			return b.with(s), s, true
		}
	}
	if b, s, ok := parts(func(_ Pool, b Block) bool { return b.Node == "" }); ok {
		b.Node = c.node
		return b, s, true
	}
	return parts(func(p Pool, _ Block) bool { return p.Borrow })
}

// Return gives a share of the node back. Before, make sure that nobody has an address of it and that nobody will be given
// one. A share that is not the node's is no error and is left alone.
func (c *Claimer) Return(ctx context.Context, p netip.Prefix) error {
	err := retry(ctx, func() error {
		blocks, err := c.store.Blocks(ctx, p)
		if err != nil {
			return err
		}
		mine := func(s Share) bool { return s.Node == c.node && s.Prefix == p }
		for _, b := range blocks {
			if !slices.ContainsFunc(b.Shares, mine) {
				continue
			}
			if _, err := c.store.Write(ctx, b.without(mine)); err != nil {
				return err
			}
			c.log.DebugContext(ctx, "block returned", "share", p)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("return %s of %s: %w", p, c.node, err)
	}
	return nil
}
