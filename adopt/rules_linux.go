package adopt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/xtables"
)

// iptablesChains are flannel's, and where packets come into them.
var iptablesChains = []struct{ table, from, name string }{
	{"nat", "POSTROUTING", "FLANNEL-POSTRTG"},
	{"filter", "FORWARD", "FLANNEL-FWD"},
}

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
			some, err := f.chain(ctx, nft.Table{Family: family, Name: c.table}, c.from, c.name)
			steps, errs = append(steps, some...), append(errs, err)
		}
	}
	for _, t := range ownTables {
		switch _, err := f.rules.Table(ctx, t); {
		case err == nil:
			steps = append(steps, f.transaction(t, func(b *nft.Batch) { b.DeleteTable(t) }))
		case !absent(err):
			errs = append(errs, err)
		}
	}
	return steps, errors.Join(errs...)
}

// chain is how a chain of iptables-nft goes: in one transaction with the rules that lead there.
func (f *Flannel) chain(ctx context.Context, t nft.Table, from, name string) ([]step, error) {
	chains, err := f.rules.Chains(ctx, t)
	if absent(err) {
		return nil, nil
	}
	i := slices.IndexFunc(chains, func(c nft.Chain) bool { return c.Name == name })
	if err != nil || i < 0 {
		return nil, err
	}
	rules, err := f.rules.Rules(ctx, t)
	if err != nil {
		return nil, err
	}
	return []step{f.transaction(chains[i], func(b *nft.Batch) {
		for _, r := range rules {
			if r.Chain == from && r.Target() == name {
				b.DeleteRule(r)
			}
		}
		b.FlushChain(chains[i])
		b.DeleteChain(chains[i])
	})}, nil
}

func (f *Flannel) transaction(o podweft.Object, fill func(*nft.Batch)) step {
	return step{podweft.Change{Op: podweft.Delete, Object: o, Note: "flannel's"}, func(ctx context.Context) error {
		var b nft.Batch
		fill(&b)
		return f.rules.Commit(ctx, &b)
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
	if err != nil || !slices.Contains(strings.Split(text, "\n"), "-N "+name) {
		return nil, err
	}
	var commands [][]string
	for line := range strings.Lines(text) {
		words := xtables.Words(line)
		if n := len(words); n > 3 && words[0] == "-A" && words[n-2] == "-j" && words[n-1] == name {
			words[0] = "-D"
			commands = append(commands, words)
		}
	}
	commands = append(commands, []string{"-F", name}, []string{"-X", name})
	o := podweft.Named(fmt.Sprintf("chain of %s %s %s", family, table, name))
	return []step{{podweft.Change{Op: podweft.Delete, Object: o, Note: "flannel's"}, func(ctx context.Context) error {
		for _, c := range commands {
			if _, err := xtables.Run(ctx, f.netns, family, append([]string{"-t", table}, c...)...); err != nil {
				return err
			}
		}
		return nil
	}}}, nil
}
