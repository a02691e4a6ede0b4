package iptables

import (
	"cmp"
	"slices"
	"strings"
)

// move is an element that comes into a set, or goes.
type move struct {
	set     *set
	element string
	add     bool
}

// address is whose element it is.
func (m move) address() string {
	address, _, _ := strings.Cut(m.element, ",")
	return address
}

// moves are what makes have's elements want's.
func moves(have, want *set) (list []move) {
	there := make(map[string]bool, len(have.elements))
	for _, e := range have.elements {
		there[e] = true
	}
	for _, e := range want.elements {
		if !there[e] {
			list = append(list, move{want, e, true})
		}
		delete(there, e)
	}
	for _, e := range have.elements {
		if there[e] {
			list = append(list, move{want, e, false})
		}
	}
	return list
}

// effect is +1 where a move can only let more packets through, -1 where it can only let fewer, and 0 where that depends.
func (m move) effect() int {
	effect := 0
	switch m.set.use {
	case accepts, knows:
		effect = 1
	case denies:
		effect = -1
	}
	if !m.add {
		return -effect
	}
	return effect
}

// gradually reports whether elements can be moved one after the other, and in which order, so that no packet in between is let
// through that is denied before and after, nor denied that is allowed before and after.
//
// That is so where all moves let more packets through, or all let fewer: whatever is between two rulesets one of which allows all
// that the other does is between them. It is also so where one pod comes, goes, or changes its labels within its class, and no
// policy denies or passes by what moves:
//
//   - One that comes is first judged by its class. Its end then is as it will be and the other ends are as they were, which
//     know it as nobody that they allow. Packets to it or from it that are denied after all are denied by its class, or by the
//     other end, which has not allowed it before either.
//   - One that goes does the same in the opposite order.
//   - One that only moves between sets of peers comes before it goes. Its own end does not change; the other end allows it for a
//     while as what it was and as what it will be, one of which it does allow for good.
//
// Where both ends of a connection, or two conditions of a rule, move at once, there is no such order: its one end may already allow
// what the other still does.
func gradually(list []move) ([]move, bool) {
	list = slices.Clone(list)
	if same(list, move.effect) && (len(list) == 0 || list[0].effect() != 0) {
		return list, true
	}
	deciding := slices.ContainsFunc(list, func(m move) bool { return m.set.use&(denies|passes) != 0 || m.set.use == 0 })
	if deciding || !same(list, move.address) {
		return nil, false
	}
	switch {
	case same(list, func(m move) bool { return m.add }):
		slices.SortStableFunc(list, func(a, b move) int {
			return sign(list[0].add) * cmp.Compare(a.set.use.stage(), b.set.use.stage())
		})
		return list, true
	case slices.ContainsFunc(list, func(m move) bool { return m.set.use != accepts || m.set.kind != ipKind }):
		return nil, false
	}
	slices.SortStableFunc(list, func(a, b move) int { return sign(b.add) - sign(a.add) })
	return list, true
}

// stage says which sets a pod that comes is put into first.
func (u use) stage() int { return slices.Index([]use{classifies, judges, knows, accepts}, u) }

func sign(add bool) int {
	if add {
		return 1
	}
	return -1
}

// same reports whether what is asked of is the same of all.
func same[T any, V comparable](list []T, what func(T) V) bool {
	return !slices.ContainsFunc(list, func(t T) bool { return what(t) != what(list[0]) })
}
