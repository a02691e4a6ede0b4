package testnet_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

// recorder is a test that records how it went.
type recorder struct {
	name     string
	cleanups []func()
	errors   []string
}

func (r *recorder) Helper()           {}
func (r *recorder) Name() string      { return r.name }
func (r *recorder) Cleanup(fn func()) { r.cleanups = append(r.cleanups, fn) }
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (r *recorder) Skipf(format string, args ...any)  { panic(fmt.Sprintf(format, args...)) }

// run runs a test as package testing does and returns what it was reported for.
func (r *recorder) run(test func(t testnet.TB)) string {
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(r)
		for i := len(r.cleanups) - 1; i >= 0; i-- {
			r.cleanups[i]()
		}
	}()
	<-done
	return strings.Join(r.errors, "\n")
}

type leakTest struct {
	name string
	// leak leaves something behind in a node, and says how to undo that.
	leak func(n *testnet.Node, undo func(func())) error
	want string
}

func TestLeaksFailATest(t *testing.T) {
	testnet.Require(t)
	tests := []leakTest{
		{
			name: "socket",
			leak: func(n *testnet.Node, undo func(func())) error {
				return n.Do(func() error {
					c, err := net.ListenPacket("udp", "127.0.0.1:0")
					undo(func() { c.Close() })
					return err
				})
			},
			want: "testnet: left behind in n:\n(\tdescriptor .*\n)*\tdescriptor [0-9]+: socket:",
		},
		{
			name: "tun",
			leak: func(n *testnet.Node, undo func(func())) error {
				return n.Do(func() error {
					fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
					if err != nil {
						return err
					}
					undo(func() { unix.Close(fd) })
					req, err := unix.NewIfreq("tun0")
					if err != nil {
						return err
					}
					req.SetUint16(unix.IFF_TUN)
					return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
				})
			},
			want: "testnet: left behind in n:\n\tdescriptor [0-9]+: /dev/net/tun",
		},
		{
			name: "namespace",
			leak: func(n *testnet.Node, undo func(func())) error {
				f, err := os.Open(n.NetNS())
				undo(func() { f.Close() })
				return err
			},
			want: "testnet: left behind in n:\n\tdescriptor [0-9]+: net:",
		},
		{
			name: "process",
			leak: func(n *testnet.Node, undo func(func())) error {
				cmd := n.Command(t.Context(), "sh", "-c", "echo inside; exec sleep 600")
				out, err := cmd.StdoutPipe()
				if err != nil {
					return err
				}
				undo(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
				if err := cmd.Start(); err != nil {
					return err
				}
				_, err = out.Read(make([]byte, 16)) // it is inside
				return err
			},
			want: "testnet: left behind in n:\n\tprocess [0-9]+: .*sleep 600",
		},
		{
			name: "mount",
			leak: func(n *testnet.Node, undo func(func())) error {
				file := t.TempDir() + "/netns"
				undo(func() { _ = unix.Unmount(file, 0) })
				return firstOf(os.WriteFile(file, nil, 0o600), unix.Mount(n.NetNS(), file, "", unix.MS_BIND, ""))
			},
			want: "testnet: left behind in n:\n\tmount /.*/netns",
		},
		{
			name: "thread",
			leak: func(n *testnet.Node, undo func(func())) error {
				entered, leave, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
				go func() {
					defer close(left)
					_ = n.Do(func() error { close(entered); <-leave; return nil })
				}()
				undo(func() { close(leave); <-left })
				<-entered
				return nil
			},
			want: "testnet: left behind in n:\n\tthread [0-9]+ of this process",
		},
		{
			name: "goroutine",
			leak: func(n *testnet.Node, undo func(func())) error {
				stop := make(chan struct{})
				undo(func() { close(stop) })
				go waitFor(stop)
				return nil
			},
			want: "testnet: left behind:\n\t1 goroutine\\(s\\) in .*testnet_test.waitFor \\(.*leak_test.go:[0-9]+\\)",
		},
		{
			name: "goroutine of a goroutine",
			leak: func(n *testnet.Node, undo func(func())) error {
				stop := make(chan struct{})
				undo(func() { close(stop) })
				go func() { go waitFor(stop) }()
				return nil
			},
			want: "testnet: left behind:\n\t1 goroutine\\(s\\) in .*testnet_test.waitFor",
		},
		{
			name: "pinger",
			leak: func(n *testnet.Node, undo func(func())) error {
				p, err := n.Pinger()
				undo(func() { p.Close() })
				return err
			},
			want: "(?s)descriptor [0-9]+: socket:.*echoSocket..receive",
		},
		{
			name: "nothing",
			leak: func(*testnet.Node, func(func())) error { return nil },
			want: "^$",
		},
	}
	tests = slices.DeleteFunc(tests, func(tt leakTest) bool { // some machines keep the device for root
		return tt.name == "tun" && unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK) != nil
	})
	// All at once, since each takes the whole grace, and no test may be blamed for another's leak.
	got := make([]string, len(tests))
	var all sync.WaitGroup
	for i, tt := range tests {
		all.Go(func() {
			var undo []func()
			r := &recorder{name: tt.name}
			got[i] = r.run(func(tb testnet.TB) {
				n := testnet.NewNode(tb, "n")
				assert.NoError(t, tt.leak(n, func(fn func()) { undo = append(undo, fn) }))
			})
			for _, fn := range undo {
				fn()
			}
		})
	}
	all.Wait()
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Regexp(t, tt.want, got[i]) })
	}
}

func TestWhatIsClosedInTimeIsNoLeak(t *testing.T) {
	testnet.Require(t)
	r := &recorder{name: t.Name()}
	got := r.run(func(tb testnet.TB) {
		a := testnet.NewNode(tb, "a")
		stop := make(chan struct{})
		tb.Cleanup(func() { close(stop) }) // runs after b is gone
		b := testnet.NewNode(tb, "b")
		go waitFor(stop)
		p, err := a.Pinger()
		assert.NoError(t, err)
		defer p.Close()
		_, err = b.Links()
		assert.NoError(t, err)
		assert.NoError(t, b.Close(), "by the test itself")
	})
	assert.Empty(t, got)
}

func waitFor(stop chan struct{}) { <-stop }

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestCopyingIsNoLeak leaves a pipe behind that Go keeps: if that were a leak, all tests of this package would fail at their end.
func TestCopyingIsNoLeak(t *testing.T) {
	n := testnet.NewNode(t, "n")
	require.NoError(t, n.Do(func() error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		echo, err := l.Accept()
		if err != nil {
			return err
		}
		defer echo.Close()
		if _, err := c.Write([]byte("word")); err != nil {
			return err
		}
		_, err = io.CopyN(echo, echo, 4)
		return err
	}))
}
