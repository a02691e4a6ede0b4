package etcdconn

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Hints calls changed once when it has begun to listen, and whenever a key that begins with the prefix may have changed since. A
// connection that is lost does not end it. Its error is never nil.
func (c *Conn) Hints(ctx context.Context, prefix string, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	health := c.Health(ctx) // from before the first look, or a connection that is lost before the watch has begun goes unnoticed
	defer health.Stop()
	seen, err := c.Get(ctx, prefix, clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	revision, cluster := seen.Header.Revision, seen.Header.ClusterId
	// A watcher of our own: the client's, which all watches share, keeps its stream if the last one leaves before it has begun.
	watcher := clientv3.NewWatcher(c.Client)
	defer func() { _ = watcher.Close() }()
	events := watcher.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1))
	changed()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-health.Tick():
			health.Look()
		case <-health.Reconnected():
			now, err := c.Get(ctx, prefix, clientv3.WithCountOnly())
			if err != nil {
				health.AskAgain()
			} else if now.Header.ClusterId != cluster || now.Header.Revision < revision {
				return ErrRestored
			}
			changed()
		case r, ok := <-events:
			if err := WatchError(r, ok); err != nil {
				return err
			}
			revision = max(revision, r.Header.Revision)
			changed()
		}
	}
}
