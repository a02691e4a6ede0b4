package etcd

import (
	"context"
	"fmt"
)

// Watch implements [block.Store]. A connection that is lost does not end it: the watch goes on where it was when etcd is back, and
// calls changed. What ends it is a compaction of what it missed, a member that has no leader, or an etcd that was restored.
func (s *Store) Watch(ctx context.Context, changed func()) error {
	err := s.conn.Hints(ctx, s.prefix, changed)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch blocks: %w", err)
}
