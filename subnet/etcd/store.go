package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podweft/podweft/internal/etcdconn"
	"github.com/podweft/podweft/subnet"
)

// Store is a [subnet.Store] and a [subnet.Reserver] in etcd.
type Store struct {
	keys
	cfg    Config
	conn   *etcdconn.Conn
	latest atomic.Pointer[state] // the newest that was read: what a claim tries first
}

var (
	_ subnet.Store    = (*Store)(nil)
	_ subnet.Reserver = (*Store)(nil)
)

// New returns the Store in that etcd. It waits for etcd only where a user name has to be checked; otherwise whoever asks the
// Store first hears that etcd is not there. Errors: podweft.ErrInvalid, etcd's about the user.
func New(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.filled()
	conn, err := etcdconn.Dial(cfg.connection())
	if err != nil {
		return nil, err
	}
	return &Store{keys: keys{cfg.Prefix}, cfg: cfg, conn: conn}, nil
}

// Close ends the connection, and with it all watches and calls. The leases stay.
func (s *Store) Close() error { return s.conn.Close() }

// Update implements [subnet.Store].
func (s *Store) Update(ctx context.Context, l *subnet.Lease) (*subnet.Lease, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	text, err := formatValue(l)
	if err != nil {
		return nil, err
	}
	for {
		e, err := s.held(ctx, l)
		if err != nil {
			return nil, err
		}
		key := s.subnet(e.name)
		done, err := s.conn.Txn(ctx, []clientv3.Cmp{etcdconn.Unmodified(key, e.modified)},
			[]clientv3.Op{clientv3.OpPut(key, text, clientv3.WithLease(e.alive))}, nil)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return nil, lost(l)
		}
		if err != nil {
			return nil, fmt.Errorf("update the lease %s: %w", l, err)
		}
		if done.Succeeded {
			updated := *l
			updated.Key, updated.Revision, updated.Expires = e.name, uint64(done.Header.Revision), s.conn.Expiry(ctx, e.alive, l.Expires)
			return &updated, nil
		}
	}
}

// Renew implements [subnet.Store]. It writes no key: peers do not hear of it.
func (s *Store) Renew(ctx context.Context, l *subnet.Lease) (*subnet.Lease, error) {
	e, err := s.held(ctx, l)
	if err != nil {
		return nil, err
	}
	expires, _, err := s.conn.KeepAlive(ctx, e.alive)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil, lost(l)
	}
	if err != nil {
		return nil, fmt.Errorf("renew the lease %s: %w", l, err)
	}
	renewed := *e.lease
	renewed.Expires = expires
	return &renewed, nil
}

// Release implements [subnet.Store].
func (s *Store) Release(ctx context.Context, l *subnet.Lease) error {
	e, err := s.held(ctx, l)
	if errors.Is(err, subnet.ErrLeaseLost) {
		return nil
	}
	if err == nil {
		_, err = s.conn.Txn(ctx, []clientv3.Cmp{etcdconn.Unmodified(s.subnet(e.name), e.modified)}, s.deletion(e), nil)
	}
	if err != nil {
		return fmt.Errorf("release the lease %s: %w", l, err)
	}
	s.conn.Discard(ctx, e.alive)
	return nil
}

// deletion deletes the lease and its claims.
func (s *Store) deletion(e *entry) []clientv3.Op {
	ops := []clientv3.Op{clientv3.OpDelete(s.subnet(e.name))}
	if e.named {
		ops = append(ops, clientv3.OpDelete(s.nodeClaim(e.lease.Node)))
	}
	if e.prefixes.V6.IsValid() {
		ops = append(ops, clientv3.OpDelete(s.prefixClaim(e.prefixes.V6)))
	}
	return ops
}

// held returns what stands in etcd for l if it still is its node's. A lease may have changed its name: a reservation has it now.
func (s *Store) held(ctx context.Context, l *subnet.Lease) (*entry, error) {
	name := formatName(l.Prefixes)
	names := [...]string{name, leasedForm + name}
	found, err := s.conn.Txn(ctx, nil, []clientv3.Op{clientv3.OpGet(s.subnet(names[0])), clientv3.OpGet(s.subnet(names[1]))}, nil)
	if err != nil {
		return nil, fmt.Errorf("look up the lease %s: %w", l, err)
	}
	for i, r := range found.Responses {
		for _, kv := range r.GetResponseRange().Kvs {
			e := newEntry(names[i], kv)
			if e.lease != nil && e.named && e.alive != 0 && e.lease.Node == l.Node && e.prefixes == l.Prefixes {
				return e, nil
			}
		}
	}
	return nil, lost(l)
}

func lost(l *subnet.Lease) error { return fmt.Errorf("%w: %s", subnet.ErrLeaseLost, l) }

// remember keeps the newest state.
func (s *Store) remember(st *state) {
	for {
		last := s.latest.Load()
		if last != nil && last.revision >= st.revision || s.latest.CompareAndSwap(last, st) {
			return
		}
	}
}
