package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/etcdconn"
	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/roster/internal/table"
)

// Store is a [roster.Store] in etcd.
type Store struct {
	keys
	conn *etcdconn.Conn
}

var _ roster.Store = (*Store)(nil)

// New returns the Store in that etcd. It waits for etcd only where a user name has to be checked; otherwise whoever asks the
// Store first hears that etcd is not there. Errors: podweft.ErrInvalid, etcd's about the user.
func New(cfg Config) (*Store, error) {
	conn, err := etcdconn.Dial(cfg.connection())
	if err != nil {
		return nil, err
	}
	return &Store{keys: cfg.keys(), conn: conn}, nil
}

// Close ends the connection, and with it all watches and calls. What is known stays, and dies in its time.
func (s *Store) Close() error { return s.conn.Close() }

// keys are the names of things. prefix ends in a slash.
type keys struct{ prefix string }

func (k keys) known(name string) string { return k.prefix + "known/" + name }
func (k keys) alive(name string) string { return k.prefix + "alive/" + name }

// Nodes implements [roster.Store]. It is one consistent reading, in pages where there are many. A node whose value makes no sense
// is there with its Problem.
func (s *Store) Nodes(ctx context.Context) (roster.Nodes, error) {
	nodes := roster.Nodes{}
	ranks := map[string]uint64{}
	err := s.conn.List(ctx, s.prefix, clientv3.GetPrefixRangeEnd(s.prefix), 0, func(page *clientv3.GetResponse) {
		for _, kv := range page.Kvs {
			key := string(kv.Key)
			if name, ok := strings.CutPrefix(key, s.alive("")); ok {
				ranks[name] = uint64(kv.CreateRevision)
			}
			if name, ok := strings.CutPrefix(key, s.known("")); ok {
				nodes = append(nodes, decode(name, kv))
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	for i, n := range nodes {
		nodes[i].Rank = ranks[n.Name]
		nodes[i].Alive = nodes[i].Rank != 0
	}
	return nodes, nil
}

// decode reads what a node says of itself.
func decode(name string, kv *mvccpb.KeyValue) roster.Node {
	var n roster.Node
	err := json.Unmarshal(kv.Value, &n)
	if err == nil && n.Name != name {
		err = &podweft.FieldError{Field: "name", Value: n.Name, Problem: "is not the key's", Remedy: "delete the key"}
	}
	if err == nil {
		err = n.Validate()
	}
	if err != nil {
		n = roster.Node{Name: name, Problem: fmt.Errorf("%s: %w", kv.Key, err)}
	}
	n.Revision = uint64(kv.ModRevision)
	return n
}

// Join implements [roster.Store].
func (s *Store) Join(ctx context.Context, n roster.Node, ttl time.Duration) error {
	if err := table.Valid(n, ttl); err != nil {
		return err
	}
	for {
		err := s.join(ctx, n, etcdconn.Seconds(ttl))
		if !errors.Is(err, rpctypes.ErrLeaseNotFound) && !errors.Is(err, errChanged) { // it ended, or changed, between two requests
			return err
		}
	}
}

// errChanged: what is known of a node is not what was read. Read again.
var errChanged = errors.New("node has changed")

func (s *Store) join(ctx context.Context, n roster.Node, seconds int64) error {
	known, alive := s.known(n.Name), s.alive(n.Name)
	now, err := s.conn.Txn(ctx, nil, []clientv3.Op{clientv3.OpGet(known), clientv3.OpGet(alive)}, nil)
	if err != nil {
		return fmt.Errorf("look up node %s: %w", n.Name, err)
	}
	var then []clientv3.Op
	var revision int64
	kvs := now.Responses[0].GetResponseRange().Kvs
	if len(kvs) > 0 {
		revision = kvs[0].ModRevision
	}
	if len(kvs) == 0 || !says(kvs[0], n) {
		text, err := json.Marshal(n)
		if err != nil {
			return err
		}
		then = append(then, clientv3.OpPut(known, string(text)))
	}
	var before clientv3.LeaseID
	if kvs := now.Responses[1].GetResponseRange().Kvs; len(kvs) > 0 {
		before = clientv3.LeaseID(kvs[0].Lease)
	}
	life, err := s.life(ctx, before, seconds)
	if err != nil {
		return fmt.Errorf("keep node %s alive: %w", n.Name, err)
	}
	if life != before {
		then = append(then, clientv3.OpPut(alive, "", clientv3.WithLease(life)))
	}
	if len(then) > 0 {
		// Only as it was read: who forgets the node meanwhile would leave one that is alive and not known.
		var done *clientv3.TxnResponse
		if done, err = s.conn.Txn(ctx, []clientv3.Cmp{etcdconn.Unmodified(known, revision)}, then, nil); err == nil && !done.Succeeded {
			err = errChanged
		}
	}
	if life != before {
		s.conn.Discard(ctx, life) // unless it keeps something alive now
		if before != 0 {
			s.conn.Discard(ctx, before)
		}
	}
	if err != nil {
		return fmt.Errorf("write node %s: %w", n.Name, err)
	}
	return nil
}

// says reports whether the value is what n says of itself.
func says(kv *mvccpb.KeyValue, n roster.Node) bool {
	known := decode(n.Name, kv)
	return known.Problem == nil && known.Says(n)
}

// life returns the etcd lease that is to keep the node alive: the present one if it has the right TTL.
func (s *Store) life(ctx context.Context, present clientv3.LeaseID, seconds int64) (clientv3.LeaseID, error) {
	if present != 0 {
		_, has, err := s.conn.KeepAlive(ctx, present)
		if err == nil && has == seconds {
			return present, nil
		}
		if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return 0, err
		}
	}
	id, _, err := s.conn.Grant(ctx, seconds)
	return id, err
}

// Forget implements [roster.Store].
func (s *Store) Forget(ctx context.Context, name string) error {
	_, err := s.conn.Txn(ctx, nil, []clientv3.Op{clientv3.OpDelete(s.known(name)), clientv3.OpDelete(s.alive(name))}, nil)
	if err != nil {
		return fmt.Errorf("forget node %s: %w", name, err)
	}
	return nil
}

// ForgetDead implements [roster.Store].
func (s *Store) ForgetDead(ctx context.Context, name string) (bool, error) {
	silent := etcdconn.Unmodified(s.alive(name), 0)
	done, err := s.conn.Txn(ctx, []clientv3.Cmp{silent}, []clientv3.Op{clientv3.OpDelete(s.known(name))}, nil)
	if err != nil {
		return false, fmt.Errorf("forget node %s: %w", name, err)
	}
	return done.Succeeded, nil
}

// Watch implements [roster.Store]. A connection that is lost does not end it: the watch goes on where it was when etcd is back, and
// calls changed. What ends it is a compaction of what it missed, a member that has no leader, or an etcd that was restored.
func (s *Store) Watch(ctx context.Context, changed func()) error {
	err := s.conn.Hints(ctx, s.prefix, changed)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch nodes: %w", err)
}
