// Package dirwatch tells when files in a directory change, for those who read it again then. It says that something changed
// and not what: notifications can be lost, and whoever relies on their content has a bug that shows once a year.
//
// It looks at one directory, not at those below it, and cannot see what another machine does to a shared one.
package dirwatch

import (
	"encoding/binary"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Watch sends on changed when a file in dir was written, renamed, or removed, but for those whose name ignore says
// yes to, where it is not nil. The channel never closes, and holds one hint at most. stop ends what Watch has started.
//
// With an error there is a channel too, which stays silent: a user's inotify instances may be used up (inotify(7),
// max_user_instances), and whoever looks now and then in any case can go on.
func Watch(dir string, ignore func(name string) bool) (changed <-chan struct{}, stop func(), err error) {
	events := make(chan struct{}, 1)
	f, err := open(dir)
	if err != nil {
		return events, func() {}, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 16<<10)
		for {
			n, err := f.Read(buf) // returns when f is closed: it is in the runtime's poller
			if err != nil {
				return
			}
			if concerns(buf[:n], ignore) {
				select {
				case events <- struct{}{}:
				default:
				}
			}
		}
	}()
	return events, func() {
		f.Close()
		<-done
	}, nil
}

func open(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	const events = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE
	if _, err := unix.InotifyAddWatch(fd, dir, events); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "watch", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// concerns reports whether any of the events is about a file that is not ignored. An event without a name, such as an overflow
// of the queue, is about any. The layout is struct inotify_event of inotify(7): wd, mask, cookie, len, name.
func concerns(events []byte, ignore func(name string) bool) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		if end > len(events) {
			return true
		}
		if name := strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00"); name == "" || ignore == nil || !ignore(name) {
			return true
		}
		events = events[end:]
	}
	return false
}
