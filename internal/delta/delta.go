// Package delta compares two lists of what should be, so that only what differs need be looked at. It is pure.
package delta

import "slices"

// InOrder returns list in the order of compare and leaves the caller's as it is.
func InOrder[T any](list []T, compare func(a, b T) int) []T {
	if slices.IsSortedFunc(list, compare) {
		return list
	}
	return slices.SortedFunc(slices.Values(list), compare)
}

// InOrderLike is InOrder for a list of which most is as it was in another, which is in order: only the rest is looked at.
func InOrderLike[T any](list, other []T, compare func(a, b T) int, same func(a, b *T) bool) ([]T, Rest[T]) {
	head, tail := common(list, other, same)
	if from, to := max(head-1, 0), min(len(list)-tail+1, len(list)); !slices.IsSortedFunc(list[from:to], compare) {
		list = InOrder(list, compare)
		head, tail = common(list, other, same)
	}
	return list, Rest[T]{was: other[head : len(other)-tail], is: list[head : len(list)-tail], compare: compare, same: same}
}

// Rest is what two lists do not begin and end with alike.
type Rest[T any] struct {
	was, is []T
	compare func(a, b T) int
	same    func(a, b *T) bool
}

// Empty reports whether the lists are the same.
func (r Rest[T]) Empty() bool { return len(r.was) == 0 && len(r.is) == 0 }

// Sorted is what [Sorted] says of the two lists.
func (r Rest[T]) Sorted() (removed, added []T) {
	have, want := r.was, r.is
	for len(have) > 0 && len(want) > 0 {
		switch order := r.compare(have[0], want[0]); {
		case order < 0:
			removed, have = append(removed, have[0]), have[1:]
		case order > 0:
			added, want = append(added, want[0]), want[1:]
		default:
			if !r.same(&have[0], &want[0]) {
				removed, added = append(removed, have[0]), append(added, want[0])
			}
			have, want = have[1:], want[1:]
		}
	}
	return append(removed, have...), append(added, want...)
}

// Equal is slices.Equal, which does not look at the elements where both slices are one.
func Equal[T comparable](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// common is how many elements are the same at the beginning of both lists, and how many of the others at their end.
func common[T any](a, b []T, same func(a, b *T) bool) (head, tail int) {
	n := min(len(a), len(b))
	for head < n && same(&a[head], &b[head]) {
		head++
	}
	for tail < n-head && same(&a[len(a)-1-tail], &b[len(b)-1-tail]) {
		tail++
	}
	return head, tail
}

// Sorted compares two lists that are in the order of compare, in which no two elements of one list are equal. What differs
// by same is in both results; what is the same has to be equal by compare.
func Sorted[T any](have, want []T, compare func(a, b T) int, same func(a, b T) bool) (removed, added []T) {
	here := func(a, b *T) bool { return same(*a, *b) }
	// Most is the same as a rule, and to compare takes more than to see that.
	head, tail := common(have, want, here)
	return Rest[T]{was: have[head : len(have)-tail], is: want[head : len(want)-tail], compare: compare, same: here}.Sorted()
}
