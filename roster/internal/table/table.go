// Package table is what Stores of nodes that have all of them at hand do alike: the rules of joining and of dying, without the
// place where they are kept.
package table

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/roster"
)

// Table is the nodes of a Store. It is a value: its methods make a new one and leave the old as it is.
type Table struct {
	Revision uint64 `json:"revision"` // counts what Nodes shows
	Rows     []Row  `json:"nodes"`    // in the order of names
}

// Row is one node. Times are since some moment that all Tables of a Store share.
type Row struct {
	roster.Node
	Written  uint64        `json:"written"`            // the Node's Revision
	Since    uint64        `json:"since,omitempty"`    // its Rank
	TTL      time.Duration `json:"ttl,omitempty"`      // as it joined last
	Deadline time.Duration `json:"deadline,omitempty"` // of a node that is alive
}

// Nodes returns copies of all.
func (t Table) Nodes() roster.Nodes {
	nodes := make(roster.Nodes, 0, len(t.Rows))
	for _, r := range t.Rows {
		n := r.Node.Clone()
		n.Revision, n.Rank, n.Alive = r.Written, r.Since, r.Since != 0
		nodes = append(nodes, n)
	}
	return nodes
}

func (t Table) find(name string) (int, bool) {
	return slices.BinarySearchFunc(t.Rows, name, func(r Row, name string) int { return cmp.Compare(r.Name, name) })
}

// Valid is what a Store says to a Join that makes no sense.
func Valid(n roster.Node, ttl time.Duration) error {
	err := n.Validate()
	if ttl <= 0 {
		err = errors.Join(err, &podweft.FieldError{Field: "ttl", Value: ttl, Problem: "is not a time to live"})
	}
	return err
}

// Join is the table after a roster.Store's Join, if that is Valid.
func (t Table) Join(n roster.Node, ttl, now time.Duration) Table {
	t.Rows = slices.Clone(t.Rows)
	at, found := t.find(n.Name)
	if !found {
		t.Rows = slices.Insert(t.Rows, at, Row{Node: roster.Node{Name: n.Name}})
	}
	r := &t.Rows[at]
	if !found || !r.Says(n) {
		t.Revision++
		r.Node, r.Written = n.Clone(), t.Revision
		r.Alive, r.Rank, r.Revision, r.Problem = false, 0, 0, nil
	}
	if r.Since == 0 {
		t.Revision++
		r.Since = t.Revision
	}
	r.TTL, r.Deadline = ttl, now+ttl
	return t
}

// Forget is the table after a roster.Store's Forget.
func (t Table) Forget(name string) Table {
	if at, found := t.find(name); found {
		t.Revision++
		t.Rows = slices.Delete(slices.Clone(t.Rows), at, at+1)
	}
	return t
}

// ForgetDead is the table after a roster.Store's ForgetDead, and what that reports.
func (t Table) ForgetDead(name string) (Table, bool) {
	if at, found := t.find(name); found && t.Rows[at].Since != 0 {
		return t, false
	}
	return t.Forget(name), true
}

// Expire is the table after those have died whose time is over.
func (t Table) Expire(now time.Duration) Table {
	dead := func(r Row) bool { return r.Since != 0 && r.Deadline <= now }
	if !slices.ContainsFunc(t.Rows, dead) {
		return t
	}
	t.Revision++
	t.Rows = slices.Clone(t.Rows)
	for i, r := range t.Rows {
		if dead(r) {
			t.Rows[i].Since, t.Rows[i].Deadline = 0, 0
		}
	}
	return t
}

// Next is when Expire will next have something to do. It says no when never.
func (t Table) Next() (at time.Duration, ok bool) {
	for _, r := range t.Rows {
		if r.Since != 0 && (!ok || r.Deadline < at) {
			at, ok = r.Deadline, true
		}
	}
	return at, ok
}

// Check finds what no Store would have written.
func (t Table) Check() error {
	for i, r := range t.Rows {
		if err := r.Validate(); err != nil {
			return fmt.Errorf("node %d: %w", i+1, err)
		}
		switch {
		case i > 0 && t.Rows[i-1].Name >= r.Name:
			return fmt.Errorf("node %s is not in order", r.Name)
		case r.Written == 0 || max(r.Written, r.Since) > t.Revision:
			return fmt.Errorf("node %s is of the future", r.Name)
		}
	}
	return nil
}
