package policy

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"
	"sort"
)

// List is an immutable sorted list without doubles. It may be long, and the next one usually differs in an element or two: it is
// kept in chunks, which both then share.
//
// Where a chunk ends is for its last element to say (see endsChunk), so that equal Lists have equal chunks, whatever they were made
// from.
type List[T comparable] struct {
	chunks [][]T
	size   int
}

// Len is the number of elements.
func (l List[T]) Len() int { return l.size }

// All yields the elements in their order.
func (l List[T]) All() iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, chunk := range l.chunks {
			for _, item := range chunk {
				if !yield(item) {
					return
				}
			}
		}
	}
}

// Diff returns the elements of old that are not in l, and those of l that are not in old. An element that differs in more than its
// place in the order, which compare says, is in both. It looks at shared chunks only once: the cost is that of the difference.
func (l List[T]) Diff(old List[T], compare func(a, b T) int) (gone, added []T) {
	have, want := cursor[T]{chunks: old.chunks}, cursor[T]{chunks: l.chunks}
	for have.more() && want.more() {
		if have.i == 0 && want.i == 0 && &have.chunks[0][0] == &want.chunks[0][0] && len(have.chunks[0]) == len(want.chunks[0]) {
			have.chunks, want.chunks = have.chunks[1:], want.chunks[1:]
			continue
		}
		a, b := have.item(), want.item()
		order := compare(a, b)
		if order <= 0 {
			have.i++
		}
		if order >= 0 {
			want.i++
		}
		if order < 0 || order == 0 && a != b {
			gone = append(gone, a)
		}
		if order > 0 || order == 0 && a != b {
			added = append(added, b)
		}
	}
	for ; have.more(); have.i++ {
		gone = append(gone, have.item())
	}
	for ; want.more(); want.i++ {
		added = append(added, want.item())
	}
	return gone, added
}

// cursor is a place in a List.
type cursor[T any] struct {
	chunks [][]T
	i      int // in the first of them
}

func (c *cursor[T]) more() bool {
	if len(c.chunks) > 0 && c.i == len(c.chunks[0]) {
		c.chunks, c.i = c.chunks[1:], 0
	}
	return len(c.chunks) > 0
}

func (c *cursor[T]) item() T { return c.chunks[0][c.i] }

// find returns the element in the place of item.
func (l List[T]) find(item T, compare func(a, b T) int) (found T, ok bool) {
	at := l.chunkOf(0, item, compare)
	if at == len(l.chunks) {
		return found, false
	}
	i, ok := slices.BinarySearchFunc(l.chunks[at], item, compare)
	if ok {
		found = l.chunks[at][i]
	}
	return found, ok
}

// chunkOf returns the first chunk from that one on which does not end before item.
func (l List[T]) chunkOf(from int, item T, compare func(a, b T) int) int {
	return from + sort.Search(len(l.chunks)-from, func(i int) bool {
		chunk := l.chunks[from+i]
		return compare(chunk[len(chunk)-1], item) >= 0
	})
}

// meanChunk is how many elements a chunk has in the mean: few enough to be copied for one of them, and many enough for the chunks of
// a long List to be few.
const meanChunk = 128

// endsChunk reports whether an element at the address a is the last of its chunk. One in meanChunk is, whatever the addresses have
// in common.
func endsChunk(a netip.Addr) bool {
	b := a.As16()
	// The finisher of splitmix64 (Steele, Lea and Flood, 2014): each bit of the result depends on every bit that goes in.
	h := binary.BigEndian.Uint64(b[:8])*0x9e3779b97f4a7c15 ^ binary.BigEndian.Uint64(b[8:])
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return (h^h>>31)%meanChunk == 0
}
