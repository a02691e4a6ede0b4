package netns_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/netns"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(program{m}) }

// program is the tests, after what only the main goroutine can try.
type program struct{ tests *testing.M }

func (p program) Run() int {
	onFirstThread = doOnFirstThread()
	return p.tests.Run()
}

// onFirstThread is how doOnFirstThread ended.
var onFirstThread error

// locked keeps the main goroutine on the process's first thread: what is locked while packages are initialised stays so.
var locked = func() bool {
	runtime.LockOSThread()
	return true
}()

// doOnFirstThread calls Visit, and then Do, where the goroutine that they start runs on the process's first thread.
func doOnFirstThread() error {
	f, err := netns.New()
	if err != nil {
		return err
	}
	defer f.Close()
	home, _ := os.Readlink("/proc/self/ns/net")
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // the thread that waits takes up what was started
	runtime.UnlockOSThread()
	if unix.Gettid() != unix.Getpid() {
		return fmt.Errorf("not on the first thread (locked: %v)", locked)
	}
	if err := netns.Visit(netns.Path(f), func() error { return nil }); err != nil {
		return err
	}
	if here, _ := os.Readlink("/proc/self/ns/net"); here != home {
		return fmt.Errorf("the first thread has stayed in %s on a visit", here)
	}
	err = netns.Do(netns.Path(f), func() error {
		if unix.Gettid() == unix.Getpid() {
			return fmt.Errorf("inside on the first thread")
		}
		return nil
	})
	if here, _ := os.Readlink("/proc/self/ns/net"); err == nil && here != home {
		err = fmt.Errorf("the first thread is in %s, not in %s", here, home)
	}
	return err
}

// TestFirstThreadStays: the first thread cannot end, and its namespace is what /proc/PID/ns/net shows to others.
func TestFirstThreadStays(t *testing.T) {
	testnet.Require(t)
	assert.NoError(t, onFirstThread)
}
