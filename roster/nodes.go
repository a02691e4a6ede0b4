package roster

import (
	"cmp"
	"context"
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

// Silent tells of nodes, whenever it is asked, which are not alive or not known. A node that is cut off from the Store is silent
// too and may have pods that run: give what this says a grace as long as such a cut may last, or ask the node itself as well.
func Silent(s Store) func(ctx context.Context, nodes []string) ([]string, error) {
	return unless(s, func(n Node) bool { return n.Alive })
}

// Gone tells of nodes, whenever it is asked, which are not known: somebody forgot them on purpose.
func Gone(s Store) func(ctx context.Context, nodes []string) ([]string, error) {
	return unless(s, func(Node) bool { return true })
}

func unless(s Store, here func(Node) bool) func(context.Context, []string) ([]string, error) {
	return func(ctx context.Context, names []string) (missing []string, err error) {
		nodes, err := s.Nodes(ctx)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if n, ok := nodes.Node(name); !ok || !here(n) {
				missing = append(missing, name)
			}
		}
		return missing, nil
	}
}
