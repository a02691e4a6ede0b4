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

// Sorted compares two lists that are in the order of compare, in which no two elements of one list are equal. What differs
// by same is in both results.
func Sorted[T any](have, want []T, compare func(a, b T) int, same func(a, b T) bool) (removed, added []T) {
	for len(have) > 0 && len(want) > 0 {
		switch order := compare(have[0], want[0]); {
		case order < 0:
			removed, have = append(removed, have[0]), have[1:]
		case order > 0:
			added, want = append(added, want[0]), want[1:]
		default:
			if !same(have[0], want[0]) {
				removed, added = append(removed, have[0]), append(added, want[0])
			}
			have, want = have[1:], want[1:]
		}
	}
	return append(removed, have...), append(added, want...)
}
