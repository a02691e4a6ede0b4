package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

// TestTable compares both kinds of table with a set that is sorted when somebody asks.
func TestTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var short table[int]
		var long longTable[netip.Addr]
		want := map[int]bool{}
		last := rapid.SampledFrom([]int{10, 1000}).Draw(t, "last") // of which about 8 end a chunk
		items := rapid.SliceOfN(rapid.IntRange(0, last), 0, last/2)
		for range rapid.IntRange(1, 6).Draw(t, "flushes") {
			gone, add := items.Draw(t, "gone"), items.Draw(t, "add")
			for _, i := range gone {
				short.gone, long.gone = append(short.gone, i), append(long.gone, address(i))
				delete(want, i)
			}
			for _, i := range add {
				short.add, long.add = append(short.add, i), append(long.add, address(i))
				want[i] = true
			}
			wasShort, wasLong := short.list, long.list
			shown := fmt.Sprint(wasShort, wasLong)
			short.flush(func(a, b int) int { return a - b })
			changed := long.flush(netip.Addr.Compare, itself)
			if fmt.Sprint(wasShort, wasLong) != shown {
				t.Fatalf("lists that had been given away have changed")
			}

			sorted := slices.Sorted(maps.Keys(want))
			if !slices.Equal(sorted, short.list) || len(sorted) == 0 && short.list != nil {
				t.Fatalf("%v should be %v", short.list, sorted)
			}
			var addrs longTable[netip.Addr]
			for _, i := range sorted {
				addrs.add = append(addrs.add, address(i))
			}
			addrs.flush(netip.Addr.Compare, itself)
			if !reflect.DeepEqual(addrs.list, long.list) {
				t.Fatalf("%v should be %v", long.list, addrs.list)
			}
			if got := slices.Collect(long.list.All()); len(got) != len(sorted) || long.list.Len() != len(sorted) {
				t.Fatalf("%d elements should be %d; Len is %d", len(got), len(sorted), long.list.Len())
			}
			if changed == slices.Equal(slices.Collect(wasLong.All()), slices.Collect(long.list.All())) {
				t.Fatalf("changed should not be %t", changed)
			}
			for i := range last {
				if _, ok := long.list.find(address(i), netip.Addr.Compare); ok != want[i] {
					t.Fatalf("find %d: %t", i, ok)
				}
			}
			difference(t, wasLong, long.list)
			difference(t, List[netip.Addr]{}, long.list)
		}
	})
}

// difference checks Diff of two lists against one looked through for each element of the other.
func difference(t *rapid.T, before, after List[netip.Addr]) {
	old, now := slices.Collect(before.All()), slices.Collect(after.All())
	var wantGone, wantAdded []netip.Addr
	for _, a := range old {
		if !slices.Contains(now, a) {
			wantGone = append(wantGone, a)
		}
	}
	for _, a := range now {
		if !slices.Contains(old, a) {
			wantAdded = append(wantAdded, a)
		}
	}
	gone, added := after.Diff(before, netip.Addr.Compare)
	if !slices.Equal(wantGone, gone) || !slices.Equal(wantAdded, added) {
		t.Fatalf("%v to %v: gone %v, added %v", before, after, gone, added)
	}
}

func address(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
}

// TestListShares: one element among 20,000 costs its own chunk.
func TestListShares(t *testing.T) {
	var long longTable[netip.Addr]
	for i := range 20_000 {
		long.add = append(long.add, address(i))
	}
	long.flush(netip.Addr.Compare, itself)
	before := long.list
	assert.InDelta(t, 20_000/meanChunk, len(before.chunks), 60)

	long.gone = append(long.gone, address(12_345))
	assert.True(t, long.flush(netip.Addr.Compare, itself))
	shared := 0
	for _, a := range before.chunks {
		for _, b := range long.list.chunks {
			shared += b2i(&a[0] == &b[0])
		}
	}
	assert.GreaterOrEqual(t, shared, len(before.chunks)-2)
	gone, added := long.list.Diff(before, netip.Addr.Compare)
	assert.Equal(t, []netip.Addr{address(12_345)}, gone)
	assert.Empty(t, added)
}

// TestDiffSaysWhatDiffersInBoth: an endpoint that is another pod's now is gone and added.
func TestDiffSaysWhatDiffersInBoth(t *testing.T) {
	old, next := Endpoint{address(1), &Judged{Name: "old"}}, Endpoint{address(1), &Judged{Name: "new"}}
	same := Endpoint{address(2), &Judged{Name: "same"}}
	gone, added := Endpoints(next, same).Diff(Endpoints(old, same), Endpoint.Compare)
	assert.Equal(t, []Endpoint{old}, gone)
	assert.Equal(t, []Endpoint{next}, added)
}
