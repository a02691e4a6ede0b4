package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podweft/podweft/subnet"
)

// Store is a [subnet.Store] and a [subnet.Reserver] in etcd.
type Store struct {
	keys
	cfg    Config
	client *clientv3.Client
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
	client, err := cfg.dial()
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	return &Store{keys: keys{cfg.Prefix}, cfg: cfg, client: client}, nil
}

// Close ends the connection, and with it all watches and calls. The leases stay.
func (s *Store) Close() error { return s.client.Close() }

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
		done, err := s.txn(ctx, []clientv3.Cmp{unmodified(key, e.modified)},
			[]clientv3.Op{clientv3.OpPut(key, text, clientv3.WithLease(e.alive))}, nil)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return nil, lost(l)
		}
		if err != nil {
			return nil, fmt.Errorf("update the lease %s: %w", l, err)
		}
		if done.Succeeded {
			updated := *l
			updated.Key, updated.Revision, updated.Expires = e.name, uint64(done.Header.Revision), s.expiry(ctx, e.alive, l.Expires)
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
	expires, _, err := s.keepAlive(ctx, e.alive)
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
		_, err = s.txn(ctx, []clientv3.Cmp{unmodified(s.subnet(e.name), e.modified)}, s.deletion(e), nil)
	}
	if err != nil {
		return fmt.Errorf("release the lease %s: %w", l, err)
	}
	s.discard(ctx, e.alive)
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
	found, err := s.txn(ctx, nil, []clientv3.Op{clientv3.OpGet(s.subnet(names[0])), clientv3.OpGet(s.subnet(names[1]))}, nil)
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

// keepAlive prolongs an etcd lease by the TTL it has, in seconds.
func (s *Store) keepAlive(ctx context.Context, id clientv3.LeaseID) (expires time.Time, seconds int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	begun := time.Now()
	r, err := s.client.KeepAliveOnce(ctx, id)
	if err != nil {
		return time.Time{}, 0, err
	}
	return begun.Add(time.Duration(r.TTL) * time.Second), r.TTL, nil
}

func (s *Store) grant(ctx context.Context, seconds int64) (clientv3.LeaseID, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	begun := time.Now()
	r, err := s.client.Grant(ctx, seconds)
	if err != nil {
		return 0, time.Time{}, err
	}
	return r.ID, begun.Add(time.Duration(r.TTL) * time.Second), nil
}

// expiry asks when the etcd lease ends. Where etcd does not say, it is as it was before.
func (s *Store) expiry(ctx context.Context, id clientv3.LeaseID, before time.Time) time.Time {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	begun := time.Now()
	r, err := s.client.TimeToLive(ctx, id)
	if err != nil || r.TTL < 0 {
		return before
	}
	return begun.Add(time.Duration(r.TTL) * time.Second)
}

// discard ends an etcd lease that keeps nothing alive any more. What fails here ends by itself in time.
func (s *Store) discard(ctx context.Context, id clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Timeout)
	defer cancel()
	if r, err := s.client.TimeToLive(ctx, id, clientv3.WithAttachedKeys()); err == nil && r.TTL >= 0 && len(r.Keys) == 0 {
		_, _ = s.client.Revoke(ctx, id)
	}
}

func (s *Store) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	return s.client.Get(ctx, key, opts...)
}

func (s *Store) txn(ctx context.Context, when []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	return s.client.Txn(ctx).If(when...).Then(then...).Else(otherwise...).Commit()
}

// unmodified is the condition that the key is as it was at that revision; zero: that there is none.
func unmodified(key string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "=", revision)
}

// quiet is the condition that no key from this one up to end, if there are any, changed after that revision. A key that is gone
// passes.
func quiet(key, end string, since int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "<", since+1).WithRange(end)
}

// seconds are etcd's unit of a TTL, rounded up.
func seconds(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }

// remember keeps the newest state.
func (s *Store) remember(st *state) {
	for {
		last := s.latest.Load()
		if last != nil && last.revision >= st.revision || s.latest.CompareAndSwap(last, st) {
			return
		}
	}
}
