package nftables

import (
	"context"
	"slices"

	"github.com/podweft/podweft/internal/nft"
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
	// Listings is how often the table was read whole since New. It stays put while nobody interferes.
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
	jumped := jumped(spec.Rules)
	for _, c := range spec.Rules.Chains {
		if jumped[c.Name] {
			render.policyChains(c)
		}
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
			if packets, bytes, ok := kernel[name][i].Counter(); ok && m.counts && packets > 0 {
				s.count(m, Count{packets, bytes})
			}
		}
	}
	return s, nil
}

// count adds what a rule of the table has counted to what it stands for: rules of each family, and of several peers or classes, may
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
