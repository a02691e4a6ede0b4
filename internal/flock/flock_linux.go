// Package flock takes flock(2) locks and can be called off while it waits. The kernel gives such a lock back when the process
// that holds it dies, however it dies, so nobody has to clean up after anybody.
//
// The locks are advisory, for local file systems, and for a whole file; they shut out other descriptors, of this process
// too.
package flock

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Lock waits until f alone holds the lock of its file, or ctx ends. It asks again and again instead of waiting in the kernel,
// since a process that stands still with the lock (frozen cgroup, SIGSTOP) must not take the caller with it, and flock(2)
// cannot be called off. Closing f gives the lock back, as [Unlock] does.
func Lock(ctx context.Context, f *os.File) error {
	const shortest, longest = 20 * time.Microsecond, 2 * time.Millisecond
	pause := shortest
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
		select {
		case <-ctx.Done():
			return &os.PathError{Op: "lock", Path: f.Name(), Err: context.Cause(ctx)}
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, longest)
	}
}

// Unlock gives the lock back. It cannot fail on a file that is open.
func Unlock(f *os.File) { _ = unix.Flock(int(f.Fd()), unix.LOCK_UN) }
