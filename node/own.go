package node

import (
	"cmp"
	"slices"

	"github.com/podweft/podweft/subnet"
)

// agreement is a snapshot that has our lease as we hold it. Its zero value is none.
type agreement struct {
	snap  *subnet.Snapshot
	lease *subnet.Lease
}

// with is withOwn, which it need not ask while nothing but other nodes' leases changes.
func (a *agreement) with(snap *subnet.Snapshot, own *subnet.Lease) *subnet.Snapshot {
	if a.stands(snap, own) {
		a.snap = snap
		return snap
	}
	with := withOwn(snap, own)
	*a = agreement{}
	if with == snap {
		*a = agreement{snap, own}
	}
	return with
}

// stands reports whether another snapshot agrees as well, by what has changed since.
func (a *agreement) stands(snap *subnet.Snapshot, own *subnet.Lease) bool {
	if a.snap == nil || a.lease != own {
		return false
	}
	ours := func(l *subnet.Lease) bool { return l.Node == own.Node }
	gone, come := snap.Changes(a.snap)
	return !slices.ContainsFunc(gone, ours) && !slices.ContainsFunc(come, ours)
}

// withOwn is the snapshot with our lease as we hold it: right after it was acquired, and while the store has lost it, the
// snapshot does not say so.
func withOwn(snap *subnet.Snapshot, own *subnet.Lease) *subnet.Snapshot {
	count, seen := 0, (*subnet.Lease)(nil)
	for _, l := range snap.Leases {
		if l.Node == own.Node {
			count, seen = count+1, l
		}
	}
	if count == 1 && seen.Key == own.Key && seen.Prefixes == own.Prefixes && seen.Underlay == own.Underlay &&
		seen.Backend == own.Backend && seen.Data.Equal(own.Data) {
		return snap
	}
	leases := make([]*subnet.Lease, 0, len(snap.Leases)+1)
	for _, l := range snap.Leases {
		if l.Node != own.Node {
			leases = append(leases, l)
		}
	}
	at, _ := slices.BinarySearchFunc(leases, own, func(a, b *subnet.Lease) int { return cmp.Compare(a.Key, b.Key) })
	with := *snap
	with.Leases = slices.Insert(leases, at, own)
	return &with
}
