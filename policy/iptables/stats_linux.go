package iptables

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/podweft/podweft/policy"
)

// Stats is what policies have decided since their rules were written, in numbers of first packets of connections.
type Stats struct {
	// Rules are those of policies that have decided something.
	Rules []RuleCount
	// Isolated is what was denied because policies isolate a pod and none of them allows it.
	Isolated []IsolationCount
	// Closed is what was denied because an address in [Spec.Closed] is no known pod's.
	Closed Count
	// Listings is how often rules and sets were read since New. It stays put while nobody interferes.
	Listings uint64
}

// Count is a number of packets and their bytes.
type Count struct{ Packets, Bytes uint64 }

// RuleCount is what one rule of a policy has decided.
type RuleCount struct {
	Policy    policy.ID
	Direction policy.Direction
	Rule      int // its index
	Action    policy.Action
	Count
}

// IsolationCount is what was denied by the policies that isolate some pods together.
type IsolationCount struct {
	Direction policy.Direction
	Policies  []policy.ID
	Count
}

// Denied adds up what was denied for any reason.
func (s Stats) Denied() (sum Count) {
	sum = s.Closed
	for _, r := range s.Rules {
		if r.Action == policy.Deny {
			sum.add(r.Count)
		}
	}
	for _, i := range s.Isolated {
		sum.add(i.Count)
	}
	return sum
}

func (c *Count) add(o Count) {
	c.Packets += o.Packets
	c.Bytes += o.Bytes
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
				if w.meaning.counts && kernel[i].count.Packets > 0 {
					s.count(w.meaning, kernel[i].count)
				}
			}
		}
	}
	return s, errors.Join(errs...)
}

// count adds what a rule has counted to what it stands for: rules of each family, and of several peers or classes, may
// stand for one.
func (s *Stats) count(m meaning, c Count) {
	switch {
	case m.unknown:
		s.Closed.add(c)
	case m.isolated != nil:
		for i := range s.Isolated {
			if have := &s.Isolated[i]; have.Direction == m.direction && slices.Equal(have.Policies, m.isolated) {
				have.add(c)
				return
			}
		}
		s.Isolated = append(s.Isolated, IsolationCount{Direction: m.direction, Policies: m.isolated, Count: c})
	default:
		for i := range s.Rules {
			if have := &s.Rules[i]; have.Policy == m.policy && have.Direction == m.direction && have.Rule == m.rule && have.Action == m.action {
				have.add(c)
				return
			}
		}
		s.Rules = append(s.Rules, RuleCount{Policy: m.policy, Direction: m.direction, Rule: m.rule, Action: m.action, Count: c})
	}
}
