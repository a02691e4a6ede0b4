package kube

import (
	"cmp"
	"errors"
	"iter"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/podweft/podweft/subnet"
)

// Snapshot reads the leases of all nodes, in any order and each once. Nodes that are not managed are left out; what makes no
// sense on the others is a Problem, and they keep what is sound, as in [Annotations.Lease].
//
// revision is the resourceVersion of the list that the nodes come from, or of the last event of the watch: the leases have
// those of their nodes, and a Snapshot's is never less than its leases'. The snapshot shares network, and nothing with the
// nodes that could change.
func (a Annotations) Snapshot(nodes iter.Seq[*corev1.Node], network *subnet.Network, revision uint64) *subnet.Snapshot {
	s := &subnet.Snapshot{Revision: revision, Network: network}
	for node := range nodes {
		l, errs := a.decode(node)
		if l != nil {
			s.Leases = append(s.Leases, l)
		}
		for _, err := range errs {
			if !errors.Is(err, ErrNotManaged) {
				s.Problems = append(s.Problems, subnet.Problem{Key: node.Name, Node: node.Name, Err: err})
			}
		}
	}
	slices.SortStableFunc(s.Leases, func(a, b *subnet.Lease) int { return cmp.Compare(a.Key, b.Key) })
	slices.SortStableFunc(s.Problems, func(a, b subnet.Problem) int { return cmp.Compare(a.Key, b.Key) }) // a node's own as they came
	return s
}
