package etcd

import (
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podweft/podweft/subnet"
)

// entry is a key below subnets, decoded. It never changes.
type entry struct {
	name     string          // below subnets; the Lease's Key
	prefixes subnet.Prefixes // zero when the name makes no sense
	leased   bool            // of the form that is never a reservation
	lease    *subnet.Lease   // nil when the value makes no sense
	named    bool            // the lease says which node's it is
	alive    clientv3.LeaseID
	modified int64
	problems []subnet.Problem
}

func newEntry(name string, kv *mvccpb.KeyValue) *entry {
	e := &entry{name: name, alive: clientv3.LeaseID(kv.Lease), modified: kv.ModRevision}
	var err error
	if e.prefixes, e.leased, err = parseName(name); err != nil {
		e.problems = []subnet.Problem{{Key: name, Err: err}}
		return e
	}
	l := &subnet.Lease{Key: name, Node: name, Prefixes: e.prefixes, Revision: uint64(kv.ModRevision)}
	named, errs := parseValue(kv.Value, l)
	for _, err := range errs {
		e.problems = append(e.problems, subnet.Problem{Key: name, Node: l.Node, Err: err})
	}
	if len(errs) > 0 && l.Underlay.IsZero() {
		return e
	}
	e.lease, e.named = l, named
	return e
}

// reservation reports whether e sets its subnet aside: it stays whether its node lives or not.
func (e *entry) reservation() bool { return e.alive == 0 && !e.leased }

// is reports whether e, by name or by address, is the claiming node's.
func (e *entry) is(c subnet.Claim) bool {
	switch {
	case e.lease == nil:
		return false
	case e.named:
		return e.lease.Node == c.Node
	case c.Underlay.V4.IsValid():
		return e.lease.Underlay.V4 == c.Underlay.V4
	}
	return c.Underlay.V6.IsValid() && !e.lease.Underlay.V4.IsValid() && e.lease.Underlay.V6 == c.Underlay.V6
}

// same reports whether a Snapshot would show no difference between e and o.
func (e *entry) same(o *entry) bool {
	if e.lease == nil || o.lease == nil || len(e.problems) > 0 || len(o.problems) > 0 {
		return false
	}
	a, b := e.lease, o.lease
	return e.reservation() == o.reservation() && e.named == o.named && a.Node == b.Node && a.Underlay == b.Underlay &&
		a.Backend == b.Backend && a.Data.Equal(b.Data)
}

// plain reports whether e is a lease that is shown as it is, or no entry at all.
func (e *entry) plain() bool {
	return e == nil || e.lease != nil && !e.reservation() && len(e.problems) == 0
}

// permanent reports whether e is a lease that some operator made to last for ever, the way flannel reserves: it is somebody's
// who can be reached, as well as a reservation.
func (e *entry) permanent() bool {
	return e.reservation() && e.lease != nil && !e.named && !e.lease.Underlay.IsZero()
}
