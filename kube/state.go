package kube

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/podweft/podweft/subnet"
)

// entry is what is kept of a Node: a hundredth of it.
type entry struct {
	node  string
	lease *subnet.Lease // nil: none
	errs  []error       // what makes no sense about it
}

// same reports whether both say the same, whatever the revision: a kubelet writes to its Node all the time.
func (e *entry) same(o *entry) bool {
	if (e.lease == nil) != (o.lease == nil) || fmt.Sprint(e.errs) != fmt.Sprint(o.errs) {
		return false
	}
	a, b := e.lease, o.lease
	return a == nil ||
		a.Prefixes == b.Prefixes && a.Underlay == b.Underlay && a.Backend == b.Backend && a.Data.Equal(b.Data)
}

// state is what is known of all nodes.
type state struct {
	*Store
	version  string // the API server's name for it; a watch goes on from there
	revision uint64
	entries  []*entry // by name; a Node that is not ours has none
}

// reached notes the revision that the state is of.
func (st *state) reached(version string) error {
	revision, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return fmt.Errorf("the API server's resourceVersion %s is no number", shown(version))
	}
	st.version, st.revision = version, max(revision, st.revision)
	return nil
}

// put notes what a Node says and reports whether that is news. What says the same as before stays the same lease.
func (st *state) put(node *corev1.Node) bool {
	lease, errs := st.decode(node)
	if slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, ErrNotManaged) }) {
		return st.drop(node.Name)
	}
	next := &entry{node: node.Name, lease: lease, errs: errs}
	at, found := st.find(node.Name)
	switch {
	case !found:
		st.entries = slices.Insert(st.entries, at, next)
	case st.entries[at].same(next):
		return false
	default:
		st.entries[at] = next
	}
	return true
}

// drop forgets a Node and reports whether it was known.
func (st *state) drop(node string) bool {
	at, found := st.find(node)
	if found {
		st.entries = slices.Delete(st.entries, at, at+1)
	}
	return found
}

func (st *state) find(node string) (int, bool) {
	return slices.BinarySearchFunc(st.entries, node, func(e *entry, node string) int { return cmp.Compare(e.node, node) })
}

// apply notes an event and reports whether it is news.
func (st *state) apply(e watch.Event) (bool, error) {
	if e.Type == watch.Error {
		return false, apierrors.FromObject(e.Object)
	}
	node, ok := e.Object.(*corev1.Node)
	if !ok {
		return false, fmt.Errorf("the API server sent a %T where a Node was due", e.Object)
	}
	if err := st.reached(node.ResourceVersion); err != nil {
		return false, err
	}
	switch e.Type {
	case watch.Added, watch.Modified:
		return st.put(node), nil
	case watch.Deleted:
		return st.drop(node.Name), nil
	}
	return false, nil // a bookmark: nothing has happened up to here
}

func (st *state) snapshot() *subnet.Snapshot {
	s := &subnet.Snapshot{Revision: st.revision, Network: st.cfg.Network, Leases: make([]*subnet.Lease, 0, len(st.entries))}
	for _, e := range st.entries {
		if e.lease != nil {
			s.Leases = append(s.Leases, e.lease)
		}
		for _, err := range e.errs {
			s.Problems = append(s.Problems, subnet.Problem{Key: e.node, Node: e.node, Err: err})
		}
	}
	return s
}
