package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
)

// breakRoute deletes a node's route to another node's pods, as a person with `ip route del` would, and returns how long the
// node's agent took to put it back.
func breakRoute(ctx context.Context, m, to *member) (entry string, took time.Duration, err error) {
	k, err := openKernel(m.machine)
	if err != nil {
		return "", 0, err
	}
	defer k.close()
	var prefix netip.Prefix
	for prefix = range to.agent.Status().Lease.Prefixes.All() {
		break // the first
	}
	before, err := k.route(prefix.Addr())
	if err != nil {
		return "", 0, err
	}
	if err := k.deleteRoute(before.prefix); err != nil {
		return before.entry, 0, err
	}
	began := time.Now()
	err = await(ctx, func() bool {
		now, err := k.route(prefix.Addr())
		return err == nil && now.entry == before.entry
	})
	if err != nil {
		return before.entry, 0, fmt.Errorf("wait for %s to have its route %s back: %w", k.name, before.entry, err)
	}
	return before.entry, time.Since(began), nil
}

func (k kernel) deleteRoute(to netip.Prefix) error {
	if err := k.h.RouteDel(&netlink.Route{Dst: ipNet(to)}); err != nil {
		return fmt.Errorf("delete route %s of %s: %w", to, k.name, err)
	}
	return nil
}
