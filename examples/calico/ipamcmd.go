package calico

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/roster"
)

// claimed is a block as it is shown.
type claimed struct {
	Pool    string       `json:"pool,omitempty"` // empty: it is in none of the pools
	Prefix  netip.Prefix `json:"prefix"`
	Node    string       `json:"node"`
	Doubted bool         `json:"doubted,omitempty"` // its node is held for dead
}

// allBlocks are the blocks of all nodes, by their prefixes.
func (c Config) allBlocks(ctx context.Context) (all []claimed, err error) {
	for _, everything := range []string{"0.0.0.0/0", "::/0"} {
		blocks, err := c.Blocks.Blocks(ctx, netip.MustParsePrefix(everything))
		if err != nil {
			return nil, err
		}
		for _, b := range blocks {
			for _, s := range b.Shares {
				pool, _ := poolOf(c.Pools, s.Prefix)
				all = append(all, claimed{pool.Name, s.Prefix, s.Node, !s.Doubted.IsZero()})
			}
		}
	}
	return all, nil
}

// showBlocks prints who has which blocks.
func (o *Options) showBlocks(ctx context.Context, out io.Writer) error {
	all, err := o.Config.allBlocks(ctx)
	if err != nil {
		return err
	}
	if o.JSON {
		return printJSON(out, append([]claimed{}, all...)) // none are a list too
	}
	var rows [][]string
	for _, p := range o.Config.Pools {
		nodes := map[string]bool{}
		n := 0
		for _, b := range all {
			if b.Pool == p.Name {
				n++
				nodes[b.Node] = true
			}
		}
		rows = append(rows, []string{p.Name, p.Prefix.String(), fmt.Sprint(n), fmt.Sprint(len(nodes))})
	}
	table(out, "POOL|CIDR|BLOCKS|NODES", rows)
	_, _ = fmt.Fprintln(out)
	rows = nil
	for _, b := range all {
		note := ""
		if b.Doubted {
			note = "held for dead"
		}
		rows = append(rows, []string{b.Prefix.String(), b.Pool, b.Node, note})
	}
	table(out, "BLOCK|POOL|NODE|INFO", rows)
	return nil
}

// errUnsound: a check has found something.
var errUnsound = errors.New("the addresses are not as they should be")

// checkBlocks compares what is written down in several places, and prints what does not agree.
func (o *Options) checkBlocks(ctx context.Context, out io.Writer) error {
	cfg := o.Config.withDefaults()
	all, err := cfg.allBlocks(ctx)
	if err != nil {
		return err
	}
	nodes, err := cfg.Nodes.Nodes(ctx)
	if err != nil {
		return err
	}
	found := disagreements(cfg, all, nodes)
	held, records, err := cfg.onNode(ctx)
	if err != nil {
		return err
	}
	for _, h := range held {
		if !isTunnel(h.Owner) && !slices.ContainsFunc(records, func(r local.Record) bool { return ipam.Owner(r.Key()) == h.Owner }) {
			found = append(found, fmt.Sprintf("%s is held by %s, which is no pod on this node (any more): ipam gc frees it", h.Addr(), h.Owner))
		}
		for _, a := range h.Addresses {
			if !slices.ContainsFunc(all, func(b claimed) bool { return b.Node == cfg.Node && b.Prefix.Contains(a.Prefix.Addr()) }) {
				found = append(found, fmt.Sprintf("%s of %s is in no block of this node: start that pod anew", a.Prefix.Addr(), h.Owner))
			}
		}
	}
	for _, r := range records {
		if !slices.ContainsFunc(held, func(h ipam.Allocation) bool { return h.Owner == ipam.Owner(r.Key()) }) {
			found = append(found, fmt.Sprintf("pod %s has addresses that nobody has noted: %v", r.Key(), r.Addresses))
		}
	}
	if o.JSON {
		return errors.Join(printJSON(out, append([]string{}, found...)), unsound(found))
	}
	_, _ = fmt.Fprintf(out, "%d blocks of %d nodes, %d addresses held on this one\n", len(all), len(nodes), len(held))
	for _, f := range found {
		_, _ = fmt.Fprintln(out, "!", f)
	}
	return unsound(found)
}

func unsound(found []string) error {
	if len(found) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d findings", errUnsound, len(found))
}

// disagreements are what blocks, pools and nodes say of each other and cannot all be so.
func disagreements(cfg Config, all []claimed, nodes roster.Nodes) (found []string) {
	for i, b := range all {
		switch {
		case i > 0 && all[i-1].Prefix.Overlaps(b.Prefix):
			found = append(found, fmt.Sprintf("blocks %s of %s and %s of %s overlap", all[i-1].Prefix, all[i-1].Node, b.Prefix, b.Node))
		case b.Pool == "":
			found = append(found, fmt.Sprintf("block %s of %s is in no pool", b.Prefix, b.Node))
		case !slices.ContainsFunc(nodes, func(n roster.Node) bool { return n.Name == b.Node }):
			found = append(found, fmt.Sprintf("block %s is of %s, which is no node (any more)", b.Prefix, b.Node))
		}
	}
	for _, n := range nodes {
		for _, p := range cfg.Pools {
			for a := range n.Underlay.All() {
				if p.Prefix.Contains(a) {
					found = append(found, fmt.Sprintf("node %s has its address %s in the pool %s", n.Name, a, p.Name))
				}
			}
		}
	}
	return found
}

// onNode is what is held on this node, and by which pods.
func (c Config) onNode(ctx context.Context) (held []ipam.Allocation, records []local.Record, err error) {
	if held, err = c.held(ctx); err != nil {
		return nil, nil, err
	}
	dir := c.StateDir + "/attachments"
	if absent(dir) {
		return held, nil, nil
	}
	attachments, err := local.Open(dir, "")
	if err != nil {
		return nil, nil, err
	}
	records, problems, err := attachments.All(c.Network)
	return held, records, errors.Join(append(problems, err)...)
}

// collectBlocks frees what nobody uses on this node.
func (o *Options) collectBlocks(ctx context.Context, out io.Writer) error {
	cfg := o.Config.withDefaults()
	if _, err := cfg.ask(ctx); err == nil {
		return errors.New("the agent of this node collects by itself, and is running")
	}
	a := &Agent{cfg: cfg, log: cfg.Logger}
	claimers, err := a.claimers()
	if err != nil {
		return err
	}
	addresses, err := block.NewAllocator(ctx, a.allocatorConfig(claimers))
	if err != nil {
		return err
	}
	defer addresses.Close()
	_, records, err := cfg.onNode(ctx)
	if err != nil {
		return err
	}
	freed, err := forPods{Allocator: addresses}.Collect(ctx, func(_ context.Context, held []ipam.Allocation) (dead []ipam.Owner, err error) {
		for _, h := range held {
			if !slices.ContainsFunc(records, func(r local.Record) bool { return ipam.Owner(r.Key()) == h.Owner }) {
				dead = append(dead, h.Owner)
			}
		}
		return dead, nil
	})
	if err != nil {
		return err
	}
	for _, f := range freed {
		var addrs []string
		for _, p := range f.Addresses {
			addrs = append(addrs, p.Prefix.Addr().String())
		}
		_, _ = fmt.Fprintf(out, "- %s of %s\n", strings.Join(addrs, " "), f.Owner)
	}
	returned, err := addresses.TrimOf(ctx, spare, prefixes(serving(cfg.Pools, cfg.Labels)))
	for _, s := range returned {
		_, _ = fmt.Fprintf(out, "- block %s\n", s.Prefix)
	}
	return err
}
