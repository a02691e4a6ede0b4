package adopt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/xtables"
)

// iptablesChains are flannel's.
var iptablesChains = []struct{ table, name string }{{"nat", "FLANNEL-POSTRTG"}, {"filter", "FLANNEL-FWD"}}

// ownTables are those of flannel's nftables mode.
var ownTables = []nft.Table{{Family: nft.IPv4, Name: "flannel-ipv4"}, {Family: nft.IPv6, Name: "flannel-ipv6"}}

// removals is how flannel's rules go, wherever they are. It returns what can be done beside the error.
func (f *Flannel) removals(ctx context.Context) (steps []step, err error) {
	var errs []error
	if f.rules != nil {
		some, err := f.newRules(ctx)
		steps, errs = append(steps, some...), append(errs, err)
	}
	for _, family := range []xtables.Family{xtables.IPv4, xtables.IPv6} {
		for _, c := range iptablesChains {
			some, err := f.oldChain(ctx, family, c.table, c.name)
			steps, errs = append(steps, some...), append(errs, err)
		}
	}
	return steps, errors.Join(errs...)
}

// absent reports whether err means that there is nothing: no such table, or nobody who keeps tables.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, podweft.ErrNotSupported)
}

// newRules is how those in nf_tables go.
func (f *Flannel) newRules(ctx context.Context) (steps []step, err error) {
	var errs []error
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, c := range iptablesChains {
			some, err := f.chain(ctx, nft.Table{Family: family, Name: c.table}, c.name)
			steps, errs = append(steps, some...), append(errs, err)
		}
	}
	for _, t := range ownTables {
		switch _, err := f.rules.Table(ctx, t); {
		case err == nil:
			var b nft.Batch
			b.DeleteTable(t)
			steps = append(steps, f.transaction(t, &b))
		case !absent(err):
			errs = append(errs, err)
		}
	}
	return steps, errors.Join(errs...)
}

// chain is how a chain of iptables-nft goes: in one transaction with the rules that lead there.
func (f *Flannel) chain(ctx context.Context, t nft.Table, name string) ([]step, error) {
	var b nft.Batch
	err := f.rules.RemoveChains(ctx, &b, t, name)
	if absent(err) {
		return nil, nil
	}
	if err != nil || b.Len() == 0 {
		return nil, err
	}
	return []step{f.transaction(nft.Chain{Table: t, Name: name}, &b)}, nil
}

func (f *Flannel) transaction(o podweft.Object, b *nft.Batch) step {
	return step{podweft.Change{Op: podweft.Delete, Object: o, Note: "flannel's"}, func(ctx context.Context) error {
		return f.rules.Commit(ctx, b)
	}}
}

// oldChain is how a chain of the old tables goes.
func (f *Flannel) oldChain(ctx context.Context, family xtables.Family, table, name string) ([]step, error) {
	used, err := xtables.InUse(f.netns, family, table)
	if err != nil || !used {
		return nil, err
	}
	text, err := xtables.Run(ctx, f.netns, family, "-t", table, "-S")
	if errors.Is(err, xtables.ErrNoProgram) {
		return nil, fmt.Errorf("%w: flannel's chain %s may be left in the table %s", err, name, table)
	}
	if err != nil {
		return nil, err
	}
	commands := xtables.Removal(table, text, name)
	if len(commands) == 0 {
		return nil, nil
	}
	o := podweft.Named(fmt.Sprintf("chain of %s %s %s", family, table, name))
	return []step{{podweft.Change{Op: podweft.Delete, Object: o, Note: "flannel's"}, func(ctx context.Context) error {
		for _, c := range commands {
			if _, err := xtables.Run(ctx, f.netns, family, c...); err != nil {
				return err
			}
		}
		return nil
	}}}, nil
}
