// Package recompile makes a driver's pure Compile cost what has changed: of a cluster of thousands, one lease at a time changes
// as a rule, and to judge and decode all the others once more takes longer than all that follows it.
//
// It compiles what is new and what is gone by themselves, each beside the node's own lease, and puts the one in the place of the
// other. That equals compiling everything while leases have nothing to do with each other. Wherever they might have, because
// something overlaps, clashes, is unsound or concerns the node itself, everything is compiled.
//
// It knows neither the kernel nor any driver.
package recompile

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/podweft/podweft/internal/delta"
	"github.com/podweft/podweft/subnet"
)

// Compile is a driver's pure compiler.
type Compile[S any] func(subnet.Node, *subnet.Snapshot) (S, []subnet.Problem, error)

// Kind is what has to be known of a driver whose Specs S are peers P and little else. All but Clash are required.
type Kind[S, P any] struct {
	Compile Compile[S]
	// Peers is where a Spec has its peers, and Order the order they are in, in which no two of a Spec are alike.
	Peers func(*S) *[]P
	Order func(a, b P) int
	// SameRest reports whether nothing but peers differs.
	SameRest func(a, b S) bool
	// Clash reports whether Compile would not have both in one Spec, though their prefixes do not overlap.
	Clash func(a, b *P) bool
}

// most is how many leases may have changed for one by one to be the shorter way: each is compared with all the others.
const most = 32

// New returns a function that returns what kind.Compile does, and remembers it. It is safe for concurrent use.
func New[S, P any](kind Kind[S, P]) Compile[S] {
	m := &memory[S, P]{kind: kind}
	return m.compile
}

// memory is the last answer, and the question.
type memory[S, P any] struct {
	kind Kind[S, P]

	mu   sync.Mutex
	node subnet.Node
	snap *subnet.Snapshot // nil: none whose answer can be built upon
	own  []*subnet.Lease  // the node's, in snap
	spec S
}

func (m *memory[S, P]) compile(node subnet.Node, snap *subnet.Snapshot) (S, []subnet.Problem, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if spec, ok := m.update(node, snap); ok {
		m.snap, m.spec = snap, spec
		return spec, nil, nil
	}
	m.snap = nil
	spec, problems, err := m.kind.Compile(node, snap)
	if err == nil && len(problems) == 0 {
		m.node, m.snap, m.spec, m.own = node, snap, spec, nil
		for _, l := range snap.Leases {
			if l != nil && l.Node == node.Name {
				m.own = append(m.own, l)
			}
		}
	}
	return spec, problems, err
}

// update makes the Spec of snap out of the last one, where nothing but a few sound leases differs.
func (m *memory[S, P]) update(node subnet.Node, snap *subnet.Snapshot) (spec S, ok bool) {
	if m.snap == nil || node != m.node || snap.Network == nil || !snap.Network.Equal(m.snap.Network) ||
		slices.Contains(snap.Leases, nil) || slices.Contains(m.snap.Leases, nil) {
		return spec, false
	}
	removed, added := delta.Sorted(m.snap.Leases, snap.Leases, byKey, identical)
	if len(removed)+len(added) > most || slices.ContainsFunc(slices.Concat(removed, added), func(l *subnet.Lease) bool { return l.Node == node.Name }) {
		return spec, false
	}
	gone, ok := m.alone(snap, removed)
	if !ok {
		return spec, false
	}
	come, ok := m.alone(snap, added)
	if !ok || overlap(added, snap.Leases) {
		return spec, false
	}
	peers, ok := replace(*m.kind.Peers(&m.spec), gone, come, m.kind.Order)
	if !ok || m.clash(come, peers) {
		return spec, false
	}
	spec = m.spec
	*m.kind.Peers(&spec) = peers
	return spec, true
}

func byKey(a, b *subnet.Lease) int {
	if a == b { // nearly always
		return 0
	}
	return strings.Compare(a.Key, b.Key)
}

func identical(a, b *subnet.Lease) bool { return a == b }

// alone compiles some leases beside the node's own. It is false when they are not sound, or change more than peers.
func (m *memory[S, P]) alone(snap *subnet.Snapshot, some []*subnet.Lease) ([]P, bool) {
	if len(some) == 0 {
		return nil, true
	}
	part := subnet.Snapshot{Revision: snap.Revision, Network: snap.Network, Leases: slices.Concat(m.own, some)}
	spec, problems, err := m.kind.Compile(m.node, &part)
	if err != nil || len(problems) > 0 || !m.kind.SameRest(spec, m.spec) {
		return nil, false
	}
	return *m.kind.Peers(&spec), true
}

// overlap reports whether one of some, all of which are among leases, has an address in common with another lease.
func overlap(some, leases []*subnet.Lease) bool {
	for _, a := range some {
		for _, b := range leases {
			if a != b && !(apart(a.Prefixes.V4, b.Prefixes.V4) && apart(a.Prefixes.V6, b.Prefixes.V6)) && a.Prefixes.Overlaps(b.Prefixes) {
				return true
			}
		}
	}
	return false
}

// apart reports that two subnets without host bits do not overlap, in what nearly always is the case.
func apart(a, b netip.Prefix) bool {
	return a.Bits() == b.Bits() && a != b || !a.IsValid() || !b.IsValid()
}

// replace puts come in the place of gone. It is false where they do not fit: something else is, or is not, in their places.
func replace[P any](peers, gone, come []P, order func(a, b P) int) ([]P, bool) {
	all := append(make([]P, 0, len(peers)+len(come)), peers...)
	for _, p := range gone {
		at, there := slices.BinarySearchFunc(all, p, order)
		if !there {
			return nil, false
		}
		all = slices.Delete(all, at, at+1)
	}
	for _, p := range come {
		at, there := slices.BinarySearchFunc(all, p, order)
		if there {
			return nil, false
		}
		all = slices.Insert(all, at, p)
	}
	return all, true
}

// clash reports whether one of come, all of which are among peers, clashes with another.
func (m *memory[S, P]) clash(come, peers []P) bool {
	if m.kind.Clash == nil {
		return false
	}
	for _, a := range come {
		for i := range peers {
			b := &peers[i] // a copy of each takes longer than the rest
			if m.kind.Clash(&a, b) && m.kind.Order(a, *b) != 0 {
				return true
			}
		}
	}
	return false
}
