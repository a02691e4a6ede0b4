package fib

import "hash/maphash"

// others remembers, by hash, in which places other programs' routes were seen since everything was last read: who comes to want
// one of them has to look what stands there. The kernel refuses a second route of the same metric, but says nothing of one
// that wins against ours by a lower. A route that is gone is remembered too, and costs a look in vain.
type others struct {
	seed   maphash.Seed
	tables map[uint32]struct{} // that ours are in; the rest may hold anything
	places map[uint64]struct{}
}

// mostOthers bounds the memory, at some 2 MiB. A node that has the Internet's routes beside ours learns of such a conflict at
// the next full pass.
const mostOthers = 1 << 16

// newOthers is empty. wanted are the places of ours.
func newOthers(wanted map[place]uint32) others {
	o := others{seed: maphash.MakeSeed(), tables: map[uint32]struct{}{}, places: map[uint64]struct{}{}}
	for p := range wanted {
		o.tables[p.table] = struct{}{}
	}
	return o
}

func (o *others) see(p place) {
	if _, ours := o.tables[p.table]; ours && len(o.places) < mostOthers {
		o.places[maphash.Comparable(o.seed, p)] = struct{}{}
	}
}

// at reports whether another program's route may stand at p.
func (o *others) at(p place) bool {
	if _, known := o.tables[p.table]; !known {
		return true
	}
	_, seen := o.places[maphash.Comparable(o.seed, p)]
	return seen
}
