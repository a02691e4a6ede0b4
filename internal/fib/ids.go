package fib

// ids assigns an id of our range to each nexthop. A nexthop keeps its id, so that a failing one has the same text at each
// try and a restart changes nothing.
type ids struct {
	mark  Mark
	given map[via]uint32
	used  map[uint32]struct{} // given, or another program's
	next  uint32              // offset in our range at which to look for a free one
}

func newIDs(mark Mark) *ids {
	return &ids{mark: mark, given: map[via]uint32{}, used: map[uint32]struct{}{}}
}

// of returns v's id. A range of 65,536 ids outlasts any number of nodes that a Linux host can route to in this way; when
// it is used up all the same, the kernel refuses the id that is given twice.
func (x *ids) of(v via) uint32 {
	if id, ok := x.given[v]; ok {
		return id
	}
	id := x.mark.First + x.next%idsPerOwner
	for range idsPerOwner {
		if _, used := x.used[id]; !used {
			break
		}
		x.next++
		id = x.mark.First + x.next%idsPerOwner
	}
	x.next++
	x.given[v] = id
	x.used[id] = struct{}{}
	return id
}

// release makes v's id free for another nexthop.
func (x *ids) release(v via) {
	delete(x.used, x.given[v])
	delete(x.given, v)
}

// learn takes over the ids that the kernel holds: those of our nexthops, and those that another program has taken from our
// range. Ids of nexthops that are neither there nor wanted become free.
func (x *ids) learn(have *state, wanted map[via]int) {
	if have.learned || x.knows(have) {
		have.learned = true
		return
	}
	have.learned = true
	have.routes.agreed = unknown // it was counted by other ids
	given := x.given
	x.given, x.used = make(map[via]uint32, len(given)), make(map[uint32]struct{}, len(given))
	for id := range have.taken {
		x.used[id] = struct{}{}
	}
	for id := range have.doubles {
		x.used[id] = struct{}{}
	}
	for v, nh := range have.nexthops.at {
		x.given[v] = nh.ID
		x.used[nh.ID] = struct{}{}
	}
	for v, id := range given {
		_, there := x.given[v]
		_, used := x.used[id]
		if _, ok := wanted[v]; ok && !there && !used {
			x.given[v] = id
			x.used[id] = struct{}{}
		}
	}
}

// knows reports whether there is nothing to learn: every id that is used was given to the nexthop that has it.
func (x *ids) knows(have *state) bool {
	if len(have.taken) > 0 || len(have.doubles) > 0 || len(x.given) != len(have.nexthops.at) || len(x.used) != len(x.given) {
		return false
	}
	for v, nh := range have.nexthops.at {
		if x.given[v] != nh.ID {
			return false
		}
	}
	return true
}
