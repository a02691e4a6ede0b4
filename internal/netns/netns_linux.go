// Package netns enters, creates and names network namespaces. It is the only place of this module that calls setns or
// unshare.
//
// A network namespace belongs to a thread; a socket, once opened inside, belongs to the namespace and works from any
// goroutine. So callers enter only to open sockets and TUNs, to touch /proc/sys and to start programs: Do runs one function
// on a thread of its own, and that thread ends with it; Visit is for opening a socket, and its thread comes back. None is ever
// handed to the scheduler from where it does not belong: it would run other people's goroutines in the wrong namespace.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// own is the calling thread's namespace, whatever thread that is.
const own = "/proc/thread-self/ns/net"

// errGoexit is what Do returns when fn ended its goroutine instead of returning (a test's FailNow does).
var errGoexit = errors.New("function ended its goroutine")

// Do runs fn inside the network namespace at path (as in /run/netns/blue or /proc/4711/ns/net) and returns fn's error. An
// empty path is the calling thread's namespace, and so is a path that leads there: fn then runs without a switch, which
// needs no privilege.
//
// fn must not start goroutines that expect to be in the namespace, nor resolve names: both may run on another thread.
func Do(path string, fn func() error) error {
	if here, err := isHere(path); err != nil {
		return err
	} else if here {
		return fn()
	}
	return onDyingThread(func() error { return inside(path, fn) })
}

// Visit is Do for an fn that takes no time, such as opening a socket. Its thread comes home and serves others again, so that
// none is started and none ends, which takes a short-lived process longer than all else that it does inside. A thread that
// cannot come home ends, as one of Do's does. The process's first thread may be the one: for that moment /proc/PID/ns/net
// shows where it is.
func Visit(path string, fn func() error) error {
	if here, err := isHere(path); err != nil {
		return err
	} else if here {
		return fn()
	}
	result := make(chan error, 1)
	go func() {
		defer close(result)
		runtime.LockOSThread()
		home, err := vnetns.GetFromPath(own)
		if err != nil {
			result <- fmt.Errorf("network namespace: open %s: %w", own, err)
			return
		}
		defer home.Close()
		err = inside(path, fn)
		if back := vnetns.Set(home); back != nil {
			result <- errors.Join(err, fmt.Errorf("network namespace: come back from %s: %w", path, back))
			return
		}
		runtime.UnlockOSThread()
		result <- err
	}()
	return await(result)
}

// isHere reports whether path leads to the calling thread's namespace.
func isHere(path string) (bool, error) {
	if path == "" {
		return true, nil
	}
	there, err := os.Stat(path)
	if err != nil {
		return false, fmt.Errorf("network namespace: %w", err)
	}
	here, err := os.Stat(own)
	return err == nil && os.SameFile(here, there), nil
}

// inside runs fn when the calling thread, which is locked, has entered the namespace at path.
func inside(path string, fn func() error) error {
	ns, err := vnetns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("network namespace: open %s: %w", path, err)
	}
	err = vnetns.Set(ns)
	ns.Close()
	if err != nil {
		return fmt.Errorf("network namespace: enter %s: %w", path, err)
	}
	return fn()
}

// New creates a network namespace, empty but for a loopback link that is down, and returns a descriptor that keeps it. The
// namespace is gone when the last descriptor, mount, process and socket in it is.
func New() (*os.File, error) {
	var f *os.File
	err := onDyingThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("network namespace: create: %w", err)
		}
		var err error
		f, err = os.Open(own)
		return err
	})
	return f, err
}

// Path names the namespace that f keeps so that Do, this process's children and other processes of the same PID
// namespace can open it, for as long as f is open.
func Path(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }

// onDyingThread runs fn on a locked thread that the runtime ends when fn is done, since nobody unlocks it.
func onDyingThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		defer close(result)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread cannot end before the process does, and /proc/PID/ns/net shows its namespace. Keep it
			// busy, so that the next goroutine gets another one.
			result <- onDyingThread(fn)
			runtime.UnlockOSThread()
			return
		}
		result <- fn()
	}()
	return await(result)
}

func await(result <-chan error) error {
	err, returned := <-result
	if !returned {
		return errGoexit
	}
	return err
}
