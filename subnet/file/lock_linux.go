package file

import (
	"context"
	"fmt"
	"os"

	"github.com/podweft/podweft/internal/flock"
)

// lock takes the directory's lock, which excludes every other Store of this and of other processes. The kernel gives it back
// when a process dies.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// Read-only, so that closing it is no IN_CLOSE_WRITE, which would wake every watcher.
	f, err := os.OpenFile(s.path(lockFile), os.O_RDONLY|os.O_CREATE, 0o644)
	if err == nil {
		if err = flock.Lock(ctx, f); err != nil {
			f.Close()
		}
	}
	if err != nil {
		<-s.busy
		return nil, fmt.Errorf("lock of the lease directory: %w", err)
	}
	return func() {
		f.Close() // gives the lock back: flock(2)
		<-s.busy
	}, nil
}
