package file

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
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
		if err = flock(ctx, f); err != nil {
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

// flock waits for the lock by trying: a call that blocks in the kernel could not be told that ctx has ended.
func flock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond + rand.N(4*time.Millisecond)):
		}
	}
}
