package gate

import (
	"net/netip"
	"slices"

	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/policy"
)

// book is who has which address: the cluster says, and plugins know better, but only of this node.
type book struct {
	node   string
	pods   map[policy.ID]policy.Pod // as the cluster has them
	at     map[netip.Addr][]policy.ID
	given  map[policy.ID]map[local.Key][]netip.Addr
	owners map[netip.Addr]policy.ID // who was given each address last
	ended  map[policy.ID]bool       // pods whose last attachment is gone, of which the cluster may still tell
	left   map[policy.ID]bool       // pods with attachments that the cluster has no more: they will not be told of when those end
}

func newBook(node string) book {
	return book{
		node: node, pods: map[policy.ID]policy.Pod{}, at: map[netip.Addr][]policy.ID{},
		given: map[policy.ID]map[local.Key][]netip.Addr{}, owners: map[netip.Addr]policy.ID{},
		ended: map[policy.ID]bool{}, left: map[policy.ID]bool{},
	}
}

// put notes what the cluster says of a pod.
func (b *book) put(p policy.Pod) {
	id := p.ID()
	b.forget(id)
	delete(b.left, id)
	b.pods[id] = p
	for _, a := range p.Addresses {
		b.at[a] = append(b.at[a], id)
	}
}

// gone notes that the cluster has the pod no more.
func (b *book) gone(id policy.ID) {
	b.forget(id)
	delete(b.ended, id)
	if len(b.given[id]) > 0 {
		b.left[id] = true
	}
}

func (b *book) forget(id policy.ID) {
	for _, a := range b.pods[id].Addresses {
		b.at[a] = slices.DeleteFunc(b.at[a], func(o policy.ID) bool { return o == id })
		if len(b.at[a]) == 0 {
			delete(b.at, a)
		}
	}
	delete(b.pods, id)
}

// elsewhere reports whether the pod is another node's. If it has attachments here they are those of its predecessor: a pod of a
// StatefulSet that moves is made anew under its name.
func (b *book) elsewhere(p policy.Pod) bool { return p.Node != "" && p.Node != b.node }

// here is the pod with the addresses that it has by all that we know.
func (b *book) here(p policy.Pod) policy.Pod {
	id := p.ID()
	switch {
	case b.elsewhere(p):
		delete(b.ended, id)
	case len(b.given[id]) > 0:
		p.Node, p.Addresses = b.node, nil
		for _, addrs := range b.given[id] {
			p.Addresses = append(p.Addresses, addrs...)
		}
		slices.SortFunc(p.Addresses, netip.Addr.Compare)
		p.Addresses = slices.Compact(p.Addresses)
	case b.ended[id]:
		p.Addresses = nil // they may be another's already
	}
	taken := func(a netip.Addr) bool {
		owner, given := b.owners[a]
		return given && owner != id
	}
	if slices.ContainsFunc(p.Addresses, taken) {
		p.Addresses = slices.DeleteFunc(slices.Clone(p.Addresses), taken)
	}
	return p
}

// give notes the attachment's addresses, and returns the pods whose addresses are others now, if that is news.
func (b *book) give(id policy.ID, rec local.Record) []policy.ID {
	addrs := addressesOf(rec)
	before := b.given[id][rec.Key()]
	if slices.Equal(before, addrs) {
		return nil
	}
	if b.given[id] == nil {
		b.given[id] = map[local.Key][]netip.Addr{}
	}
	b.given[id][rec.Key()] = addrs
	delete(b.ended, id)
	delete(b.left, id)
	changed := append([]policy.ID{id}, b.release(id, before)...)
	for _, a := range addrs {
		if owner, given := b.owners[a]; given {
			changed = append(changed, owner)
		}
		b.owners[a] = id
		changed = append(changed, b.at[a]...)
	}
	return changed
}

// take forgets attachments, and returns the pods whose addresses are others now.
func (b *book) take(keys []local.Key) (changed []policy.ID) {
	for id, of := range b.given {
		var freed []netip.Addr
		before := len(of)
		for _, key := range keys {
			freed = append(freed, of[key]...)
			delete(of, key)
		}
		if len(of) == before {
			continue
		}
		if len(of) == 0 {
			delete(b.given, id)
			if !b.left[id] {
				b.ended[id] = true
			}
			delete(b.left, id)
		}
		changed = append(append(changed, id), b.release(id, freed)...)
	}
	return changed
}

// release makes addresses those of the pods that have them as well, which it returns.
func (b *book) release(id policy.ID, addrs []netip.Addr) (others []policy.ID) {
	for _, a := range addrs {
		if b.owners[a] != id {
			continue
		}
		delete(b.owners, a)
		for other, of := range b.given {
			for _, has := range of {
				if slices.Contains(has, a) {
					b.owners[a] = other
					others = append(others, other)
				}
			}
		}
		others = append(others, b.at[a]...)
	}
	return others
}

func addressesOf(rec local.Record) []netip.Addr {
	addrs := make([]netip.Addr, len(rec.Addresses))
	for i, p := range rec.Addresses {
		addrs[i] = p.Addr()
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}
