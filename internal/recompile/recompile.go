// Package recompile makes a driver's pure Compile cost what has changed: of a cluster of thousands, one lease at a time changes
// as a rule, and to judge and decode all the others once more takes longer than all that follows it.
//
// It compiles what is new and what is gone by themselves, each beside the node's own lease, and puts the one in the place of the
// other. That equals compiling everything while leases have nothing to do with each other. Wherever they might have, because
// something overlaps, clashes, shares a peer or concerns the node itself, everything is compiled. A lease that is bad by itself,
// and good for nothing, is left where it is.
//
// It knows neither the kernel nor any driver.
package recompile

import (
	"slices"
	"sync"

	"github.com/podweft/podweft/subnet"
)

// Compile is a driver's pure compiler.
type Compile[S any] func(subnet.Node, *subnet.Snapshot) (S, []subnet.Problem, error)

// Kind is what has to be known of a driver whose Specs S are peers P and little else. All but Mark and Same are required.
type Kind[S, P any, M comparable] struct {
	Compile Compile[S]
	// Peers is where a Spec has its peers, and Order the order they are in, in which no two of a Spec are alike.
	Peers func(*S) *[]P
	Order func(a, b P) int
	// SameRest reports whether nothing but peers differs.
	SameRest func(a, b S) bool
	// Mark is what Compile would not have two peers of one Spec share, besides addresses of pods. Nil: there is nothing.
	Mark func(P) M
	// Same reports whether two peers say the same: a peer that Compile makes of several leases is not what some of them make. Nil:
	// none is made of more than one.
	Same func(a, b *P) bool
}

// most is how many leases may have changed for one by one to be the shorter way: each moves half of all peers.
const most = 32

// New returns a function that returns what kind.Compile does, and remembers it. It is safe for concurrent use.
func New[S, P any, M comparable](kind Kind[S, P, M]) Compile[S] {
	m := &memory[S, P, M]{kind: kind}
	return m.compile
}

// memory is the last answer, and the question.
type memory[S, P any, M comparable] struct {
	kind Kind[S, P, M]

	mu   sync.Mutex
	node subnet.Node
	snap *subnet.Snapshot // nil: none whose answer can be built upon
	own  []*subnet.Lease  // the node's, in snap
	bad  []*subnet.Lease  // those in snap that are nothing to any other, with the problems
	spec S
	used *used[M] // in snap and spec; nil: not made

	problems []subnet.Problem
}

func (m *memory[S, P, M]) compile(node subnet.Node, snap *subnet.Snapshot) (S, []subnet.Problem, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if spec, ok := m.update(node, snap); ok {
		m.snap, m.spec = snap, spec
		return spec, slices.Clone(m.problems), nil
	}
	m.snap, m.used = nil, nil
	spec, problems, err := m.kind.Compile(node, snap)
	if err == nil && !slices.Contains(snap.Leases, nil) {
		m.remember(node, snap, spec, slices.Clip(problems))
	}
	return spec, slices.Clip(problems), err
}

// remember notes the answer, if it can be built upon.
func (m *memory[S, P, M]) remember(node subnet.Node, snap *subnet.Snapshot, spec S, problems []subnet.Problem) {
	m.node, m.spec, m.problems, m.own = node, spec, problems, nil
	for _, l := range snap.Leases {
		if l.Node == node.Name {
			m.own = append(m.own, l)
		}
	}
	if bad, ok := m.unrelated(snap, problems); ok {
		m.snap, m.bad = snap, bad
	}
}

// unrelated returns the leases that have the problems. It is false unless each is as bad without the others, and good for nothing.
func (m *memory[S, P, M]) unrelated(snap *subnet.Snapshot, problems []subnet.Problem) (bad []*subnet.Lease, ok bool) {
	if len(problems) == 0 {
		return nil, true
	}
	texts := map[string][]string{}
	for _, p := range problems {
		texts[p.Key] = append(texts[p.Key], p.Error())
	}
	if len(texts) > most {
		return nil, false
	}
	for _, l := range snap.Leases {
		want, is := texts[l.Key]
		if !is {
			continue
		}
		spec, found, err := m.beside(snap, []*subnet.Lease{l})
		same := slices.EqualFunc(want, found, func(text string, p subnet.Problem) bool { return text == p.Error() })
		if err != nil || !same || !m.kind.SameRest(spec, m.spec) || len(*m.kind.Peers(&spec)) > 0 {
			return nil, false
		}
		bad = append(bad, l)
	}
	return bad, len(bad) == len(texts)
}

// update makes the Spec of snap out of the last one, where nothing but a few sound leases differs.
func (m *memory[S, P, M]) update(node subnet.Node, snap *subnet.Snapshot) (spec S, ok bool) {
	if m.snap == nil || node != m.node || snap.Network == nil || !snap.Network.Equal(m.snap.Network) || slices.Contains(snap.Leases, nil) {
		return spec, false
	}
	removed, added := snap.Changes(m.snap)
	special := func(l *subnet.Lease) bool { return l.Node == node.Name || slices.Contains(m.bad, l) }
	if len(removed)+len(added) > most || slices.ContainsFunc(removed, special) || slices.ContainsFunc(added, special) {
		return spec, false
	}
	var gone, come []P
	if len(removed) > 0 {
		if gone, ok = m.alone(snap, removed); !ok {
			return spec, false
		}
	}
	if len(removed)+len(added) > 0 { // even if nobody comes: what else there is may have been for those that are gone
		if come, ok = m.alone(snap, added); !ok {
			return spec, false
		}
	}
	if !m.exchange(removed, added, gone, come) {
		return spec, false
	}
	peers, ok := m.replace(gone, come)
	if !ok {
		return spec, false
	}
	spec = m.spec
	*m.kind.Peers(&spec) = peers
	return spec, true
}

// alone compiles some leases beside the node's own. It is false when they are not sound, or change more than peers.
func (m *memory[S, P, M]) alone(snap *subnet.Snapshot, some []*subnet.Lease) ([]P, bool) {
	spec, problems, err := m.beside(snap, some)
	if err != nil || len(problems) > 0 || !m.kind.SameRest(spec, m.spec) {
		return nil, false
	}
	return *m.kind.Peers(&spec), true
}

// beside compiles some leases and the node's own.
func (m *memory[S, P, M]) beside(snap *subnet.Snapshot, some []*subnet.Lease) (S, []subnet.Problem, error) {
	return m.kind.Compile(m.node, &subnet.Snapshot{Revision: snap.Revision, Network: snap.Network, Leases: slices.Concat(m.own, some)})
}

// exchange brings what is used from some leases and their peers to others. It is false where those would have what is another's;
// what is used is not known then.
func (m *memory[S, P, M]) exchange(removed, added []*subnet.Lease, gone, come []P) bool {
	if m.used == nil {
		m.used = newUsed[M](len(m.snap.Leases))
		m.used.add(m.snap.Leases)
		m.mark(*m.kind.Peers(&m.spec))
	}
	m.used.remove(removed)
	if m.used.meets(added) {
		return false
	}
	m.used.add(added)
	m.unmark(gone)
	return m.mark(come)
}

// mark notes the peers' marks. It is false when one is another's.
func (m *memory[S, P, M]) mark(peers []P) bool {
	if m.kind.Mark == nil {
		return true
	}
	for _, p := range peers {
		mark := m.kind.Mark(p)
		if _, taken := m.used.marks[mark]; taken {
			return false
		}
		m.used.marks[mark] = struct{}{}
	}
	return true
}

func (m *memory[S, P, M]) unmark(peers []P) {
	if m.kind.Mark == nil {
		return
	}
	for _, p := range peers {
		delete(m.used.marks, m.kind.Mark(p))
	}
}

// replace puts come in the place of gone. It is false where they do not fit: something else is, or is not, in their places.
func (m *memory[S, P, M]) replace(gone, come []P) ([]P, bool) {
	peers := *m.kind.Peers(&m.spec)
	all := append(make([]P, 0, len(peers)+len(come)), peers...)
	for _, p := range gone {
		at, there := slices.BinarySearchFunc(all, p, m.kind.Order)
		if !there || m.kind.Same != nil && !m.kind.Same(&all[at], &p) {
			return nil, false
		}
		all = slices.Delete(all, at, at+1)
	}
	for _, p := range come {
		at, there := slices.BinarySearchFunc(all, p, m.kind.Order)
		if there {
			return nil, false
		}
		all = slices.Insert(all, at, p)
	}
	return all, true
}
