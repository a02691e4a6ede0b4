package nft

import (
	"cmp"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// end is an element as the kernel lists it: of an interval set of one field, each of a range's two ends is one.
type end struct {
	Element
	closes bool // the first key that is no longer in the range
}

// parseElements adds the elements of one message to ends.
func parseElements(r reply, ends []end) []end {
	if !r.is(unix.NFT_MSG_NEWSETELEM) {
		return ends
	}
	for item := range attrs(find(r.attrs(), unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
		if item.kind == unix.NFTA_LIST_ELEM {
			ends = append(ends, parseElement(item.value))
		}
	}
	return ends
}

func parseElement(b []byte) end {
	var e end
	for a := range attrs(b) {
		switch a.kind {
		case unix.NFTA_SET_ELEM_KEY:
			e.Key = string(find(a.value, unix.NFTA_DATA_VALUE))
		case nftaSetElemKeyEnd:
			e.Last = string(find(a.value, unix.NFTA_DATA_VALUE))
		case unix.NFTA_SET_ELEM_DATA:
			e.Data = string(find(a.value, unix.NFTA_DATA_VALUE))
			if v := find(a.value, unix.NFTA_DATA_VERDICT); v != nil {
				e.Verdict = parseVerdict(v)
			}
		case unix.NFTA_SET_ELEM_FLAGS:
			e.closes = u32(a.value)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		}
	}
	if e.Last == e.Key {
		e.Last = ""
	}
	return e
}

func parseVerdict(b []byte) expr.Verdict {
	return expr.Verdict{
		Kind:  expr.VerdictKind(int32(u32(find(b, unix.NFTA_VERDICT_CODE)))),
		Chain: str(find(b, unix.NFTA_VERDICT_CHAIN)),
	}
}

// sortEnds sorts what the kernel listed by key, and reports whether nothing is in it twice. A hash table that the kernel
// enlarges meanwhile, which it does on its own time and not in a transaction, is listed with some elements twice and others
// not at all: it counts its way through the list (net/netfilter/nft_set_hash.c, nft_rhash_walk), so that the sum is never
// too small, and whatever is missing shows by something else being there twice.
func sortEnds(ends []end) (unique bool) {
	slices.SortFunc(ends, compareEnds)
	for i := 1; i < len(ends); i++ {
		if compareEnds(ends[i-1], ends[i]) == 0 {
			return false
		}
	}
	return true
}

// join makes elements of the sorted ends that the kernel listed for s.
func join(s Set, ends []end) []Element {
	elements := make([]Element, 0, len(ends))
	for i, e := range ends {
		if e.closes {
			continue
		}
		if s.Interval && !s.ranged() {
			e.Last = lastBefore(e.Key, ends[i+1:])
		}
		elements = append(elements, e.Element)
	}
	return elements
}

// lastBefore is the last key of a range that begins at first, given the ends that follow: whichever comes next ends it, be
// it the beginning of another range. Without any it goes on to the very last key.
func lastBefore(first string, following []end) string {
	last := strings.Repeat("\xff", len(first))
	if len(following) > 0 {
		last, _ = previous(following[0].Key)
	}
	if last == first {
		return ""
	}
	return last
}

// compareEnds sorts the end of one range before the beginning of the next at the same key.
func compareEnds(a, b end) int {
	return cmp.Or(strings.Compare(a.Key, b.Key), compareBools(b.closes, a.closes), strings.Compare(a.Last, b.Last))
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
