package roster

import (
	"context"
	"iter"
	"math/rand/v2"
	"sync"
	"time"
)

// Store keeps the nodes. It is safe for concurrent use. Values that make no sense are podweft.ErrInvalid; any other error means
// that the Store could not be asked: try again.
//
// To write one's own: package rostertest tells what is still wrong.
type Store interface {
	// Nodes returns all nodes that are known.
	Nodes(ctx context.Context) (Nodes, error)

	// Join makes n known as it describes itself, in place of what was known of that name, and alive for ttl from now on. To
	// stay alive, join again. When n says nothing new, it keeps its Revision, and while it is alive its Rank.
	Join(ctx context.Context, n Node, ttl time.Duration) error

	// Forget makes a node unknown, alive or not. Not to know it is no error. One that lives joins again.
	Forget(ctx context.Context, name string) error

	// ForgetDead makes a node unknown unless it is alive, and reports whether it is unknown now: in one step, so that a node which
	// joins in that moment is known afterwards, whoever was first. Not to know it is no error.
	ForgetDead(ctx context.Context, name string) (bool, error)

	// Watch calls changed once when it has begun to listen and then whenever Nodes may have changed, that one is dead included. That a
	// node joins again and says nothing new is not told: two that tell of themselves when they hear of others would never rest. It
	// carries no facts. It returns nil when ctx ends, and an error when it cannot go on.
	Watch(ctx context.Context, changed func()) error
}

// Follow yields all nodes at once and then whenever something about them has changed, until ctx ends. A Store that cannot be asked is
// an error, and asked again after a moment: what was yielded last stays valid meanwhile.
func Follow(ctx context.Context, s Store) iter.Seq2[Nodes, error] {
	return func(yield func(Nodes, error) bool) {
		f := &follower{store: s, yield: yield, hint: make(chan struct{}, 1)}
		for wait := shortest; ctx.Err() == nil; wait = min(2*wait, longest) {
			begun := time.Now()
			err := f.watch(ctx)
			if ctx.Err() != nil || f.left || err != nil && !yield(nil, err) {
				return
			}
			if time.Since(begun) > longest {
				wait = shortest // it had been well
			}
			select {
			case <-ctx.Done():
			case <-time.After(wait/2 + rand.N(wait)):
			}
		}
	}
}

// How long to wait before a Store is asked again.
const shortest, longest = 50 * time.Millisecond, 2 * time.Second

type follower struct {
	store Store
	yield func(Nodes, error) bool
	hint  chan struct{} // size 1
	last  Nodes
	begun bool // last has been yielded
	left  bool // nobody wants more
}

// watch yields what one Watch brings. It returns why there is no more of it.
func (f *follower) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	ended := make(chan error, 1)
	watching.Go(func() {
		ended <- f.store.Watch(ctx, func() {
			select {
			case f.hint <- struct{}{}:
			default:
			}
		})
	})
	for {
		select {
		case err := <-ended:
			return err
		case <-f.hint:
		}
		nodes, err := f.store.Nodes(ctx)
		if err != nil {
			return err
		}
		if f.begun && nodes.Equal(f.last) {
			continue
		}
		f.begun, f.last = true, nodes
		if !f.yield(nodes, nil) {
			f.left = true
			return nil
		}
	}
}
