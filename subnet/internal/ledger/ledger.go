// Package ledger has the rules of claims that the Stores of one machine share: subnet/memory keeps a Ledger behind a mutex,
// subnet/file keeps one in a file behind a lock. A Ledger is plain data; its methods are the changes a Store can make to it.
//
// It knows nothing of where it is kept, who else is changing it or who wants to hear of it.
package ledger

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// Ledger is who holds what. Its Leases point to values that never change, so that a Clone is cheap and a Snapshot may share
// them.
type Ledger struct {
	Revision     uint64          `json:"revision"` // grows with each change that a Snapshot shows
	Network      *subnet.Network `json:"network,omitempty"`
	Entries      []Entry         `json:"leases"` // sorted by the lease's Key
	Reservations []Reservation   `json:"reservations,omitempty"`
}

// Entry is a lease and how long it lives.
type Entry struct {
	Lease    *subnet.Lease `json:"lease"`              // Expires is not set: a renewal is no change
	TTL      time.Duration `json:"ttl,omitempty"`      // zero: for ever
	Deadline time.Duration `json:"deadline,omitempty"` // on the Store's clock
}

// Reservation is a part of the Network set aside for a node, or for nobody when Node is empty.
type Reservation struct {
	Prefixes subnet.Prefixes `json:"prefixes"`
	Node     string          `json:"node,omitempty"`
}

// Now is the present moment, on the clock that Deadlines are kept on and on the one that people read.
type Now struct {
	Ticks time.Duration
	Time  time.Time
}

// Clone returns a Ledger that can be changed while others still read l.
func (l *Ledger) Clone() *Ledger {
	c := *l
	c.Entries = slices.Clone(l.Entries)
	c.Reservations = slices.Clone(l.Reservations)
	return &c
}

// Snapshot is what the Store's watchers are shown.
func (l *Ledger) Snapshot() *subnet.Snapshot {
	s := &subnet.Snapshot{Revision: l.Revision, Network: l.Network, Leases: make([]*subnet.Lease, len(l.Entries))}
	for i, e := range l.Entries {
		s.Leases[i] = e.Lease
	}
	return s
}

// SetNetwork changes the Network.
func (l *Ledger) SetNetwork(n *subnet.Network) {
	if !n.Equal(l.Network) {
		l.Network = n
		l.Revision++
	}
}

// Expire removes the leases whose time is over.
func (l *Ledger) Expire(now Now) {
	before := len(l.Entries)
	l.Entries = slices.DeleteFunc(l.Entries, func(e Entry) bool { return e.TTL > 0 && e.Deadline <= now.Ticks })
	if len(l.Entries) != before {
		l.Revision++
	}
}

// NextDeadline returns when Expire will next have something to remove.
func (l *Ledger) NextDeadline() (at time.Duration, ok bool) {
	for _, e := range l.Entries {
		if e.TTL > 0 && (!ok || e.Deadline < at) {
			at, ok = e.Deadline, true
		}
	}
	return at, ok
}

// Acquire is a Store's Acquire.
func (l *Ledger) Acquire(c subnet.Claim, now Now) (*subnet.Lease, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if l.Network == nil {
		return nil, subnet.ErrNoNetwork
	}
	prefixes, err := l.Choose(c)
	if err != nil {
		return nil, err
	}
	lease := &subnet.Lease{Key: Key(prefixes), Node: c.Node, Prefixes: prefixes, Underlay: c.Underlay, Backend: c.Backend, Data: c.Data}
	l.Entries = slices.DeleteFunc(l.Entries, func(e Entry) bool { return e.Lease.Node == c.Node && e.Lease.Key != lease.Key })
	i, _ := l.find(lease.Key)
	return l.put(i, lease, c.TTL, now), nil
}

// Choose returns the subnets that the claim gets.
func (l *Ledger) Choose(c subnet.Claim) (subnet.Prefixes, error) {
	own := l.held(c.Node)
	if !c.Exact {
		return l.Network.Pick([]subnet.Prefixes{own, l.reservedFor(c.Node), c.Prefer}, l.takenFrom(c.Node))
	}
	taken := func(why string) error { return fmt.Errorf("%w: %s %s", subnet.ErrTaken, c.Prefer, why) }
	if !l.Network.Fits(c.Prefer) {
		return subnet.Prefixes{}, taken("does not fit the network")
	}
	if !own.IsZero() && own != c.Prefer {
		return subnet.Prefixes{}, taken("is not what the node holds: " + own.String())
	}
	for t := range l.takenFrom(c.Node) {
		if t.Overlaps(c.Prefer) {
			return subnet.Prefixes{}, taken("overlaps " + t.String())
		}
	}
	return c.Prefer, nil
}

// takenFrom yields what the node cannot have: the leases of others, and what is reserved but not for it.
func (l *Ledger) takenFrom(node string) iter.Seq[subnet.Prefixes] {
	return func(yield func(subnet.Prefixes) bool) {
		for _, e := range l.Entries {
			if e.Lease.Node != node && !yield(e.Lease.Prefixes) {
				return
			}
		}
		for _, r := range l.Reservations {
			if r.Node != node && !yield(r.Prefixes) {
				return
			}
		}
	}
}

// held returns the node's live lease's subnets, if it has one.
func (l *Ledger) held(node string) subnet.Prefixes {
	for _, e := range l.Entries {
		if e.Lease.Node == node {
			return e.Lease.Prefixes
		}
	}
	return subnet.Prefixes{}
}

// reservedFor returns the first subnets of each family that are reserved for the node: they may be two reservations.
func (l *Ledger) reservedFor(node string) (p subnet.Prefixes) {
	for _, r := range l.Reservations {
		if r.Node != node {
			continue
		}
		if !p.V4.IsValid() {
			p.V4 = r.Prefixes.V4
		}
		if !p.V6.IsValid() {
			p.V6 = r.Prefixes.V6
		}
	}
	return p
}

// Update is a Store's Update.
func (l *Ledger) Update(lease *subnet.Lease, now Now) (*subnet.Lease, error) {
	if err := lease.Validate(); err != nil {
		return nil, err
	}
	i, err := l.own(lease)
	if err != nil {
		return nil, err
	}
	old := l.Entries[i]
	changed := *old.Lease
	changed.Underlay, changed.Backend, changed.Data = lease.Underlay, lease.Backend, lease.Data
	l.put(i, &changed, old.TTL, now)
	l.Entries[i].Deadline = old.Deadline
	return l.Entries[i].granted(now), nil
}

// Renew is a Store's Renew.
func (l *Ledger) Renew(lease *subnet.Lease, now Now) (*subnet.Lease, error) {
	i, err := l.own(lease)
	if err != nil {
		return nil, err
	}
	return l.put(i, l.Entries[i].Lease, l.Entries[i].TTL, now), nil
}

// Release is a Store's Release.
func (l *Ledger) Release(lease *subnet.Lease) {
	if i, err := l.own(lease); err == nil {
		l.Entries = slices.Delete(l.Entries, i, i+1)
		l.Revision++
	}
}

// Reserve is a Reserver's Reserve.
func (l *Ledger) Reserve(p subnet.Prefixes, node string) error {
	if l.Network == nil {
		return subnet.ErrNoNetwork
	}
	if err := l.reservable(p, node); err != nil {
		return err
	}
	wanted := Reservation{p, node}
	for _, r := range l.Reservations {
		if r == wanted {
			return nil
		}
		if r.Prefixes.Overlaps(p) {
			return fmt.Errorf("%w: %s is reserved", subnet.ErrTaken, r.Prefixes)
		}
	}
	for _, e := range l.Entries {
		if e.Lease.Prefixes.Overlaps(p) && (node == "" || e.Lease.Node != node) {
			return fmt.Errorf("%w: %s", subnet.ErrTaken, e.Lease)
		}
	}
	l.Reservations = append(l.Reservations, wanted)
	return nil
}

// reservable checks that p can be set aside: all of it in the Network, and a subnet of it if a node is to lease it.
func (l *Ledger) reservable(p subnet.Prefixes, node string) error {
	var errs []error
	for x := range p.All() {
		r := l.Network.V4
		if x.Addr().Is6() {
			r = l.Network.V6
		}
		switch {
		case !r.Network.Overlaps(x) || x.Bits() < r.Network.Bits() || x != x.Masked():
			errs = append(errs, &podweft.FieldError{Field: "Prefixes", Value: x, Problem: "is not a part of the network", Remedy: "take one of " + r.Network.String()})
		case node != "" && !r.Contains(x):
			errs = append(errs, &podweft.FieldError{Field: "Prefixes", Value: x, Problem: "is not a subnet that a node can lease", Remedy: fmt.Sprintf("take a /%d", r.SubnetLen)})
		}
	}
	if p.IsZero() {
		errs = append(errs, &podweft.FieldError{Field: "Prefixes", Problem: "are missing", Remedy: "say what to reserve"})
	}
	return errors.Join(errs...)
}

// Unreserve is a Reserver's Unreserve.
func (l *Ledger) Unreserve(p subnet.Prefixes) {
	l.Reservations = slices.DeleteFunc(l.Reservations, func(r Reservation) bool { return r.Prefixes == p })
}

// own returns where the lease is, if it still is its node's.
func (l *Ledger) own(lease *subnet.Lease) (int, error) {
	i, ok := l.find(lease.Key)
	if !ok || l.Entries[i].Lease.Node != lease.Node || l.Entries[i].Lease.Prefixes != lease.Prefixes {
		return 0, fmt.Errorf("%w: %s", subnet.ErrLeaseLost, lease)
	}
	return i, nil
}

func (l *Ledger) find(key string) (int, bool) {
	return slices.BinarySearchFunc(l.Entries, key, func(e Entry, key string) int { return strings.Compare(e.Lease.Key, key) })
}

// put stores the lease, whose place is i, lets it live from now on and returns it as its node sees it.
func (l *Ledger) put(i int, lease *subnet.Lease, ttl time.Duration, now Now) *subnet.Lease {
	known := i < len(l.Entries) && l.Entries[i].Lease.Key == lease.Key
	switch {
	case known && same(l.Entries[i].Lease, lease):
		lease = l.Entries[i].Lease
	default:
		l.Revision++
		lease.Revision = l.Revision
	}
	e := Entry{Lease: lease, TTL: ttl}
	if ttl > 0 {
		e.Deadline = now.Ticks + ttl
	}
	if known {
		l.Entries[i] = e
	} else {
		l.Entries = slices.Insert(l.Entries, i, e)
	}
	return e.granted(now)
}

// same reports whether watchers would see no difference.
func same(a, b *subnet.Lease) bool {
	return a.Node == b.Node && a.Prefixes == b.Prefixes && a.Underlay == b.Underlay && a.Backend == b.Backend && a.Data.Equal(b.Data)
}

// granted is the lease as its own node sees it.
func (e Entry) granted(now Now) *subnet.Lease {
	own := *e.Lease
	if e.TTL > 0 {
		own.Expires = now.Time.Add(e.Deadline - now.Ticks)
	}
	return &own
}

// Key names a lease by its subnets, as flannel does: "10.244.3.0-24", "10.244.3.0-24&fd00:244:0:3::-64".
func Key(p subnet.Prefixes) string {
	var parts []string
	for x := range p.All() {
		parts = append(parts, strings.ReplaceAll(x.String(), "/", "-"))
	}
	return strings.Join(parts, "&")
}
