package policy

import (
	"net/netip"
	"slices"
)

// edits are what happened to a sorted list since it was last brought up to date; what is in both is there. Doubles do no harm.
type edits[T comparable] struct{ add, gone []T }

// edit is one element that a list must have, or must not have.
type edit[T any] struct {
	item T
	put  bool
}

// take returns what the edits come to, in order, where there says what the list has in the place of an item; and forgets them.
func (e *edits[T]) take(compare func(a, b T) int, there func(T) (T, bool)) (out []edit[T]) {
	add, gone := e.add, e.gone
	*e = edits[T]{}
	slices.SortFunc(add, compare)
	slices.SortFunc(gone, compare)
	for len(add)+len(gone) > 0 {
		next := edit[T]{put: len(gone) == 0 || len(add) > 0 && compare(add[0], gone[0]) <= 0}
		if next.put {
			next.item = add[0]
		} else {
			next.item = gone[0]
		}
		if have, ok := there(next.item); ok != next.put || ok && have != next.item {
			out = append(out, next)
		}
		add, gone = after(add, next.item, compare), after(gone, next.item, compare)
	}
	return out
}

// after returns what comes after item in a sorted list that begins with it, or does not have it.
func after[T any](list []T, item T, compare func(a, b T) int) []T {
	for len(list) > 0 && compare(list[0], item) == 0 {
		list = list[1:]
	}
	return list
}

// merge appends to buf what list is after the edits. Both are sorted.
func merge[T any](buf, list []T, edits []edit[T], compare func(a, b T) int) []T {
	for _, e := range edits {
		at, found := slices.BinarySearchFunc(list, e.item, compare)
		buf = append(buf, list[:at]...)
		list = list[at+b2i(found):]
		if e.put {
			buf = append(buf, e.item)
		}
	}
	return append(buf, list...)
}

// table is a sorted list of a Ruleset's objects that changes from time to time. The list itself is immutable, for it has been given
// away: with each flush that changes anything a new one takes its place.
type table[T comparable] struct {
	list []T
	edits[T]
}

// flush brings the list up to date. An empty list is nil.
func (t *table[T]) flush(compare func(a, b T) int) {
	todo := t.take(compare, func(item T) (have T, ok bool) {
		i, ok := slices.BinarySearchFunc(t.list, item, compare)
		if ok {
			have = t.list[i]
		}
		return have, ok
	})
	if len(todo) == 0 {
		return
	}
	next := merge(make([]T, 0, len(t.list)+len(todo)), t.list, todo, compare)
	if t.list = nil; len(next) > 0 {
		t.list = slices.Clip(next)
	}
}

// longTable is a table whose list is a List.
type longTable[T comparable] struct {
	list List[T]
	edits[T]
}

// flush brings the list up to date and reports whether that changed it. addr is where an element is.
func (t *longTable[T]) flush(compare func(a, b T) int, addr func(T) netip.Addr) (changed bool) {
	todo := t.take(compare, func(item T) (T, bool) { return t.list.find(item, compare) })
	if len(todo) == 0 {
		return false
	}
	var next List[T]
	for _, e := range todo {
		next.size += 2*b2i(e.put) - 1
		if _, found := t.list.find(e.item, compare); found && e.put {
			next.size--
		}
	}
	next.size += t.list.size

	old := t.list.chunks
	at := 0     // the first of old that is not dealt with
	var run []T // what comes before it and makes no whole chunk yet
	for len(todo) > 0 || len(run) > 0 {
		if len(run) == 0 {
			to := t.list.chunkOf(at, todo[0].item, compare)
			if to == len(old) && to > at && !endsChunk(addr(last(old[to-1]))) {
				to-- // the last chunk of all goes on
			}
			next.chunks, at = append(next.chunks, old[at:to]...), to
		}
		if at == len(old) {
			run, todo = merge(run, nil, todo, compare), nil
		} else {
			these := len(todo)
			if at < len(old)-1 {
				these = upTo(todo, last(old[at]), compare)
			}
			run = merge(slices.Grow(run, len(old[at])+these), old[at], todo[:these], compare)
			todo, at = todo[these:], at+1
		}
		for i := 0; i < len(run); i++ {
			if endsChunk(addr(run[i])) {
				next.chunks, run, i = append(next.chunks, run[:i+1:i+1]), run[i+1:], -1
			}
		}
		if at == len(old) && len(todo) == 0 && len(run) > 0 {
			next.chunks, run = append(next.chunks, slices.Clip(run)), nil
		}
	}
	next.chunks = append(next.chunks, old[at:]...)
	t.list = next
	return true
}

// upTo counts the edits of what is not after item.
func upTo[T any](edits []edit[T], item T, compare func(a, b T) int) int {
	for i, e := range edits {
		if compare(e.item, item) > 0 {
			return i
		}
	}
	return len(edits)
}

func last[T any](list []T) T { return list[len(list)-1] }
