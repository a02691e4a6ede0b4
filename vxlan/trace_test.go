package vxlan_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// trace counts a process's system calls on sockets, as strace does.
type trace struct {
	ended chan struct{}

	mu       sync.Mutex
	err      error
	sends    map[uint64]int // by descriptor
	receives map[uint64]int
}

// startTrace attaches to all threads of a process. The trace ends with the process.
func startTrace(t testing.TB, pid int) *trace {
	t.Helper()
	tr := &trace{ended: make(chan struct{}), sends: map[uint64]int{}, receives: map[uint64]int{}}
	attached := make(chan error, 1)
	go tr.run(pid, attached)
	require.NoError(t, <-attached)
	return tr
}

// calls is how many there have been on the sockets that something was sent through: those that ask and write. The one that
// only listens is left out. It starts the count anew.
func (tr *trace) calls(t testing.TB) (n int) {
	t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	require.NoError(t, tr.err)
	for fd, sends := range tr.sends {
		n += sends + tr.receives[fd]
	}
	clear(tr.sends)
	clear(tr.receives)
	return n
}

// run is on one thread throughout: the kernel knows the tracer by its thread.
func (tr *trace) run(pid int, attached chan<- error) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and what it traces goes free
	defer close(tr.ended)
	err := seize(pid)
	attached <- err
	for err == nil {
		err = tr.next()
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if !errors.Is(err, unix.ECHILD) {
		tr.err = err
	}
}

func seize(pid int) error {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			return err
		}
		const options = unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACESYSGOOD
		if err := ptrace(unix.PTRACE_SEIZE, tid, 0, options); err != nil {
			return fmt.Errorf("seize thread %d: %w", tid, err)
		}
		if err := ptrace(unix.PTRACE_INTERRUPT, tid, 0, 0); err != nil {
			return fmt.Errorf("interrupt thread %d: %w", tid, err)
		}
	}
	return nil
}

func ptrace(request uintptr, tid int, addr, data uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, request, uintptr(tid), addr, data, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// next waits for one thread to stop, looks why, and lets it go on.
func (tr *trace) next() error {
	var status unix.WaitStatus
	// WNOTHREAD: other goroutines wait for processes of theirs.
	tid, err := unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return err
	}
	if !status.Stopped() {
		return nil
	}
	var signal uintptr
	switch stop := status.StopSignal(); {
	case stop == unix.SIGTRAP|0x80: // PTRACE_O_TRACESYSGOOD
		err = tr.count(tid)
	case status>>16 == 0: // a signal on its way to the thread
		signal = uintptr(stop)
	}
	if err == nil {
		err = ptrace(unix.PTRACE_SYSCALL, tid, 0, signal)
	}
	if errors.Is(err, unix.ESRCH) { // it was killed meanwhile
		err = nil
	}
	return err
}

// count notes a system call that a thread is about to make.
func (tr *trace) count(tid int) error {
	var info [88]byte // struct ptrace_syscall_info: op, and from byte 24 the number and arguments
	if err := ptrace(unix.PTRACE_GET_SYSCALL_INFO, tid, uintptr(len(info)), uintptr(unsafe.Pointer(&info))); err != nil {
		return err
	}
	if info[0] != unix.PTRACE_SYSCALL_INFO_ENTRY {
		return nil
	}
	number, fd := binary.NativeEndian.Uint64(info[24:]), binary.NativeEndian.Uint64(info[32:])
	tr.mu.Lock()
	defer tr.mu.Unlock()
	switch number {
	case unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG:
		tr.sends[fd]++
	case unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_RECVMMSG:
		tr.receives[fd]++
	}
	return nil
}
