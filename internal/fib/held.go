package fib

// held is what the kernel holds of one kind.
type held[K, V comparable] struct {
	at map[K]V
	// agreed is at how many keys the kernel was seen to hold what is wanted, while it was being read: the kernel is at work then
	// too, so that looking is nearly free. It says nothing any more when what is held or wanted has changed.
	agreed int

	listed  []V  // the listing that at was filled from
	written bool // at says something else by now
}

// unknown is a number of keys that nobody counted.
const unknown = -1

// newHeld is empty, with room for n.
func newHeld[K, V comparable](n int) *held[K, V] { return &held[K, V]{at: make(map[K]V, n)} }

// keep says what stands at k after a write: v, or nothing.
func (h *held[K, V]) keep(k K, v V, there bool) {
	h.written = true
	if there {
		h.at[k] = v
		return
	}
	delete(h.at, k)
}

// store puts v, which was listed, at k and counts it if it is as wanted. What is listed twice makes the count worthless.
func (h *held[K, V]) store(k K, v V, wanted bool) {
	before := len(h.at)
	h.at[k] = v
	switch {
	case len(h.at) == before || h.agreed == unknown:
		h.agreed = unknown
	case wanted:
		h.agreed++
	}
}

// listing is one kind while the kernel lists it. Usually that is what it listed the last time, in the same order, and nothing was
// written since: then what was made of that is taken over. To compare two lists takes a fraction of filling maps.
type listing[K, V comparable] struct {
	last *held[K, V] // nil as soon as something else comes
	same int         // how much of it has come
	now  *held[K, V] // nil as long as nothing else has come
	room int         // for how many entries now is made

	put   func(h *held[K, V], v V) // puts an entry where it belongs
	reset func()                   // empties what put fills besides h
}

// list begins a listing of about room entries. The last one can be taken over if there was one, for what is wanted now: again.
func list[K, V comparable](room int, last *held[K, V], again bool, put func(*held[K, V], V), reset func()) *listing[K, V] {
	l := &listing[K, V]{last: last, room: room, put: put, reset: reset}
	reset()
	if !again || last.written {
		l.part()
	}
	return l
}

// part makes the listing one of its own: it is not, or has turned out not to be, like the last.
func (l *listing[K, V]) part() {
	l.now = newHeld[K, V](l.room)
	if l.same > 0 {
		l.fill(l.last.listed[:l.same])
	}
	l.last = nil
}

func (l *listing[K, V]) fill(entries []V) {
	for _, v := range entries {
		l.add(v)
	}
}

func (l *listing[K, V]) add(v V) {
	if l.now.listed == nil {
		l.now.listed = make([]V, 0, l.room)
	}
	l.now.listed = append(l.now.listed, v)
	l.put(l.now, v)
}

// next takes in what is listed.
func (l *listing[K, V]) next(v V) {
	if l.last != nil {
		if l.same < len(l.last.listed) && l.last.listed[l.same] == v {
			l.same++
			return
		}
		l.part()
	}
	l.add(v)
}

// restart returns what is to be called when the kernel begins anew to list what it begins to list now.
func (l *listing[K, V]) restart() func() {
	from := l.same
	if l.now != nil {
		from = len(l.now.listed)
	}
	return func() {
		switch {
		case l.now == nil:
			l.same = from
		case from < len(l.now.listed):
			before := l.now.listed[:from]
			l.now = newHeld[K, V](l.room)
			l.reset()
			l.fill(before)
		}
	}
}

// end returns what the kernel holds.
func (l *listing[K, V]) end() *held[K, V] {
	if l.now == nil && l.same < len(l.last.listed) {
		l.part()
	}
	if l.now == nil {
		return l.last
	}
	return l.now
}
