package nftables

import (
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables/expr"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
)

// image is our table, or some of it: as it should be, as it is, or as it was when it was written last.
type image struct {
	sets   map[string]*set
	chains map[string]*chain
}

type set struct {
	nft.Set
	elements []nft.Element
}

type chain struct {
	nft.Chain
	rules []nft.Rule
	what  []meaning // of each rule, where we have made them
}

func newImage() *image { return &image{sets: map[string]*set{}, chains: map[string]*chain{}} }

func (im *image) empty() bool { return len(im.sets)+len(im.chains) == 0 }

func (im *image) set(s nft.Set) *set {
	if im.sets[s.Name] == nil {
		im.sets[s.Name] = &set{Set: s}
	}
	return im.sets[s.Name]
}

func (im *image) chain(c nft.Chain) *chain {
	if im.chains[c.Name] == nil {
		im.chains[c.Name] = &chain{Chain: c}
	}
	return im.chains[c.Name]
}

// uses counts the rules that look into each set.
func (im *image) uses() map[string]int {
	uses := make(map[string]int, len(im.sets))
	for _, c := range im.chains {
		for _, r := range c.rules {
			for _, e := range r.Exprs {
				if l, ok := e.(*expr.Lookup); ok {
					uses[l.SetName]++
				}
			}
		}
	}
	return uses
}

// change is what makes one image into another: a plan for people, and what to send to the kernel.
//
// Of a table that packets go through, new chains and sets are made in a transaction of their own, before anything leads there. A
// packet under way keeps to the rules of the generation that it began with (genbit in the kernel's nft_do_chain), but it looks
// elements up in the present one: it may find the new element of a verdict map, and in the old generation a chain that comes
// with it has no rules yet. It would let through what old and new rules both deny.
type change struct {
	plan   podweft.Plan
	before nft.Batch
	batch  nft.Batch
	whole  bool // there is no table that packets go through: nothing need be made before
	first  bool // there is none at all: it is loaded, which takes several transactions if it is large
	have   *image
	want   *image
}

// fresh is where that is made which nothing leads to yet.
func (c *change) fresh() *nft.Batch {
	if c.whole {
		return &c.batch
	}
	return &c.before
}

// compare makes have into want. Its order is that in which the kernel takes it: what others name is made first and goes last. A
// beginning of it is harmless too, for a first load of many transactions: the chains that close what is unknown come before
// all else, and the maps that send pods' packets to their rules come when the rules are there.
func compare(have, want *image) *change { return (&change{}).from(have, want) }

// from adds to c what makes have into want.
func (c *change) from(have, want *image) *change {
	c.have, c.want = have, want
	for _, frame := range []bool{true, false} {
		sets, chains := setNames(want, frame), chainNames(want, frame)
		c.addSets(sets)
		c.addElements(sets, false)
		c.addChains(chains)
		c.writeRules(chains)
	}
	c.addElements(setNames(want, true), true)
	c.remove()
	return c
}

// frame reports whether a name is of what is there whatever the rules are; theirs have a dash for their third letter at most.
func frame(name string) bool { return len(name) < 2 || name[1] != '-' }

func setNames(im *image, of bool) []string   { return names(im.sets, of) }
func chainNames(im *image, of bool) []string { return names(im.chains, of) }
func names[T any](m map[string]T, of bool) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m)), func(name string) bool { return frame(name) != of })
}

func (c *change) note(op podweft.Op, o podweft.Object, note string) {
	c.plan = append(c.plan, podweft.Change{Op: op, Object: o, Note: note})
}

// addSets makes those first that most rules look into. For each such rule, and each change of its elements, the kernel goes
// through a table's sets by their names, in the order in which they were made (nft_set_lookup, net/netfilter/nf_tables_api.c). With
// 2,000 sets that is a third of what a load costs there.
func (c *change) addSets(list []string) {
	list = slices.DeleteFunc(slices.Clone(list), func(name string) bool { return c.have.sets[name] != nil })
	if len(list) > 1 {
		uses := c.want.uses()
		slices.SortStableFunc(list, func(a, b string) int { return uses[b] - uses[a] })
	}
	for _, name := range list {
		s := c.want.sets[name]
		c.note(podweft.Create, s.Set, fmt.Sprintf("%d elements", len(s.elements)))
		c.fresh().AddSet(s.Set)
	}
}

// addElements makes the elements of sets, or of verdict maps, what they should be: old ones go first, for ranges must not overlap,
// and a key must not have two verdicts.
func (c *change) addElements(list []string, verdicts bool) {
	for _, name := range list {
		want := c.want.sets[name]
		if (want.Data == nft.Verdict) != verdicts {
			continue
		}
		have := c.have.sets[name]
		if have == nil {
			c.fresh().AddElements(want.Set, want.elements...)
			continue
		}
		gone, added := difference(have.elements, want.elements)
		c.batch.DeleteElements(want.Set, gone...)
		c.batch.AddElements(want.Set, added...)
		for _, e := range gone {
			c.note(podweft.Delete, nft.SetElement{Set: want.Set, Element: e}, "")
		}
		for _, e := range added {
			c.note(podweft.Create, nft.SetElement{Set: want.Set, Element: e}, "")
		}
	}
}

// difference returns what is in have only, and what in want only.
func difference(have, want []nft.Element) (gone, added []nft.Element) {
	left := make(map[nft.Element]bool, len(have))
	for _, e := range have {
		left[e] = true
	}
	for _, e := range want {
		if left[e] {
			delete(left, e)
		} else {
			added = append(added, e)
		}
	}
	for _, e := range have {
		if left[e] {
			gone = append(gone, e)
		}
	}
	return gone, added
}

func (c *change) addChains(list []string) {
	for _, name := range list {
		if c.have.chains[name] == nil {
			c.note(podweft.Create, c.want.chains[name].Chain, "")
			c.fresh().AddChain(c.want.chains[name].Chain)
		}
	}
}

// writeRules writes all rules of a chain when any of them is not as it should be: their order counts.
func (c *change) writeRules(list []string) {
	for _, name := range list {
		want, to := c.want.chains[name], c.fresh()
		if have := c.have.chains[name]; have != nil {
			if slices.EqualFunc(have.rules, want.rules, sameRule) {
				continue
			}
			to = &c.batch
			to.FlushChain(want.Chain)
			c.note(podweft.Update, want.Chain, "rules written again")
		}
		for _, r := range want.rules {
			c.note(podweft.Create, r, "")
			to.AddRule(r)
		}
	}
}

// sameRule compares a rule with one of ours. One that was read has a handle.
func sameRule(have, want nft.Rule) bool {
	if have.Handle != 0 {
		return want.Same(have)
	}
	return have.Text == want.Text
}

// remove removes what is not wanted. All rules go before the first chain: they may jump from one to another.
func (c *change) remove() {
	var chains []*chain
	for _, name := range slices.Sorted(maps.Keys(c.have.chains)) {
		if c.want.chains[name] == nil {
			chains = append(chains, c.have.chains[name])
		}
	}
	for _, gone := range chains {
		c.batch.FlushChain(gone.Chain)
	}
	for _, gone := range chains {
		c.note(podweft.Delete, gone.Chain, "")
		c.batch.DeleteChain(gone.Chain)
	}
	for _, name := range slices.Sorted(maps.Keys(c.have.sets)) {
		if gone := c.have.sets[name]; c.want.sets[name] == nil {
			c.note(podweft.Delete, gone.Set, "")
			c.batch.DeleteSet(gone.Set)
		}
	}
}

// unlike reports whether something in have bears a name of want and is of another kind: it must go before want can be made.
func unlike(have, want *image) bool {
	for name, s := range have.sets {
		if w := want.sets[name]; w != nil && w.Set != s.Set {
			return true
		}
	}
	for name, c := range have.chains {
		if w := want.chains[name]; w != nil && w.Chain != c.Chain {
			return true
		}
	}
	return false
}
