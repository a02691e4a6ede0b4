// Package table is what Stores of blocks that have all of them at hand do alike: the rules of reading and writing, without
// the place where they are kept.
package table

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/podweft/podweft/ipam/block"
)

// Table is the blocks of a Store. It is a value: Write makes a new one and leaves the old as it is.
type Table struct {
	Revision uint64 // counts the writes
	Blocks   []Row  // in order
}

// Row is one block with the revision that wrote it.
type Row struct {
	block.Block
	Written uint64 `json:"written"`
}

func (r Row) block() block.Block {
	b := r.Block.Clone()
	b.Revision = strconv.FormatUint(r.Written, 10)
	return b
}

// Within returns copies of the blocks that overlap p.
func (t Table) Within(p netip.Prefix) (blocks []block.Block) {
	for _, r := range t.Blocks {
		if r.Prefix.Overlaps(p) {
			blocks = append(blocks, r.block())
		}
	}
	return blocks
}

// Write is the table after a block.Store's Write, and what that returns.
func (t Table) Write(b block.Block) (Table, block.Block, error) {
	if err := b.Validate(); err != nil {
		return t, block.Block{}, err
	}
	changed := func() (Table, block.Block, error) {
		return t, block.Block{}, fmt.Errorf("%s: %w", b.Prefix, block.ErrChanged)
	}
	at, found := slices.BinarySearchFunc(t.Blocks, b.Prefix, func(r Row, p netip.Prefix) int { return compare(r.Prefix, p) })
	switch {
	case found && strconv.FormatUint(t.Blocks[at].Written, 10) != b.Revision, !found && b.Revision != "":
		return changed()
	case !found && slices.ContainsFunc(t.Blocks, func(r Row) bool { return r.Prefix.Overlaps(b.Prefix) }):
		return changed()
	}
	next := Table{Revision: t.Revision + 1, Blocks: slices.Clone(t.Blocks)}
	row := Row{Block: b.Clone(), Written: next.Revision}
	row.Revision = ""
	switch {
	case len(b.Shares) == 0 && found:
		next.Blocks = slices.Delete(next.Blocks, at, at+1)
	case len(b.Shares) == 0:
		return t, b, nil // a block of nobody: it is not there, and need not be
	case found:
		next.Blocks[at] = row
	default:
		next.Blocks = slices.Insert(next.Blocks, at, row)
	}
	return next, row.block(), nil
}

// Check finds what no Store would have written.
func (t Table) Check() error {
	for i, r := range t.Blocks {
		if err := r.Validate(); err != nil {
			return fmt.Errorf("block %d: %w", i+1, err)
		}
		switch {
		case len(r.Shares) == 0:
			return fmt.Errorf("block %s has no shares", r.Prefix)
		case r.Written == 0 || r.Written > t.Revision:
			return fmt.Errorf("block %s is of the future", r.Prefix)
		case i > 0 && compare(t.Blocks[i-1].Prefix, r.Prefix) >= 0:
			return fmt.Errorf("block %s is not in order", r.Prefix)
		case i > 0 && t.Blocks[i-1].Prefix.Overlaps(r.Prefix):
			return fmt.Errorf("block %s overlaps %s", r.Prefix, t.Blocks[i-1].Prefix)
		}
	}
	return nil
}

func compare(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
