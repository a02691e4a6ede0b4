package etcd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/internal/ledger"
)

// state is what stands in etcd at one revision. Once it is shared it never changes.
type state struct {
	keys
	revision int64
	cluster  uint64          // whose revisions they are
	network  *subnet.Network // the last good one; nil: there was none
	netErr   error           // what is wrong with the present one
	netMod   int64           // revision of the present one; zero: there is none
	entries  []*entry        // sorted by name
	shown    *view           // what a Snapshot shows of them; nil: not known
}

// view is a Snapshot's part that comes of entries. To make it anew looks at all of them, so it is kept and changed with them while each
// entry is shown, or not, whatever the others are.
type view struct {
	leases   []*subnet.Lease // shared with Snapshots
	problems []subnet.Problem
	alone    bool // none depends on another
}

// list reads everything, at one revision.
func (s *Store) list(ctx context.Context) (*state, error) {
	st := &state{keys: s.keys}
	if last := s.latest.Load(); last != nil {
		st.network = last.network // should the present one be bad
	}
	err := s.conn.List(ctx, st.config(), st.listed(), 0, func(page *clientv3.GetResponse) {
		if st.revision == 0 {
			st.revision, st.cluster = page.Header.Revision, page.Header.ClusterId
			st.entries = make([]*entry, 0, page.Count)
		}
		for _, kv := range page.Kvs {
			st.put(kv)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	st.settle()
	s.remember(st)
	return st, nil
}

// clone returns a state that can be changed.
func (st *state) clone() *state {
	c := *st
	c.entries = cloneWithRoom(st.entries)
	if st.shown != nil {
		c.shown = &view{cloneWithRoom(st.shown.leases), st.shown.problems, st.shown.alone}
	}
	return &c
}

// cloneWithRoom is a copy that a few elements more do not make move, which would leave room for a quarter more.
func cloneWithRoom[T any](list []T) []T { return append(make([]T, 0, len(list)+8), list...) }

// apply makes st what it is after the events, and reports whether a Snapshot shows a difference.
func (st *state) apply(events []*clientv3.Event) (changed bool) {
	for _, ev := range events {
		st.revision = max(st.revision, ev.Kv.ModRevision)
		if ev.Type == clientv3.EventTypeDelete {
			changed = st.remove(string(ev.Kv.Key)) || changed
		} else {
			changed = st.put(ev.Kv) || changed
		}
	}
	return changed
}

func (st *state) put(kv *mvccpb.KeyValue) (changed bool) {
	key := string(kv.Key)
	if key == st.config() {
		return st.configure(kv)
	}
	name, ok := strings.CutPrefix(key, st.subnets())
	if !ok {
		return false // another key in the range
	}
	e := newEntry(name, kv)
	i, known := st.find(name)
	if !known {
		st.entries = slices.Insert(st.entries, i, e)
		st.show(name, nil, e)
		return true
	}
	old := st.entries[i]
	st.entries[i] = e
	if e.same(old) {
		e.lease = old.lease // a renewal is no change
		return false
	}
	st.show(name, old, e)
	return true
}

// show changes what is shown where one entry comes, goes or is replaced.
func (st *state) show(name string, old, now *entry) {
	if st.shown == nil {
		return
	}
	if !st.shown.alone || !old.plain() || !now.plain() {
		st.shown = nil
		return
	}
	at, _ := slices.BinarySearchFunc(st.shown.leases, name, func(l *subnet.Lease, name string) int { return strings.Compare(l.Key, name) })
	rest := at
	if old != nil {
		rest++
	}
	if now == nil {
		st.shown.leases = slices.Delete(st.shown.leases, at, rest)
		return
	}
	st.shown.leases = slices.Replace(st.shown.leases, at, rest, now.lease)
}

func (st *state) remove(key string) (changed bool) {
	if key == st.config() {
		st.netMod, st.netErr = 0, nil
		return true
	}
	i, known := st.find(strings.TrimPrefix(key, st.subnets()))
	if known {
		old := st.entries[i]
		st.entries = slices.Delete(st.entries, i, i+1)
		st.show(old.name, old, nil)
	}
	return known
}

func (st *state) configure(kv *mvccpb.KeyValue) (changed bool) {
	network, err := subnet.ParseNetwork(kv.Value)
	st.netMod = kv.ModRevision
	if err != nil {
		st.netErr = err
		return true
	}
	changed = st.netErr != nil || !network.Equal(st.network)
	st.netErr = nil
	if changed {
		st.network = network
	}
	return changed
}

func (st *state) find(name string) (int, bool) {
	return slices.BinarySearchFunc(st.entries, name, func(e *entry, name string) int { return strings.Compare(e.name, name) })
}

// configured returns what is wrong with the configuration, as a Store says it.
func (st *state) configured() error {
	switch {
	case st.netMod == 0:
		return fmt.Errorf("%w: etcd has nothing at %s", subnet.ErrNoNetwork, st.config())
	case st.network == nil:
		return fmt.Errorf("%s: %w", st.config(), st.netErr)
	}
	return nil
}

// settle finds out what is shown, where that is not known, before st is shared.
func (st *state) settle() {
	if st.shown == nil {
		st.shown = st.look()
	}
}

// snapshot is what watchers are shown, of a state that is settled.
func (st *state) snapshot() *subnet.Snapshot {
	s := &subnet.Snapshot{Revision: uint64(st.revision), Network: st.network, Leases: st.shown.leases, Problems: st.shown.problems}
	if st.netErr != nil {
		s.Problems = slices.Concat([]subnet.Problem{{Key: "config", Err: st.netErr}}, s.Problems)
	}
	return s
}

// look finds out what is shown.
func (st *state) look() *view {
	s := &view{leases: make([]*subnet.Lease, 0, len(st.entries)), alone: true}
	for _, e := range st.entries {
		s.problems = append(s.problems, e.problems...)
		s.alone = s.alone && !e.permanent()
		if e.lease != nil && (!e.reservation() || e.permanent() && !st.inUse(e)) {
			s.leases = append(s.leases, e.lease)
		}
	}
	return s
}

// inUse reports whether somebody alive leases what e sets aside. There are few reservations.
func (st *state) inUse(e *entry) bool {
	return slices.ContainsFunc(st.entries, func(o *entry) bool {
		return o.lease != nil && !o.reservation() && o.prefixes.Overlaps(e.prefixes)
	})
}

// own returns the claiming node's lease, or nil. One in its name comes before one with its address.
func (st *state) own(c subnet.Claim) (own *entry) {
	for _, e := range st.entries {
		if e.reservation() || !e.is(c) {
			continue
		}
		if e.named {
			return e
		}
		if own == nil {
			own = e
		}
	}
	return own
}

// ledger is the state as a claim by c sees it, for the rules that all Stores share. What is c's by address is c's by name there.
func (st *state) ledger(c subnet.Claim) *ledger.Ledger {
	l := &ledger.Ledger{Network: st.network, Entries: make([]ledger.Entry, 0, len(st.entries))}
	mine := st.own(c)
	for _, e := range st.entries {
		node := ""
		if e.lease != nil && (e.named || !e.lease.Underlay.IsZero()) {
			node = e.lease.Node
		}
		switch {
		case e.prefixes.IsZero():
		case e.reservation():
			if e.is(c) {
				node = c.Node
			}
			l.Reservations = append(l.Reservations, ledger.Reservation{Prefixes: e.prefixes, Node: node})
		case e == mine:
			l.Entries = append(l.Entries, ledger.Entry{Lease: &subnet.Lease{Key: e.name, Node: c.Node, Prefixes: e.prefixes}})
		default:
			if node == c.Node {
				node = "" // an address of that name, or a second lease: not what c holds
			}
			l.Entries = append(l.Entries, ledger.Entry{Lease: &subnet.Lease{Key: e.name, Node: node, Prefixes: e.prefixes}})
		}
	}
	return l
}
