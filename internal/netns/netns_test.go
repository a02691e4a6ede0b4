package netns_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/netns"
	"github.com/podweft/podweft/testnet"
)

const patience = 20 * time.Second

// here names the calling thread's namespace, as in "net:[4026531840]".
func here(t testing.TB) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	assert.NoError(t, err)
	return name
}

// newNS makes a namespace that lasts as long as the test and returns its path and name.
func newNS(t testing.TB) (path, name string) {
	t.Helper()
	testnet.Require(t)
	f, err := netns.New()
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	name, err = os.Readlink(netns.Path(f))
	require.NoError(t, err)
	return netns.Path(f), name
}

func TestDoRunsInside(t *testing.T) {
	home := here(t)
	path, name := newNS(t)
	require.NotEqual(t, home, name)
	ran := false
	require.NoError(t, netns.Do(path, func() error {
		ran = true
		assert.Equal(t, name, here(t))
		links, err := net.Interfaces()
		require.NoError(t, err)
		require.Len(t, links, 1)
		assert.Equal(t, "lo", links[0].Name)
		assert.Zero(t, links[0].Flags&net.FlagUp)
		return nil
	}))
	assert.True(t, ran)
	assert.Equal(t, home, here(t))
	failed := errors.New("failed")
	assert.Equal(t, failed, netns.Do(path, func() error { return failed }), "fn's error as it is")
}

// TestSocketsStayInside: what is opened inside belongs to the namespace wherever it is used.
func TestSocketsStayInside(t *testing.T) {
	n := testnet.NewNode(t, "n") // its lo is up
	var inside net.Listener
	require.NoError(t, n.Do(func() (err error) {
		inside, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}))
	defer inside.Close()
	accepted := make(chan error, 1)
	go func() {
		c, err := inside.Accept()
		if err == nil {
			c.Close()
		}
		accepted <- err
	}()
	dial := func() error {
		c, err := net.DialTimeout("tcp", inside.Addr().String(), patience)
		if err == nil {
			c.Close()
		}
		return err
	}
	assert.Error(t, dial(), "nobody listens outside")
	assert.NoError(t, n.Do(dial))
	assert.NoError(t, <-accepted)
}

func TestDoHereSwitchesNothing(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := unix.Gettid()
	for _, path := range []string{"", "/proc/thread-self/ns/net", fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), thread)} {
		assert.NoError(t, netns.Do(path, func() error {
			assert.Equal(t, thread, unix.Gettid(), "path %q", path)
			return nil
		}))
	}
	path, _ := newNS(t)
	assert.NoError(t, netns.Do(path, func() error {
		inner := unix.Gettid()
		assert.NotEqual(t, thread, inner)
		return netns.Do(path, func() error { // already there
			assert.Equal(t, inner, unix.Gettid())
			return nil
		})
	}))
}

func TestDoRefuses(t *testing.T) {
	testnet.Require(t)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, tt := range []struct{ name, path, want string }{
		{"a path that leads nowhere", "/run/netns/none", "network namespace: stat /run/netns/none: no such file or directory"},
		{"a file that is no namespace", file, "network namespace: enter " + file + ": invalid argument"},
		{"a namespace of another kind", "/proc/self/ns/uts", "network namespace: enter /proc/self/ns/uts: invalid argument"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, enter := range entrances {
				err := enter(tt.path, func() error {
					t.Error("ran")
					return nil
				})
				assert.EqualError(t, err, tt.want, name)
			}
		})
	}
}

// TestNoThreadIsPoisoned is what the package is for. A goroutine that has nothing to do with namespaces must never find itself
// in one because its thread had been there.
func TestNoThreadIsPoisoned(t *testing.T) {
	for name, enter := range entrances {
		t.Run(name, func(t *testing.T) { testNoThreadIsPoisoned(t, enter) })
	}
}

// entrances are the ways into a namespace.
var entrances = map[string]func(path string, fn func() error) error{"Do": netns.Do, "Visit": netns.Visit}

func testNoThreadIsPoisoned(t *testing.T, enter func(path string, fn func() error) error) {
	t.Helper()
	home := here(t)
	path, name := newNS(t)
	var wg sync.WaitGroup
	var elsewhere atomic.Int32
	stranger := func() {
		for range 5 {
			if here(t) != home {
				elsewhere.Add(1)
			}
			runtime.Gosched()
		}
	}
	for range 4 {
		wg.Go(func() {
			for range 50 {
				assert.NoError(t, enter(path, func() error {
					assert.Equal(t, name, here(t))
					runtime.Gosched()
					return nil
				}))
				stranger()
			}
		})
	}
	for range 200 {
		wg.Go(stranger)
	}
	wg.Wait()
	for range 200 {
		wg.Go(stranger)
	}
	wg.Wait()
	assert.Zero(t, elsewhere.Load(), "of 4,000 looks")
}

// TestThreadsDoNotPileUp: the threads that were inside end.
func TestThreadsDoNotPileUp(t *testing.T) {
	path, _ := newNS(t)
	threads := func() int {
		tasks, err := os.ReadDir("/proc/self/task")
		require.NoError(t, err)
		return len(tasks)
	}
	before := threads()
	for range 100 {
		for _, enter := range entrances {
			require.NoError(t, enter(path, func() error { return nil }))
		}
	}
	assert.Eventually(t, func() bool { return threads() <= before+8 }, patience, time.Millisecond, "%d threads before", before)
}

// TestGoexitIsAnError: a test's FailNow inside fn ends the goroutine; the caller must not wait for ever.
func TestGoexitIsAnError(t *testing.T) {
	path, _ := newNS(t)
	for name, enter := range entrances {
		err := enter(path, func() error {
			runtime.Goexit()
			return nil
		})
		assert.EqualError(t, err, "function ended its goroutine", name)
	}
}

func TestDescriptorKeepsTheNamespace(t *testing.T) {
	testnet.Require(t)
	f, err := netns.New()
	require.NoError(t, err)
	path := netns.Path(f)
	var name string
	set := func(value string) error {
		name = here(t)
		return os.WriteFile("/proc/sys/net/ipv4/ip_default_ttl", []byte(value), 0)
	}
	require.NoError(t, netns.Do(path, func() error { return set("77") }))
	runtime.GC()
	require.NoError(t, netns.Do(path, func() error {
		assert.Equal(t, name, here(t))
		value, err := os.ReadFile("/proc/sys/net/ipv4/ip_default_ttl")
		assert.Equal(t, "77\n", string(value))
		return err
	}))

	child, err := exec.CommandContext(t.Context(), "readlink", path).Output()
	require.NoError(t, err)
	assert.Equal(t, name, strings.TrimSpace(string(child)), "a child process sees it too")

	require.NoError(t, f.Close())
	assert.ErrorIs(t, netns.Do(path, func() error { return nil }), os.ErrNotExist)
}

func BenchmarkEnter(b *testing.B) {
	path, _ := newNS(b)
	for name, enter := range entrances {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				require.NoError(b, enter(path, func() error { return nil }))
			}
		})
	}
}
