package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podweft/podweft/internal/etcdconn"
	"github.com/podweft/podweft/subnet"
)

// Acquire implements [subnet.Store].
func (s *Store) Acquire(ctx context.Context, c subnet.Claim) (*subnet.Lease, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.TTL == 0 {
		c.TTL = s.cfg.TTL
	}
	a := acquisition{Store: s, claim: c, marks: map[string]int64{}}
	l, err := a.insist(ctx)
	if a.granted != 0 && (err != nil || a.granted != a.used) {
		s.conn.Discard(ctx, a.granted)
	}
	return l, err
}

// acquisition is one Acquire: as many tries as it takes.
type acquisition struct {
	*Store
	claim   subnet.Claim
	granted clientv3.LeaseID // for this claim; zero: not yet
	expires time.Time        // of granted
	used    clientv3.LeaseID // by the lease that was got
	marks   map[string]int64 // the revisions of claims that were in the way
}

// errMoved: what the try rested on has changed.
var errMoved = errors.New("another claim came first")

// insist tries until there is an answer that rests on what etcd says now. The first try rests on what a watch saw last.
func (a *acquisition) insist(ctx context.Context) (*subnet.Lease, error) {
	if view := a.latest.Load(); view != nil {
		if l, err := a.try(ctx, view); err == nil {
			return l, nil
		}
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		view, err := a.list(ctx)
		if err != nil {
			return nil, err
		}
		l, err := a.try(ctx, view)
		if !errors.Is(err, errMoved) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(rand.N(wait)):
		}
	}
}

// try makes one claim that rests on view.
func (a *acquisition) try(ctx context.Context, view *state) (*subnet.Lease, error) {
	if err := view.configured(); err != nil {
		return nil, err
	}
	prefixes, err := view.ledger(a.claim).Choose(a.claim)
	if err != nil {
		return nil, err
	}
	own := view.own(a.claim)
	l := &subnet.Lease{
		Key: view.nameFor(prefixes, own), Node: a.claim.Node, Prefixes: prefixes,
		Underlay: a.claim.Underlay, Backend: a.claim.Backend, Data: a.claim.Data,
	}
	alive, expires, err := a.life(ctx, own)
	if err != nil {
		return nil, err
	}
	l.Expires, a.used = expires, alive
	if own != nil && own.alive == alive && own.same(&entry{lease: l, named: true, alive: alive}) {
		l.Revision = own.lease.Revision // nothing to write, and so nothing for peers to hear
		return l, nil
	}
	return a.commit(ctx, view, own, l)
}

// nameFor is the name that the subnets' lease gets: the one it has, and beside a reservation the second form.
func (st *state) nameFor(p subnet.Prefixes, own *entry) string {
	name := formatName(p)
	if own != nil && (own.name == name || own.name == leasedForm+name) {
		return own.name
	}
	for _, e := range st.entries {
		if e.reservation() && e.prefixes.Overlaps(p) {
			return leasedForm + name
		}
	}
	return name
}

// life returns the etcd lease that is to keep the lease alive: the present one if it has the right TTL.
func (a *acquisition) life(ctx context.Context, own *entry) (clientv3.LeaseID, time.Time, error) {
	ttl := etcdconn.Seconds(a.claim.TTL)
	if own != nil && own.alive != 0 {
		expires, present, err := a.conn.KeepAlive(ctx, own.alive)
		if err == nil && present == ttl {
			return own.alive, expires, nil
		}
		if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return 0, time.Time{}, fmt.Errorf("renew the lease of %s: %w", a.claim.Node, err)
		}
	}
	// One that was granted for an earlier try lasts for this one too, unless there were very many of them.
	if a.granted == 0 || time.Until(a.expires) < a.claim.TTL/2 {
		id, expires, err := a.conn.Grant(ctx, ttl)
		if err != nil {
			return 0, time.Time{}, fmt.Errorf("grant a lease to %s: %w", a.claim.Node, err)
		}
		a.granted, a.expires = id, expires
	}
	return a.granted, a.expires, nil
}

// commit writes the lease if all that it rests on is still so.
func (a *acquisition) commit(ctx context.Context, view *state, own *entry, l *subnet.Lease) (*subnet.Lease, error) {
	text, err := formatValue(l)
	if err != nil {
		return nil, err
	}
	nodeClaim := a.nodeClaim(l.Node)
	claims := []string{nodeClaim}
	when := []clientv3.Cmp{
		// All claims of one configuration have subnets of one length: they overlap only where they are equal. Those of an
		// earlier configuration are in the view.
		etcdconn.Unmodified(a.config(), view.netMod),
		etcdconn.Quiet(a.reservations(), a.reservations()+"\x00", view.revision),
	}
	var then []clientv3.Op
	if own == nil {
		when = append(when, etcdconn.Unmodified(nodeClaim, a.marks[nodeClaim]))
	} else {
		when = append(when, etcdconn.Unmodified(a.subnet(own.name), own.modified))
		if own.name != l.Key {
			then = append(then, a.deletionBut(own, l)...)
		}
	}
	if own == nil || own.name != l.Key {
		for _, form := range [...]string{"", leasedForm} {
			from := a.subnet(form + stem(l.Prefixes))
			when = append(when, etcdconn.Quiet(from, clientv3.GetPrefixRangeEnd(from), view.revision))
		}
	}
	if v6 := l.Prefixes.V6; v6.IsValid() {
		claim := a.prefixClaim(v6)
		claims = append(claims, claim)
		if own == nil || !own.named || own.prefixes.V6 != v6 {
			when = append(when, etcdconn.Unmodified(claim, a.marks[claim]))
		}
	}
	var otherwise []clientv3.Op
	keep := clientv3.WithLease(a.used)
	then = append(then, clientv3.OpPut(a.subnet(l.Key), text, keep))
	for _, claim := range claims {
		then = append(then, clientv3.OpPut(claim, l.Key, keep))
		otherwise = append(otherwise, clientv3.OpGet(claim))
	}
	if l.Prefixes.V6.IsValid() {
		then = append(then, clientv3.OpGet(a.subnets(), clientv3.WithRange(a.listed()), clientv3.WithMinCreateRev(view.revision+1), clientv3.WithKeysOnly()))
	}
	done, err := a.conn.Txn(ctx, when, then, otherwise)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		a.granted = 0
		return nil, errMoved
	}
	if err != nil {
		return nil, fmt.Errorf("claim %s for %s: %w", l.Prefixes, l.Node, err)
	}
	if !done.Succeeded {
		a.noteClaims(claims, done)
		return nil, errMoved
	}
	l.Revision = uint64(done.Header.Revision)
	newer := done.Responses[len(done.Responses)-1].GetResponseRange() // nil where there is only IPv4
	if slices.ContainsFunc(newer.GetKvs(), func(kv *mvccpb.KeyValue) bool { return a.cameFirst(kv, l) }) {
		return nil, a.giveWay(ctx, l)
	}
	if own != nil && own.alive != a.used && own.alive != 0 {
		a.conn.Discard(ctx, own.alive)
	}
	return l, nil
}

// deletionBut deletes the lease that l follows, but not what l is about to write: a key may be written once in a transaction.
func (a *acquisition) deletionBut(own *entry, l *subnet.Lease) (ops []clientv3.Op) {
	for _, op := range a.deletion(own) {
		key := string(op.KeyBytes())
		if key != a.subnet(l.Key) && key != a.nodeClaim(l.Node) && (!l.Prefixes.V6.IsValid() || key != a.prefixClaim(l.Prefixes.V6)) {
			ops = append(ops, op)
		}
	}
	return ops
}

// noteClaims remembers the claims in the way. A lease and its claims come together; if the next view does not have the lease,
// somebody removed it by hand, and a claim that is still the same is free to be taken.
func (a *acquisition) noteClaims(claims []string, done *clientv3.TxnResponse) {
	for i, r := range done.Responses {
		a.marks[claims[i]] = 0
		for _, kv := range r.GetResponseRange().Kvs {
			a.marks[claims[i]] = kv.ModRevision
		}
	}
}

// cameFirst reports whether the key, made since the view, has a part of l and was there before l: a flannel node's, for it does
// not know claims of IPv6 subnets.
func (a *acquisition) cameFirst(kv *mvccpb.KeyValue, l *subnet.Lease) bool {
	name := strings.TrimPrefix(string(kv.Key), a.subnets())
	p, _, err := parseName(name)
	return err == nil && name != l.Key && kv.CreateRevision < int64(l.Revision) && p.Overlaps(l.Prefixes)
}

// giveWay takes l back.
func (a *acquisition) giveWay(ctx context.Context, l *subnet.Lease) error {
	e := &entry{name: l.Key, prefixes: l.Prefixes, lease: l, named: true}
	if _, err := a.conn.Txn(ctx, []clientv3.Cmp{etcdconn.Unmodified(a.subnet(l.Key), int64(l.Revision))}, a.deletion(e), nil); err != nil {
		return fmt.Errorf("give %s back, which another node took first: %w", l.Prefixes, err)
	}
	return errMoved
}
