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
	"strings"
	"time"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/ptp"
)

// claimers claim blocks for the node, one of each family.
func (a *Agent) claimers() (all []*block.Claimer, err error) {
	for _, v4 := range []bool{true, false} {
		pools := blocksOf(a.cfg.Pools, v4)
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
		Claimers: claimers, Gateways: []netip.Addr{ptp.Gateway4, ptp.Gateway6}, IPAM: ipam.Config{Path: a.cfg.addressFile(), Logger: a.log},
	}
}

// absent reports whether there is nothing at a path, where it would be made by who opens it.
func absent(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// addressFile has the addresses that are given out.
func (c Config) addressFile() string { return filepath.Join(c.StateDir, "blocks-"+c.Network) }

// insist does something until it works. What makes no sense is not ours, which has been validated: it is in a store, where it can be mended.
func (a *Agent) insist(ctx context.Context, what string, do func() error) error {
	said := ""
	for {
		err := do()
		if err == nil {
			return nil
		}
		if text := err.Error(); text != said && ctx.Err() == nil {
			said = text
			a.log.WarnContext(ctx, "waiting", "for", what, "err", err)
			a.mu.Lock()
			a.status.Problem = "waiting for " + what + ": " + oneLine(err)
			a.mu.Unlock()
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

// claimTunnels gives the node's tunnel links their addresses, which packets of the node itself to pods behind them leave with. It returns
// those that could be had, with what kept it from the others.
func (a *Agent) claimTunnels(ctx context.Context, from *block.Allocator) (map[way][]netip.Addr, error) {
	tunnels := map[way][]netip.Addr{}
	var errs []error
	for _, w := range []way{byVXLAN, byIPIP} {
		if !slices.ContainsFunc(a.cfg.Pools, func(p Pool) bool { return p.wraps(w) }) {
			continue
		}
		held, err := a.claimTunnel(ctx, from, a.cfg.tunnelOwner(w))
		if err != nil {
			errs = append(errs, fmt.Errorf("address of the %s link: %w", w, err))
			continue
		}
		for _, addr := range held.Addresses {
			tunnels[w] = append(tunnels[w], addr.Prefix.Addr())
		}
	}
	return tunnels, errors.Join(errs...)
}

// claimTunnel is one link's addresses. One that was given before a family had pools gets an address of that family too, where there is one
// to be had: without, the node's packets into that tunnel leave with its underlay address, to which pods answer past the tunnel.
func (a *Agent) claimTunnel(ctx context.Context, from *block.Allocator, owner ipam.Owner) (held ipam.Allocation, err error) {
	pools := a.cfg.poolsForNode()
	held, err = from.AllocateOf(ctx, owner, pools)
	if errors.Is(err, block.ErrExhausted) {
		err = errors.Join(err, a.cfg.lacking(pools))
	}
	lacks := func(family netip.Addr) bool {
		return !slices.ContainsFunc(held.Addresses, func(has ipam.Address) bool { return has.Prefix.Addr().Is4() == family.Is4() })
	}
	if err != nil || !slices.ContainsFunc(pools, func(p netip.Prefix) bool { return lacks(p.Addr()) }) {
		return held, err
	}
	// All that an owner has is given at once. So another gets what is lacking, before anything is given up.
	next := owner
	next.Interface = "next" // of no link: it is collected, should this process end here
	got, err := from.AllocateOf(ctx, next, pools)
	if err != nil {
		a.log.WarnContext(ctx, "a tunnel link stays without an address of a family until the agent starts again", "link", owner.Container, "err", err)
		return held, nil
	}
	var want []netip.Addr
	for _, has := range held.Addresses {
		want = append(want, has.Prefix.Addr())
	}
	for _, has := range got.Addresses {
		if lacks(has.Prefix.Addr()) {
			want = append(want, has.Prefix.Addr())
		}
	}
	if err := errors.Join(from.Release(ctx, next), from.Release(ctx, owner)); err != nil {
		return held, err
	}
	if held, err = from.AllocateOf(ctx, owner, pools, want...); err != nil { // its pool may be gone, or not the node's any more
		held, err = from.AllocateOf(ctx, owner, pools)
	}
	return held, err
}

// dropLost gives up what the node's links hold in blocks that are not the node's any more, because it was taken for dead: those addresses
// are others' to have.
func (a *Agent) dropLost(ctx context.Context, from *block.Allocator) error {
	held, err := a.knownTunnels(ctx)
	errs := []error{err}
	for w, addrs := range held {
		for _, addr := range addrs {
			if a.lost(from, addr) {
				a.log.WarnContext(ctx, "this node was taken for dead, or had another name, and gives its link another address", "link", w, "address", addr)
				errs = append(errs, from.Release(ctx, a.cfg.tunnelOwner(w)))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// lost reports whether an address is in no block of the node's. Of a family that has no pools any more nobody claims blocks, nor looks
// at them: what is held there stays.
func (a *Agent) lost(from *block.Allocator, addr netip.Addr) bool {
	if len(poolsOf(a.cfg.Pools, addr.Is4())) == 0 {
		return false
	}
	return !slices.ContainsFunc(from.Shares(), func(s block.Share) bool { return s.Prefix.Contains(addr) })
}

// knownTunnels are the addresses that the node's links have been given before.
func (a *Agent) knownTunnels(ctx context.Context) (map[way][]netip.Addr, error) {
	tunnels := map[way][]netip.Addr{}
	if absent(a.cfg.addressFile()) {
		return tunnels, nil
	}
	pool, err := ipam.Open(ipam.Config{Path: a.cfg.addressFile(), Logger: a.log})
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

// poolsForNode are those that the node's own addresses are of: those for all namespaces, in each family where it has such.
func (c Config) poolsForNode() (all []netip.Prefix) {
	for _, v4 := range []bool{true, false} {
		some := serving(poolsOf(c.Pools, v4), c.Labels)
		common := slices.DeleteFunc(slices.Clone(some), Pool.chooses)
		if len(common) > 0 {
			some = common
		}
		all = append(all, prefixes(some)...)
	}
	return all
}

// poolsFor are those that pods of a namespace may have addresses of. Nobody may have said of which one a pod is.
func (r *run) poolsFor(namespace string) (all []netip.Prefix, err error) {
	var labels map[string]string
	known := false
	if r.policing != nil {
		labels, known = r.policing.labelsOf(namespace)
	}
	for _, p := range serving(r.cfg.Pools, r.cfg.Labels) {
		if p.chooses() && !known && namespace != "" {
			return nil, fmt.Errorf("which pools are for it is not known: nobody has told of the namespace %s yet", namespace)
		}
		if !p.chooses() || known && p.Namespaces.Matches(labels) {
			all = append(all, p.Prefix)
		}
	}
	return all, nil
}

// lacking says of each family that has none of these pools why that is so; nil where it is not.
func (c Config) lacking(some []netip.Prefix) error {
	var errs []error
	for _, v4 := range []bool{true, false} {
		all := poolsOf(c.Pools, v4)
		if len(all) == 0 || slices.ContainsFunc(all, func(p Pool) bool { return slices.Contains(some, p.Prefix) }) {
			continue
		}
		var why []string
		for _, p := range all {
			switch {
			case p.Disabled:
				why = append(why, p.Name+" is disabled")
			case !p.serves(c.Labels):
				why = append(why, p.Name+" is for other nodes")
			default:
				why = append(why, p.Name+" is for other namespaces")
			}
		}
		errs = append(errs, fmt.Errorf("of the pools of %s, %s", familyName(v4), strings.Join(why, ", ")))
	}
	return errors.Join(errs...)
}

// forPods is an Allocator of the pools that are for a pod. It says when the node's shares have become others, and its collection spares
// what no pod holds.
type forPods struct {
	*block.Allocator
	pools   func(namespace string) ([]netip.Prefix, error)
	lacking func(pools []netip.Prefix) error // says why these have nothing of a family
	changed func()
}

var _ cniplugin.PodAllocator = forPods{}

// AllocateFor implements cniplugin.PodAllocator.
func (f forPods) AllocateFor(ctx context.Context, pod local.Pod, owner ipam.Owner, want ...netip.Addr) (ipam.Allocation, error) {
	pools, err := f.pools(pod.Namespace)
	if err != nil {
		return ipam.Allocation{}, err
	}
	before := len(f.Shares())
	given, err := f.AllocateOf(ctx, owner, pools, want...)
	if errors.Is(err, block.ErrExhausted) && f.lacking != nil {
		err = errors.Join(err, f.lacking(pools))
	}
	if len(f.Shares()) != before {
		f.changed()
	}
	return given, err
}

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
		blocks, err := store.Blocks(ctx, everything(v4))
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

// own are the node's shares of blocks.
func (r *run) own() (prefixes []netip.Prefix) {
	for _, s := range r.addresses.Shares() {
		prefixes = append(prefixes, s.Prefix)
	}
	return prefixes
}

// blocks are the node's, with how many of their addresses are held. No store is asked, and nobody is waited for who does.
func (r *run) blocks(ctx context.Context) (all []Block, err error) {
	taken, err := r.cfg.held(ctx)
	for _, p := range r.own() {
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
	return all, err
}

// held lists who holds addresses of the node's.
func (c Config) held(ctx context.Context) ([]ipam.Allocation, error) {
	if absent(c.addressFile()) {
		return nil, nil
	}
	pool, err := ipam.Open(ipam.Config{Path: c.addressFile()})
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	return pool.All(ctx)
}
