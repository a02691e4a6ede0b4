package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"sync"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/hostgw"
	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/udp"
	"github.com/podweft/podweft/vxlan"
)

// backend is what a node's agent is given to reach other nodes' pods, and what the tour wants to see of it.
type backend struct {
	node.Backend
	rehearsal
	driver io.Closer
	// peer is, of a backend that moves packets itself, the entry of its table that has the address, and the machine it leads to.
	peer func(addr netip.Addr) (entry string, at netip.AddrPort)
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
	case udp.Type:
		driver, err := udp.New(udp.Config{NetNS: netns})
		if err != nil {
			return nil, err
		}
		shown := &rehearsed[udp.Spec]{Driver: driver}
		parts := node.Parts[udp.Spec]{
			Type: kind, Driver: shown, Compile: udp.Compile, Publish: udp.Publish,
			Forward: driver.Forward, // no kernel moves its packets
		}
		return &backend{Backend: node.NewBackend(parts), rehearsal: shown, driver: driver, peer: peerIn(shown)}, nil
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

// peerIn looks an address up among the peers of the latest Spec.
func peerIn(r *rehearsed[udp.Spec]) func(netip.Addr) (string, netip.AddrPort) {
	return func(addr netip.Addr) (entry string, at netip.AddrPort) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.spec == nil {
			return "", at
		}
		for _, p := range r.spec.Peers {
			for _, prefix := range p.Prefixes {
				if prefix.Contains(addr) {
					at = netip.AddrPortFrom(p.Underlay, cmp.Or(r.spec.Port, udp.DefaultPort))
					return fmt.Sprintf("%s at %s", prefix, at), at
				}
			}
		}
		return "", at
	}
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
