package etcdconn

import (
	"context"
	"log/slog"
	"math"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Conn is a connection to etcd. Its own methods end after the timeout of one request, in which the Client's would wait for as
// long as etcd is away.
type Conn struct {
	Client  *clientv3.Client
	timeout time.Duration
	log     *slog.Logger
}

// Close ends the connection, and with it all watches and calls.
func (c *Conn) Close() error { return c.Client.Close() }

// Get reads a key or a range.
func (c *Conn) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.Client.Get(ctx, key, opts...)
}

// Txn does then if all of when hold, and otherwise the rest.
func (c *Conn) Txn(ctx context.Context, when []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.Client.Txn(ctx).If(when...).Then(then...).Else(otherwise...).Commit()
}

// pageSize bounds how many keys one answer has: a few hundred bytes each, and etcd serves nobody else meanwhile.
const pageSize = 5000

// List reads the keys from one up to end as they were at a revision; zero: as they are now. It calls each with every page. All
// pages are of the first one's revision.
func (c *Conn) List(ctx context.Context, from, end string, revision int64, each func(*clientv3.GetResponse)) error {
	for more := true; more; {
		page, err := c.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(revision), clientv3.WithLimit(pageSize))
		if err != nil {
			return err
		}
		if revision == 0 {
			revision = page.Header.Revision
		}
		each(page)
		if n := len(page.Kvs); n > 0 {
			from = string(page.Kvs[n-1].Key) + "\x00"
		}
		more = page.More
	}
	return nil
}

// Grant makes an etcd lease and says when it ends.
func (c *Conn) Grant(ctx context.Context, seconds int64) (clientv3.LeaseID, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	begun := time.Now()
	r, err := c.Client.Grant(ctx, seconds)
	if err != nil {
		return 0, time.Time{}, err
	}
	return r.ID, begun.Add(time.Duration(r.TTL) * time.Second), nil
}

// KeepAlive prolongs an etcd lease by the TTL it has, in seconds.
func (c *Conn) KeepAlive(ctx context.Context, id clientv3.LeaseID) (expires time.Time, seconds int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	begun := time.Now()
	r, err := c.Client.KeepAliveOnce(ctx, id)
	if err != nil {
		return time.Time{}, 0, err
	}
	return begun.Add(time.Duration(r.TTL) * time.Second), r.TTL, nil
}

// Expiry asks when the etcd lease ends. Where etcd does not say, it is as it was before.
func (c *Conn) Expiry(ctx context.Context, id clientv3.LeaseID, before time.Time) time.Time {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	begun := time.Now()
	r, err := c.Client.TimeToLive(ctx, id)
	if err != nil || r.TTL < 0 {
		return before
	}
	return begun.Add(time.Duration(r.TTL) * time.Second)
}

// Discard ends an etcd lease that keeps nothing alive any more. What fails here ends by itself in time.
func (c *Conn) Discard(ctx context.Context, id clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
	defer cancel()
	if r, err := c.Client.TimeToLive(ctx, id, clientv3.WithAttachedKeys()); err == nil && r.TTL >= 0 && len(r.Keys) == 0 {
		_, _ = c.Client.Revoke(ctx, id)
	}
}

// Unmodified is the condition that the key is as it was at that revision; zero: that there is none.
func Unmodified(key string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "=", revision)
}

// Quiet is the condition that no key from this one up to end, if there are any, changed after that revision. A key that is gone
// passes.
func Quiet(key, end string, since int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "<", since+1).WithRange(end)
}

// Seconds are etcd's unit of a TTL, rounded up.
func Seconds(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }
