package roster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

// Nodes are all nodes of a cluster, in the order of their names.
type Nodes []Node

// Node finds one by its name.
func (ns Nodes) Node(name string) (Node, bool) {
	at, ok := slices.BinarySearchFunc(ns, name, func(n Node, name string) int { return cmp.Compare(n.Name, name) })
	if !ok {
		return Node{}, false
	}
	return ns[at], true
}

// Leader is the node that has lived longest without a break. It says no when none lives.
func (ns Nodes) Leader() (leader Node, ok bool) {
	for _, n := range ns {
		if n.Alive && (!ok || n.Rank < leader.Rank) {
			leader, ok = n, true
		}
	}
	return leader, ok
}

// Equal reports whether ns and os say the same.
func (ns Nodes) Equal(os Nodes) bool {
	return slices.EqualFunc(ns, os, func(n, o Node) bool {
		return n.Revision == o.Revision && n.Rank == o.Rank && n.Alive == o.Alive && n.Says(o) && (n.Problem == nil) == (o.Problem == nil)
	})
}

// Leads tells of a node, whenever it is asked, whether it is the leader. It is the Lead of a block.Collector.
func Leads(s Store, name string) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		nodes, err := s.Nodes(ctx)
		if err != nil {
			return false, err
		}
		leader, ok := nodes.Leader()
		return ok && leader.Name == name, nil
	}
}

// ErrCut: more than half of the nodes are silent at once, which is a cut between them and the Store rather than their death.
var ErrCut = errors.New("most nodes are silent, and more likely cut off than dead")

// Silent tells of nodes, whenever it is asked, which are not alive or not known. When more than half of those that are known are not
// alive it says [ErrCut] instead: who is dead then, an operator says with [Store].Forget. So that those who died in the course of time
// do not come to that, dead nodes have to be forgotten once they have nothing left: a block.Collector does so.
//
// A lone node that is cut off from the Store is silent too and may have pods that run: give what this says a grace as long as such a
// cut may last, or ask the node itself as well.
func Silent(s Store) func(ctx context.Context, nodes []string) ([]string, error) {
	return func(ctx context.Context, names []string) ([]string, error) {
		nodes, err := s.Nodes(ctx)
		if err != nil {
			return nil, err
		}
		alive := 0
		for _, n := range nodes {
			if n.Alive {
				alive++
			}
		}
		if 2*alive < len(nodes) {
			return nil, fmt.Errorf("%w: %d of %d; Store.Forget those that are gone for good", ErrCut, len(nodes)-alive, len(nodes))
		}
		return nodes.without(names, func(n Node) bool { return n.Alive }), nil
	}
}

// Gone tells of nodes, whenever it is asked, which are not known: somebody forgot them on purpose.
func Gone(s Store) func(ctx context.Context, nodes []string) ([]string, error) {
	return func(ctx context.Context, names []string) ([]string, error) {
		nodes, err := s.Nodes(ctx)
		if err != nil {
			return nil, err
		}
		return nodes.without(names, func(Node) bool { return true }), nil
	}
}

// Known tells, whenever it is asked, which nodes are known: the Known of a block.Collector, whose Forget is [Store].ForgetDead.
func Known(s Store) func(ctx context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		nodes, err := s.Nodes(ctx)
		names := make([]string, len(nodes))
		for i, n := range nodes {
			names[i] = n.Name
		}
		return names, err
	}
}

// without are those of names that no node has which is here.
func (ns Nodes) without(names []string, here func(Node) bool) (missing []string) {
	for _, name := range names {
		if n, ok := ns.Node(name); !ok || !here(n) {
			missing = append(missing, name)
		}
	}
	return missing
}
