package iptables

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/podweft/podweft/policy"
)

// Stats is what policies have decided since their rules were written. Closed is of addresses in [Spec.Closed].
type Stats struct {
	policy.Counts
	// Listings is how often rules and sets were read since New. It stays put while nobody writes, the driver included: what it
	// writes looks to its Watch like another's.
	Listings uint64
}

// Stats reads the counters of rules that are as spec has them.
func (d *Driver) Stats(ctx context.Context, spec Spec) (Stats, error) {
	s := Stats{Listings: d.listings.Load()}
	var errs []error
	for _, f := range families {
		want := d.cfg.render(f, spec)
		if len(want.chains) == 0 {
			continue
		}
		saved, err := d.tools.save(ctx, f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		have := newImage(f)
		have.readRules(d.names, saved)
		versions := have.live(d.names)
		for _, name := range slices.Sorted(maps.Keys(want.chains)) {
			ours, kernel := want.chains[name], have.chains[name]
			if !slices.EqualFunc(kernel, ours, func(h, w rule) bool { return h.text == w.with(versions) }) {
				continue
			}
			for i, w := range ours {
				if w.meaning.Counts && kernel[i].count.Packets > 0 {
					w.meaning.AddTo(&s.Counts, kernel[i].count)
				}
			}
		}
	}
	return s, errors.Join(errs...)
}
