package ipam

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// fileID tells whether two descriptors or names are one file.
type fileID unix.Stat_t

func idOf(f *os.File) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileID{}, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return fileID(st), nil
}

// leadsTo reports whether path still names the file. A missing path names none.
func (id *fileID) leadsTo(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Dev == id.Dev && st.Ino == id.Ino
}

// flock waits until this process holds f alone, or ctx ends. It asks again and again instead of waiting in the kernel,
// since a process that stands still with the lock (frozen cgroup, SIGSTOP) must not take the caller with it, and flock(2)
// cannot be called off. The kernel unlocks for a process that dies.
func flock(ctx context.Context, f *os.File) error {
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

// funlock cannot fail on a descriptor that is open.
func funlock(f *os.File) { _ = unix.Flock(int(f.Fd()), unix.LOCK_UN) }
