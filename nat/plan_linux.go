package nat

import (
	"fmt"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
)

// step is a change and how it is made.
type step struct {
	podweft.Change
	add func(*nft.Batch) // nil: another step makes this change as well
}

// alone reports whether the change can fail without taking others with it.
func (s step) alone() bool {
	_, element := s.Object.(nft.SetElement)
	return element
}

// compare lists what makes have into want; either may be nil, which is no table.
func compare(name nft.Table, have, want *table) []step {
	switch {
	case have == nil && want == nil:
		return nil
	case have == nil:
		return create(name, want)
	case want == nil:
		return []step{remove(name)}
	}
	kept, removals := sortOut(have, want)
	steps := slices.Concat(wake(name, have), removals, missing(kept.sets, want.sets, addSet))
	for _, s := range want.sets {
		steps = append(steps, compareElements(s, have.elements[s], want.elements[s])...)
	}
	steps = append(steps, missing(kept.chains, want.chains, addChain)...)
	for _, c := range want.chains {
		steps = append(steps, compareRules(c, rulesOf(c, kept.rules), rulesOf(c, want.rules), len(removals) > 0)...)
	}
	return steps
}

func rulesOf(c nft.Chain, all []nft.Rule) (rules []nft.Rule) {
	for _, r := range all {
		if r.Chain == c.Name {
			rules = append(rules, r)
		}
	}
	return rules
}

func create(name nft.Table, want *table) []step {
	addTable := step{
		Change: podweft.Change{Op: podweft.Create, Object: name},
		add:    func(b *nft.Batch) { b.AddTable(name, 0) },
	}
	return append([]step{addTable}, compare(name, &table{}, want)...)
}

func remove(name nft.Table) step {
	return step{
		Change: podweft.Change{Op: podweft.Delete, Object: name},
		add:    func(b *nft.Batch) { b.DeleteTable(name) },
	}
}

// sortOut keeps what is as it should be, but for elements, and removes other sets and chains. All rules go first, ours
// too, since they may use what is removed; ours are written again in the same transaction.
//
// The table is not simply deleted and made anew, although one transaction could: for each of its chains a packet looks
// anew which side of the transaction it is on, so about one new flow in some thousand such transactions met the new chain
// before and the old one after, and left as it was (seen on 6.18).
func sortOut(have, want *table) (kept table, removals []step) {
	gone := map[string]bool{}
	for _, s := range have.sets {
		if slices.Contains(want.sets, s) {
			kept.sets = append(kept.sets, s)
		} else {
			removals = append(removals, notOurs(s, func(b *nft.Batch) { b.DeleteSet(s) }))
		}
	}
	for _, c := range have.chains {
		if slices.Contains(want.chains, c) {
			kept.chains = append(kept.chains, c)
		} else {
			removals = append(removals, notOurs(c, func(b *nft.Batch) { b.DeleteChain(c) }))
			gone[c.Name] = true
		}
	}
	for _, r := range have.rules {
		if !gone[r.Chain] {
			kept.rules = append(kept.rules, r)
		}
	}
	if len(removals) > 0 {
		first := removals[0].add
		removals[0].add = func(b *nft.Batch) {
			for _, c := range have.chains {
				b.FlushChain(c)
			}
			first(b)
		}
	}
	return kept, removals
}

func notOurs(o podweft.Object, remove func(*nft.Batch)) step {
	return step{podweft.Change{Op: podweft.Delete, Object: o, Note: "not ours"}, remove}
}

// wake is needed when somebody has put the table to sleep: it is all there, and does nothing.
func wake(name nft.Table, have *table) []step {
	if have.flags&nft.Dormant == 0 {
		return nil
	}
	return []step{{
		Change: podweft.Change{Op: podweft.Update, Object: name, Note: "was dormant"},
		add:    func(b *nft.Batch) { b.AddTable(name, have.flags&^nft.Dormant) },
	}}
}

func addSet(s nft.Set) func(*nft.Batch)     { return func(b *nft.Batch) { b.AddSet(s) } }
func addChain(c nft.Chain) func(*nft.Batch) { return func(b *nft.Batch) { b.AddChain(c) } }

func missing[T interface {
	comparable
	podweft.Object
}](have, want []T, add func(T) func(*nft.Batch)) []step {
	var steps []step
	for _, w := range want {
		if !slices.Contains(have, w) {
			steps = append(steps, step{podweft.Change{Op: podweft.Create, Object: w}, add(w)})
		}
	}
	return steps
}

// compareElements deletes before it creates: ranges must not overlap.
func compareElements(s nft.Set, have, want []nft.Element) []step {
	var steps []step
	for _, e := range without(have, want) {
		steps = append(steps, step{
			podweft.Change{Op: podweft.Delete, Object: nft.SetElement{Set: s, Element: e}},
			func(b *nft.Batch) { b.DeleteElements(s, e) },
		})
	}
	for _, e := range without(want, have) {
		steps = append(steps, step{
			podweft.Change{Op: podweft.Create, Object: nft.SetElement{Set: s, Element: e}},
			func(b *nft.Batch) { b.AddElements(s, e) },
		})
	}
	return steps
}

// without returns the elements of a that are not in b.
func without(a, b []nft.Element) []nft.Element {
	in := make(map[nft.Element]bool, len(b))
	for _, e := range b {
		in[e] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(e nft.Element) bool { return in[e] })
}

// compareRules shows what is wrong rule by rule and, since their order counts, writes all of them anew when anything is, or
// when they have been removed on the way here.
func compareRules(chain nft.Chain, have, want []nft.Rule, removed bool) []step {
	same := func(h, w nft.Rule) bool { return w.Same(h) }
	equal := slices.EqualFunc(have, want, same)
	if equal && !removed {
		return nil
	}
	var steps []step
	for _, h := range have {
		if !slices.ContainsFunc(want, func(w nft.Rule) bool { return same(h, w) }) {
			steps = append(steps, step{Change: podweft.Change{Op: podweft.Delete, Object: h, Note: "not ours"}})
		}
	}
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h nft.Rule) bool { return same(h, w) }) {
			steps = append(steps, step{Change: podweft.Change{Op: podweft.Create, Object: w}})
		}
	}
	if len(steps) == 0 {
		note := "rules written again"
		if !equal {
			note = fmt.Sprintf("has our rules, but not each of the %d once and in order", len(want))
		}
		steps = []step{{Change: podweft.Change{Op: podweft.Update, Object: chain, Note: note}}}
	}
	steps[0].add = func(b *nft.Batch) {
		b.FlushChain(chain)
		for _, w := range want {
			b.AddRule(w)
		}
	}
	return steps
}
