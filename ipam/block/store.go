package block

import (
	"context"
	"errors"
	"net/netip"
)

// The answers of a Store, or of this package, that a caller can branch on with errors.Is. A value that makes no sense is
// podweft.ErrInvalid; any other error means that the Store could not be asked.
var (
	// ErrChanged: the block is not as it was read, or another one is in its place. Read again.
	ErrChanged = errors.New("block has changed")
	// ErrExhausted: no pool has a block, or a part of one, that is free for this node.
	ErrExhausted = errors.New("no free block")
	// ErrTaken: the part of a pool that was asked for is another node's.
	ErrTaken = errors.New("block is taken")
)

// Store keeps the blocks of all pools and of all nodes. It is safe for concurrent use.
//
// To write one's own: each block is one object of the engine, named by its prefix, and Write is the engine's
// compare-and-swap. That no two blocks overlap is the Store's to ensure also when blocks of two lengths are made at the same
// time, while a pool's BlockBits are being changed: in etcd by comparing the keys of the block's whole range and of the
// prefixes around it in the same transaction. Package blocktest tells what is still wrong.
type Store interface {
	// Blocks returns those that overlap a prefix, in the order of their addresses.
	Blocks(ctx context.Context, p netip.Prefix) ([]Block, error)

	// Write puts b in the place of the block with its prefix and revision, and returns it with the new one; an empty
	// revision makes a new block. A b without shares removes the block. [ErrChanged] when the block has another revision,
	// is gone, is there already, or would overlap another.
	Write(ctx context.Context, b Block) (Block, error)

	// Watch calls changed once when it has begun to listen and then whenever a block may have changed. It carries no
	// facts. It returns nil when ctx ends, and an error when it cannot go on.
	Watch(ctx context.Context, changed func()) error
}

// everywhere is all addresses of each family.
func everywhere() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}
