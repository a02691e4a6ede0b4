package delta_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/podweft/podweft/internal/delta"
)

// entry is a thing with a key and something that may differ.
type entry struct{ key, value int }

func byKey(a, b entry) int   { return cmp.Compare(a.key, b.key) }
func equal(a, b entry) bool  { return a == b }
func number(a, b int) int    { return cmp.Compare(a, b) }
func alike(a, b string) bool { return a == b }

func TestSorted(t *testing.T) {
	tests := []struct {
		name           string
		have, want     []entry
		removed, added []entry
	}{
		{"nothing", nil, nil, nil, nil},
		{"all the same", []entry{{1, 1}, {2, 2}}, []entry{{1, 1}, {2, 2}}, nil, nil},
		{"first", nil, []entry{{1, 1}, {2, 2}}, nil, []entry{{1, 1}, {2, 2}}},
		{"last", []entry{{1, 1}, {2, 2}}, nil, []entry{{1, 1}, {2, 2}}, nil},
		{"one changed", []entry{{1, 1}, {2, 2}, {3, 3}}, []entry{{1, 1}, {2, 9}, {3, 3}}, []entry{{2, 2}}, []entry{{2, 9}}},
		{"one more before", []entry{{2, 2}}, []entry{{1, 1}, {2, 2}}, nil, []entry{{1, 1}}},
		{"one less behind", []entry{{1, 1}, {2, 2}}, []entry{{1, 1}}, []entry{{2, 2}}, nil},
		{"none in common", []entry{{1, 1}, {3, 3}}, []entry{{2, 2}, {4, 4}}, []entry{{1, 1}, {3, 3}}, []entry{{2, 2}, {4, 4}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			removed, added := delta.Sorted(tt.have, tt.want, byKey, equal)
			assert.Equal(t, tt.removed, removed)
			assert.Equal(t, tt.added, added)
		})
	}
}

// TestSortedIsTheNaiveDifference compares with one list looked through for each element of the other.
func TestSortedIsTheNaiveDifference(t *testing.T) {
	lists := rapid.Map(rapid.MapOf(rapid.IntRange(0, 20), rapid.IntRange(0, 2)), func(m map[int]int) []entry {
		list := []entry{}
		for k, v := range m {
			list = append(list, entry{k, v})
		}
		slices.SortFunc(list, byKey)
		return list
	})
	rapid.Check(t, func(t *rapid.T) {
		have, want := lists.Draw(t, "have"), lists.Draw(t, "want")
		haveBefore, wantBefore := slices.Clone(have), slices.Clone(want)
		var naivelyRemoved, naivelyAdded []entry
		for _, e := range have {
			if !slices.Contains(want, e) {
				naivelyRemoved = append(naivelyRemoved, e)
			}
		}
		for _, e := range want {
			if !slices.Contains(have, e) {
				naivelyAdded = append(naivelyAdded, e)
			}
		}
		removed, added := delta.Sorted(have, want, byKey, equal)
		require.Equal(t, naivelyRemoved, removed)
		require.Equal(t, naivelyAdded, added)
		require.Equal(t, haveBefore, have)
		require.Equal(t, wantBefore, want)
	})
}

func TestInOrder(t *testing.T) {
	sorted := []int{1, 2, 3}
	got := delta.InOrder(sorted, number)
	assert.Same(t, &sorted[0], &got[0], "a list that is in order is not copied")

	mixed := []int{3, 1, 2}
	assert.Equal(t, []int{1, 2, 3}, delta.InOrder(mixed, number))
	assert.Equal(t, []int{3, 1, 2}, mixed, "the caller's stays as it is")
	assert.Empty(t, delta.InOrder(nil, number))
}

func ExampleSorted() {
	removed, added := delta.Sorted([]string{"a", "b", "d"}, []string{"a", "c", "d"}, cmp.Compare, alike)
	fmt.Println(removed, added)
	// Output: [b] [c]
}

// TestInOrderLikeIsInOrder: what another list says must not matter.
func TestInOrderLikeIsInOrder(t *testing.T) {
	lists := rapid.SliceOfNDistinct(rapid.IntRange(0, 9), 0, 8, rapid.ID[int])
	same := func(a, b *int) bool { return *a == *b }
	rapid.Check(t, func(t *rapid.T) {
		list, other := lists.Draw(t, "list"), slices.Sorted(slices.Values(lists.Draw(t, "other")))
		if rapid.Bool().Draw(t, "alike") {
			list = slices.Clone(other)
			if i := rapid.IntRange(0, len(list)).Draw(t, "at"); rapid.Bool().Draw(t, "insert") {
				list = slices.Insert(list, i, 10+rapid.IntRange(-11, 1).Draw(t, "new"))
			}
		}
		before := slices.Clone(list)
		want := delta.InOrder(list, number)
		wantRemoved, wantAdded := delta.Sorted(other, want, number, func(a, b int) bool { return a == b })
		got, rest := delta.InOrderLike(list, other, number, same)
		removed, added := rest.Sorted()
		if !slices.Equal(want, got) || !slices.Equal(before, list) {
			t.Fatalf("%v like %v is %v, want %v", before, other, got, want)
		}
		require.Equal(t, wantRemoved, removed)
		require.Equal(t, wantAdded, added)
		require.Equal(t, slices.Equal(want, other), rest.Empty())
	})
}

func TestEqual(t *testing.T) {
	list := []int{1, 2}
	assert.True(t, delta.Equal(list, list))
	assert.True(t, delta.Equal(list, []int{1, 2}))
	assert.True(t, delta.Equal[int](nil, []int{}))
	assert.False(t, delta.Equal(list, list[:1]))
	assert.False(t, delta.Equal(list, []int{1, 3}))
}
