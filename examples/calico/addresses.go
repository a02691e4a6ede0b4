package calico

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ptp"
)

// claimers claim blocks for the node, one of each family.
func (a *Agent) claimers() (all []*block.Claimer, err error) {
	for _, v4 := range []bool{true, false} {
		pools := blocksOf(a.cfg.Pools, a.cfg.Labels, v4)
		if len(pools) == 0 {
			continue
		}
		c, err := block.New(block.Config{Store: a.cfg.Blocks, Node: a.cfg.Node, Pools: pools, Logger: a.log})
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// allocator gives out the addresses of the node's blocks. It waits for the store.
func (a *Agent) allocator(ctx context.Context, claimers []*block.Claimer) (*block.Allocator, error) {
	var given *block.Allocator
	err := a.insist(ctx, "blocks", func() (err error) {
		given, err = block.NewAllocator(ctx, a.allocatorConfig(claimers))
		return err
	})
	return given, err
}

func (a *Agent) allocatorConfig(claimers []*block.Claimer) block.AllocatorConfig {
	return block.AllocatorConfig{
		Claimers: claimers, Gateways: []netip.Addr{ptp.Gateway4, ptp.Gateway6}, IPAM: ipam.Config{Path: a.addressFile(), Logger: a.log},
	}
}

// addressFile has the addresses that are given out.
func (a *Agent) addressFile() string { return filepath.Join(a.cfg.StateDir, "blocks-"+a.cfg.Network) }

// insist does something until it works. What makes no sense never will.
func (a *Agent) insist(ctx context.Context, what string, do func() error) error {
	said := ""
	for {
		err := do()
		if err == nil || errors.Is(err, podweft.ErrInvalid) {
			return err
		}
		if text := err.Error(); text != said && ctx.Err() == nil {
			said = text
			a.log.WarnContext(ctx, "waiting", "for", what, "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(again):
		}
	}
}

// tunnelContainer begins the owners of the node's own addresses in the pods' network.
const tunnelContainer = "tunnel-"

// tunnelOwner is who has the address of the node's link of a kind.
func (c Config) tunnelOwner(w way) ipam.Owner {
	return ipam.Owner{Network: c.Network, Container: tunnelContainer + string(w), Interface: "node"}
}

// claimTunnels gives the node's tunnel links their addresses, which packets of the node itself to pods behind them leave with.
func (a *Agent) claimTunnels(ctx context.Context, from *block.Allocator) (map[way][]netip.Addr, error) {
	tunnels := map[way][]netip.Addr{}
	for _, w := range []way{byVXLAN, byIPIP} {
		if !slices.ContainsFunc(a.cfg.Pools, func(p Pool) bool { return p.wraps(w) }) {
			continue
		}
		err := a.insist(ctx, "an address of the node's own", func() error {
			held, err := from.Allocate(ctx, a.cfg.tunnelOwner(w))
			tunnels[w] = nil
			for _, addr := range held.Addresses {
				tunnels[w] = append(tunnels[w], addr.Prefix.Addr())
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("address of the %s link: %w", w, err)
		}
	}
	return tunnels, nil
}

// knownTunnels are the addresses that the node's links have been given before.
func (a *Agent) knownTunnels(ctx context.Context) (map[way][]netip.Addr, error) {
	tunnels := map[way][]netip.Addr{}
	if _, err := os.Stat(a.addressFile()); errors.Is(err, fs.ErrNotExist) {
		return tunnels, nil
	}
	pool, err := ipam.Open(ipam.Config{Path: a.addressFile(), Logger: a.log})
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	for _, w := range []way{byVXLAN, byIPIP} {
		held, err := pool.Lookup(ctx, a.cfg.tunnelOwner(w))
		if errors.Is(err, ipam.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, addr := range held.Addresses {
			tunnels[w] = append(tunnels[w], addr.Prefix.Addr())
		}
	}
	return tunnels, nil
}

// forPods is an Allocator whose collection spares what no pod holds.
type forPods struct{ *block.Allocator }

// Collect implements cniplugin.Allocator.
func (f forPods) Collect(
	ctx context.Context, dead func(context.Context, []ipam.Allocation) ([]ipam.Owner, error),
) ([]ipam.Allocation, error) {
	return f.Allocator.Collect(ctx, func(ctx context.Context, held []ipam.Allocation) ([]ipam.Owner, error) {
		return dead(ctx, slices.DeleteFunc(slices.Clone(held), func(h ipam.Allocation) bool { return isTunnel(h.Owner) }))
	})
}

func isTunnel(o ipam.Owner) bool { return o.Interface == "node" }

// sharesOf are the shares of each node's in the pools' families.
func sharesOf(ctx context.Context, store block.Store, pools []Pool) (map[string][]netip.Prefix, error) {
	all := map[string][]netip.Prefix{}
	for _, v4 := range []bool{true, false} {
		if len(poolsOf(pools, v4)) == 0 {
			continue
		}
		everything := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if v4 {
			everything = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		blocks, err := store.Blocks(ctx, everything)
		if err != nil {
			return nil, fmt.Errorf("blocks: %w", err)
		}
		for _, b := range blocks {
			for _, s := range b.Shares {
				all[s.Node] = append(all[s.Node], s.Prefix)
			}
		}
	}
	return all, nil
}

// held lists who holds addresses of the node's. An allocator shows them to whoever says who is dead; here nobody is.
func held(ctx context.Context, from *block.Allocator) (all []ipam.Allocation, err error) {
	_, err = from.Collect(ctx, func(_ context.Context, everybody []ipam.Allocation) ([]ipam.Owner, error) {
		all = slices.Clone(everybody)
		return nil, nil
	})
	return all, err
}

// blocks are the node's, with how many of their addresses are held. What the store does not tell in time is left out.
func (r *run) blocks(ctx context.Context) (all []Block) {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	shares, err := sharesOf(ctx, r.cfg.Blocks, r.cfg.Pools)
	if err != nil {
		return nil
	}
	taken, err := held(ctx, r.addresses)
	if err != nil {
		return nil
	}
	for _, p := range shares[r.cfg.Node] {
		b := Block{Prefix: p}
		if pool, ok := poolOf(r.cfg.Pools, p); ok {
			b.Pool = pool.Name
		}
		for _, h := range taken {
			for _, a := range h.Addresses {
				if p.Contains(a.Prefix.Addr()) {
					b.Used++
				}
			}
		}
		all = append(all, b)
	}
	return all
}
