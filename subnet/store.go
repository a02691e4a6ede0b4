package subnet

import (
	"context"
	"errors"
	"iter"
)

// The answers of a Store that a caller can branch on with errors.Is. A value that makes no sense, in a claim or in the
// Network's configuration, is podweft.ErrInvalid. Any other error means that the Store could not be asked: try again.
var (
	// ErrLeaseLost: the lease is not ours any more. It expired, or somebody removed or took it.
	ErrLeaseLost = errors.New("lease lost")
	// ErrExhausted: not one subnet is free.
	ErrExhausted = errors.New("no free subnet")
	// ErrTaken: the one subnet asked for is not to be had. It is leased, reserved, or does not fit the Network.
	ErrTaken = errors.New("subnet taken")
	// ErrNoNetwork: the Store has no Network yet. Somebody has to configure it.
	ErrNoNetwork = errors.New("no network configured")
)

// Store keeps the leases of all nodes. It is safe for concurrent use. A Store may know more than one node: whoever asks
// says which node it is.
//
// To write one's own: [Network.Pick] chooses the subnet, a compare-and-swap of the engine makes it ours, and
// subnet/storetest tells what is still wrong.
type Store interface {
	// Acquire returns the claiming node's lease. It prefers, in this order, the lease the node holds already (as long as
	// it fits the Network), a reservation for the node, Claim.Prefer, and any free subnet, at random. The claim's
	// attributes are published. Errors: ErrExhausted, ErrTaken (for an exact claim), ErrNoNetwork, podweft.ErrInvalid.
	Acquire(ctx context.Context, c Claim) (*Lease, error)

	// Update publishes the attributes (Underlay, Backend, Data) of l, the caller's own lease, and returns it as it is now.
	// It does not prolong it. Errors: ErrLeaseLost, podweft.ErrInvalid.
	Update(ctx context.Context, l *Lease) (*Lease, error)

	// Renew prolongs l, the caller's own lease, by the TTL it was claimed with and returns it as it is now. Errors:
	// ErrLeaseLost.
	Renew(ctx context.Context, l *Lease) (*Lease, error)

	// Release gives l back. A lease that is gone, or another node's by now, is success and left alone.
	Release(ctx context.Context, l *Lease) error

	// Watch yields whole snapshots: the present one at once, then one after each change; changes that come together may
	// share one. It ends after it has yielded an error, and without one when ctx ends. While there is no Network it
	// yields ErrNoNetwork; a Network that turns bad later is a Problem, and the last good one stays.
	Watch(ctx context.Context) iter.Seq2[*Snapshot, error]
}

// Reserver is a Store that can set subnets aside. Reservations do not expire and survive the leases taken from them.
type Reserver interface {
	// Reserve sets p aside for a node: it gets p when it next acquires a lease and nobody else does. With an empty node
	// nobody does. p may be any part of the Network; what a node is to lease must be a subnet of it. Reserving the same
	// again is success. Errors: ErrTaken when another node's lease or another reservation overlaps p, ErrNoNetwork,
	// podweft.ErrInvalid.
	Reserve(ctx context.Context, p Prefixes, node string) error

	// Unreserve undoes a Reserve. A lease taken from the reservation stays. No such reservation is success.
	Unreserve(ctx context.Context, p Prefixes) error
}
