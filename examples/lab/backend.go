package main

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/vxlan"
)

// backend is what a node's agent is given to reach other nodes' pods, and what the tour wants to see of it.
type backend struct {
	node.Backend
	rehearsal
	driver io.Closer
}

// newBackend makes the backend of a node, for a tenant or for everybody. No driver registers itself: a program has those that it
// imports, and chooses.
func newBackend(kind, netns string, of *tenant) (*backend, error) {
	switch kind {
	case vxlan.Type:
		driver, err := vxlan.New(vxlan.Config{NetNS: netns, Owner: of.owner()})
		if err != nil {
			return nil, err
		}
		return compose(driver, vxlan.Type, of.compile, vxlan.Publish), nil
	case hostgw.Type:
		driver, err := hostgw.New(hostgw.Config{NetNS: netns})
		if err != nil {
			return nil, err
		}
		return compose(driver, hostgw.Type, hostgw.Compile, hostgw.Publish), nil
	}
	return nil, fmt.Errorf("no backend %q", kind)
}

// compose makes a backend of a driver and of two pure functions: what a node publishes in its lease, and what follows for
// the driver from everybody's leases.
func compose[S any](
	driver interface {
		podweft.Driver[S]
		io.Closer
	},
	kind string,
	compile func(subnet.Node, *subnet.Snapshot) (S, []subnet.Problem, error),
	publish func(subnet.Node, *subnet.Network, subnet.Data) (subnet.Data, int, error),
) *backend {
	shown := &rehearsed[S]{Driver: driver}
	parts := node.Parts[S]{Type: kind, Driver: shown, Compile: compile, Publish: publish}
	return &backend{Backend: node.NewBackend(parts), rehearsal: shown, driver: driver}
}

// rehearsal is a driver's dry run.
type rehearsal interface {
	// first is the Plan of the first Spec, from before it was applied.
	first() podweft.Plan
	// again is the Plan of the latest Spec now.
	again(ctx context.Context) (podweft.Plan, error)
}

// rehearsed is a Driver that makes a dry run before its first Apply and keeps it. Anything can be slipped between a Loop and
// its Driver like this.
type rehearsed[S any] struct {
	podweft.Driver[S]

	mu   sync.Mutex
	plan podweft.Plan
	spec *S
}

// Apply implements [podweft.Driver].
func (r *rehearsed[S]) Apply(ctx context.Context, spec S) (podweft.Plan, error) {
	if err := r.rehearse(ctx, spec); err != nil {
		return nil, err
	}
	return r.Driver.Apply(ctx, spec)
}

func (r *rehearsed[S]) rehearse(ctx context.Context, spec S) (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spec == nil {
		r.plan, err = r.Plan(ctx, spec)
	}
	r.spec = &spec
	return err
}

func (r *rehearsed[S]) first() podweft.Plan {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan
}

func (r *rehearsed[S]) again(ctx context.Context) (podweft.Plan, error) {
	r.mu.Lock()
	spec := r.spec
	r.mu.Unlock()
	if spec == nil {
		return nil, nil
	}
	return r.Plan(ctx, *spec)
}
