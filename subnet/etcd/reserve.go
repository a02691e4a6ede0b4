package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podweft/podweft/internal/etcdconn"
	"github.com/podweft/podweft/subnet"
)

// Reserve implements [subnet.Reserver]. The reservation is a key without an etcd lease, as in flannel, whose nodes respect it.
func (s *Store) Reserve(ctx context.Context, p subnet.Prefixes, node string) error {
	text, err := formatValue(&subnet.Lease{Node: node})
	if err != nil {
		return err
	}
	for {
		view, err := s.list(ctx)
		if err != nil {
			return err
		}
		if err := view.configured(); err != nil {
			return err
		}
		l := view.ledger(subnet.Claim{Node: node})
		before := len(l.Reservations)
		if err := l.Reserve(p, node); err != nil || len(l.Reservations) == before {
			return err
		}
		name := formatName(p)
		then := []clientv3.Op{
			clientv3.OpPut(s.subnet(name), text),
			clientv3.OpPut(s.reservations(), name),
		}
		if i, known := view.find(name); known {
			then = append(then, s.beside(view.entries[i])...)
		}
		done, err := s.conn.Txn(ctx, []clientv3.Cmp{
			etcdconn.Unmodified(s.config(), view.netMod),
			etcdconn.Quiet(s.subnets(), s.listed(), view.revision),
		}, then, nil)
		if err != nil {
			return fmt.Errorf("reserve %s: %w", p, err)
		}
		if done.Succeeded {
			return nil
		}
	}
}

// beside moves the node's own lease, whose name its reservation gets, to its second form.
func (s *Store) beside(e *entry) []clientv3.Op {
	text, err := formatValue(e.lease)
	if err != nil {
		return nil // it was decoded from JSON
	}
	name := leasedForm + e.name
	ops := []clientv3.Op{clientv3.OpPut(s.subnet(name), text, clientv3.WithLease(e.alive))}
	if e.prefixes.V6.IsValid() {
		ops = append(ops, clientv3.OpPut(s.prefixClaim(e.prefixes.V6), name, clientv3.WithLease(e.alive)))
	}
	return append(ops, clientv3.OpPut(s.nodeClaim(e.lease.Node), name, clientv3.WithLease(e.alive)))
}

// Unreserve implements [subnet.Reserver].
func (s *Store) Unreserve(ctx context.Context, p subnet.Prefixes) error {
	name := formatName(p)
	for {
		found, err := s.conn.Get(ctx, s.subnet(name))
		if err != nil {
			return fmt.Errorf("unreserve %s: %w", p, err)
		}
		if len(found.Kvs) == 0 || !newEntry(name, found.Kvs[0]).reservation() {
			return nil
		}
		key := s.subnet(name)
		done, err := s.conn.Txn(ctx, []clientv3.Cmp{etcdconn.Unmodified(key, found.Kvs[0].ModRevision)}, []clientv3.Op{clientv3.OpDelete(key)}, nil)
		if err != nil {
			return fmt.Errorf("unreserve %s: %w", p, err)
		}
		if done.Succeeded {
			return nil
		}
	}
}
