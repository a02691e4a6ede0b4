package local

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// shutListener has connect(2) refused from now on, while accept(2) still returns who connected before: close(2) alone would cut
// those off unheard (unix_stream_connect and unix_accept in the kernel's net/unix/af_unix.c).
func shutListener(l *net.UnixListener) {
	if raw, err := l.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RD) })
	}
}

// acceptNow is Accept without a wait, whatever the deadline: where nobody has connected the error is EAGAIN.
func acceptNow(l *net.UnixListener) (*net.UnixConn, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var failed error
	err = raw.Control(func(listener uintptr) {
		fd, _, failed = unix.Accept4(int(listener), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	})
	if err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, os.NewSyscallError("accept", failed)
	}
	f := os.NewFile(uintptr(fd), "plugin")
	defer f.Close() // FileConn has made its own of it
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}
