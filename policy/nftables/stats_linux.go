package nftables

import (
	"context"
	"slices"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/policy"
)

// Stats is what policies have decided since their rules were written. Closed is of addresses in [Spec.Closed].
type Stats struct {
	policy.Counts
	// Listings is how often the table was read whole since New. It stays put while nobody interferes.
	Listings uint64
}

// Stats reads the counters of the table, of rules that are as spec has them.
func (d *Driver) Stats(ctx context.Context, spec Spec) (Stats, error) {
	s := Stats{Listings: d.listings.Load()}
	if spec.Rules == nil {
		return s, nil
	}
	rules, err := d.conn.Rules(ctx, d.table)
	if err != nil {
		return s, err
	}
	kernel := map[string][]nft.Rule{}
	for _, r := range rules {
		kernel[r.Chain] = append(kernel[r.Chain], r)
	}
	render := d.renderer(spec)
	render.frame(spec)
	for _, c := range spec.Rules.Chains {
		render.policyChains(c)
	}
	for _, c := range spec.Rules.Classes {
		render.classChains(c)
	}
	for _, name := range append(chainNames(render.im, true), chainNames(render.im, false)...) {
		ours := render.im.chains[name]
		if !slices.EqualFunc(kernel[name], ours.rules, sameRule) {
			continue
		}
		for i, m := range ours.what {
			if packets, bytes, ok := kernel[name][i].Counter(); ok && m.Counts && packets > 0 {
				m.AddTo(&s.Counts, policy.Count{Packets: packets, Bytes: bytes})
			}
		}
	}
	return s, nil
}
