package node

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// Backend makes other nodes' pods reachable. NewBackend makes one of a driver and its compiler.
type Backend interface {
	// Type is the backend's name in leases: "vxlan".
	Type() string
	// Publish returns what the node's lease says about this backend, and the MTU for its pods in bytes. before is what
	// it said last, so that what peers have programmed stays true.
	Publish(node subnet.Node, network *subnet.Network, before subnet.Data) (subnet.Data, int, error)
	// Set makes the state that follows from snap the one to keep, and returns what it left out. It does not wait.
	Set(node subnet.Node, snap *subnet.Snapshot) (generation uint64, problems []subnet.Problem, err error)
	// Wait returns when everything of that generation has been tried once. Its error says what failed.
	Wait(ctx context.Context, generation uint64) error
	// Run works until ctx ends; it then returns nil and leaves the kernel as it is.
	Run(ctx context.Context) error
	// Status is how the backend is doing.
	Status() podweft.Status
}

// Parts is what a Backend is made of. Type, Driver and Compile are required.
type Parts[S any] struct {
	Type    string
	Driver  podweft.Driver[S]
	Compile func(subnet.Node, *subnet.Snapshot) (S, []subnet.Problem, error)
	// Publish is as in Backend. Nil means that there is nothing to say, and that pods have the underlay's MTU.
	Publish func(subnet.Node, *subnet.Network, subnet.Data) (subnet.Data, int, error)
	// Forward is for a driver that moves packets itself: it runs beside the loop until ctx ends. Nil for those whose packets the kernel
	// moves.
	Forward func(ctx context.Context) error
	// Loop is when the driver looks at the kernel.
	Loop podweft.LoopConfig
}

// NewBackend makes a Backend that compiles each snapshot and lets a podweft.Loop keep the driver at it.
func NewBackend[S any](p Parts[S]) Backend {
	return &backend[S]{parts: p, loop: podweft.NewLoop(p.Driver, p.Loop)}
}

type backend[S any] struct {
	parts Parts[S]
	loop  *podweft.Loop[S]
}

func (b *backend[S]) Type() string { return b.parts.Type }

func (b *backend[S]) Publish(node subnet.Node, network *subnet.Network, before subnet.Data) (subnet.Data, int, error) {
	if b.parts.Publish == nil {
		return subnet.Data{}, node.MTU, nil
	}
	return b.parts.Publish(node, network, before)
}

func (b *backend[S]) Set(node subnet.Node, snap *subnet.Snapshot) (uint64, []subnet.Problem, error) {
	spec, problems, err := b.parts.Compile(node, snap)
	if err != nil {
		return 0, problems, err
	}
	return b.loop.Set(spec), problems, nil
}

func (b *backend[S]) Wait(ctx context.Context, generation uint64) error {
	return b.loop.Wait(ctx, generation)
}

func (b *backend[S]) Run(ctx context.Context) error {
	if b.parts.Forward == nil {
		return b.loop.Run(ctx)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return b.loop.Run(ctx) })
	group.Go(func() error { return b.parts.Forward(ctx) })
	return group.Wait()
}

func (b *backend[S]) Status() podweft.Status { return b.loop.Status() }
