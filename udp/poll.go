package udp

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Workers wait in the kernel, in ppoll, and not in the runtime's poller. A wakeup there takes a thread that polls, one that is woken
// to poll in its place, and as a rule a third that spins for work; here it is the thread that the packet is for.

// gate is what workers wait at besides their port. Closed, it lets nobody wait.
type gate struct {
	closed atomic.Bool
	gone   atomic.Bool // for good: event is nobody's, or another's
	event  int
}

// errInterrupted ends a worker when others are to have the ports.
var errInterrupted = errors.New("interrupted")

func newGate() (*gate, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &gate{event: fd}, nil
}

// interrupt ends every wait, now and later, with errInterrupted, until resume.
func (g *gate) interrupt() {
	g.closed.Store(true)
	if g.gone.Load() {
		return
	}
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(g.event, one[:]) // it fails when it is full: somebody has written already
}

func (g *gate) resume() {
	g.closed.Store(false)
	var count [8]byte
	_, _ = unix.Read(g.event, count[:])
}

func (g *gate) close() error {
	g.gone.Store(true)
	return unix.Close(g.event)
}

// await returns when one of the descriptors is ready for its events, or in a state that the next call will tell.
func (g *gate) await(ports []unix.PollFd) error {
	for {
		if g.closed.Load() {
			return errInterrupted
		}
		_, err := unix.Ppoll(ports, nil, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case slices.ContainsFunc(ports, func(p unix.PollFd) bool { return p.Revents != 0 && int(p.Fd) != g.event }):
			return nil
		}
	}
}

// entry has await end when the gate closes.
func (g *gate) entry() unix.PollFd { return unix.PollFd{Fd: int32(g.event), Events: unix.POLLIN} }

// readable has await end when there is something to be read.
func readable(fd uintptr) unix.PollFd { return unix.PollFd{Fd: int32(fd), Events: unix.POLLIN} }

// direct makes a system call of which the scheduler hears nothing: it ends at once, for the descriptor does not block, and the
// bookkeeping would cost as much as a small packet.
func direct(trap, fd, b, n uintptr) (int, error) {
	for {
		done, _, errno := unix.RawSyscall6(trap, fd, b, n, 0, 0, 0)
		switch errno {
		case 0:
			return int(done), nil
		case unix.EAGAIN: // without making an interface of it, which costs
			return 0, errAgain
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

var errAgain error = unix.EAGAIN
