package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/forward"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/subnet"
)

// firewall is what netfilter does for the node's pods. Its zero value does nothing.
type firewall struct {
	*run
	nat     *podweft.Loop[nat.Spec]
	forward *podweft.Loop[forward.Spec]
	masked  nat.Spec     // as nat was told last
	passed  forward.Spec // as forward was told last
}

// enableForwarding lets the node forward packets of the families that the network has.
func (r *run) enableForwarding(network *subnet.Network) error {
	var networks []netip.Prefix
	for _, of := range []subnet.Range{network.V4, network.V6} {
		if of.Network.IsValid() {
			networks = append(networks, of.Network)
		}
	}
	return forward.Enable(r.cfg.NetNS, networks...)
}

// startFirewall starts the loops that the node's configuration asks for.
func (r *run) startFirewall(ctx context.Context) error {
	r.firewall.run = r
	cfg := podweft.LoopConfig{Logger: r.cfg.Logger}
	if r.cfg.Masquerade {
		driver, err := nat.New(nat.Config{Owner: r.cfg.Owner, NetNS: r.cfg.NetNS, Logger: r.cfg.Logger})
		if err != nil {
			return fmt.Errorf("masquerade: %w", err)
		}
		r.firewall.nat = podweft.NewLoop(driver, cfg)
		r.group.Go(func() error {
			defer driver.Close()
			return r.firewall.nat.Run(ctx)
		})
	}
	if r.cfg.Forward {
		driver, err := forward.New(forward.Config{Owner: r.cfg.Owner, NetNS: r.cfg.NetNS, Logger: r.cfg.Logger})
		if errors.Is(err, podweft.ErrInvalid) {
			return fmt.Errorf("forward: %w", err)
		}
		if err != nil { // no reason to have no pods: see wait
			r.log.WarnContext(ctx, "the host's firewall may drop what goes to and from pods", "err", err)
			return nil
		}
		cfg.Resync = forward.Resync
		r.firewall.forward = podweft.NewLoop(driver, cfg)
		r.group.Go(func() error {
			defer driver.Close()
			return r.firewall.forward.Run(ctx)
		})
	}
	return nil
}

// set says what follows from the configuration and the node's lease. Another node's lease is nothing to it, and a pass for nothing
// would take time from the peers'.
func (f *firewall) set(network *subnet.Network, lease *subnet.Lease) {
	var cluster []netip.Prefix
	for _, of := range []subnet.Range{network.V4, network.V6} {
		if of.Network.IsValid() {
			cluster = append(cluster, of.Network)
		}
	}
	mask := nat.Spec{Masquerade: slices.Collect(lease.Prefixes.All()), Exempt: cluster}
	if f.nat != nil && (!slices.Equal(mask.Masquerade, f.masked.Masquerade) || !slices.Equal(mask.Exempt, f.masked.Exempt)) {
		f.masked = mask
		f.nat.Set(mask)
	}
	if f.forward != nil && !slices.Equal(cluster, f.passed.Networks) {
		f.passed = forward.Spec{Networks: cluster}
		f.forward.Set(f.passed)
	}
}

// wait returns when each has done its work once. A firewall that cannot be opened is no reason to keep pods waiting, for they reach
// each other on their node; masquerade that is missing is an error.
func (f *firewall) wait(ctx context.Context) error {
	if f.nat != nil {
		if err := f.nat.Wait(ctx, 1); err != nil && ctx.Err() == nil {
			return fmt.Errorf("masquerade: %w", err)
		}
	}
	if f.forward != nil {
		if err := f.forward.Wait(ctx, 1); err != nil && ctx.Err() == nil {
			f.log.WarnContext(ctx, "the host's firewall may drop what goes to and from pods", "err", err)
		}
	}
	return nil
}
