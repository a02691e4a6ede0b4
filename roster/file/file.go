// Package file is a roster.Store in a directory that processes of one machine share: for laboratories whose nodes are
// processes in namespaces of their own.
//
// The directory holds nodes.json and nodes.lock, which whoever writes holds (flock). nodes.json is replaced by rename: a reader
// sees the old nodes or the new ones, whole, and a process that is killed at any moment leaves one of them behind. The directory
// may be that of ipam/block/file as well.
//
// Nodes die on the machine's monotonic clock, which nobody can set, and all of them with the machine: after a reboot none is alive.
//
// It is not for a directory on a network file system, whose locks and notifications are another matter, nor for hundreds of
// nodes: each heartbeat writes all of them.
package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/dirwatch"
	"github.com/podweft/podweft/internal/flock"
	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/roster/internal/table"
)

// The files in a Store's directory.
const (
	nodesFile = "nodes.json"
	lockFile  = "nodes.lock"
	draftFile = "nodes.json.draft" // of the process that holds the lock; a killed one's is overwritten
)

// version is the format of nodes.json that this code reads and writes.
const version = 1

// Store is a [roster.Store] in a directory. Between calls it keeps no file open and needs no Close.
type Store struct{ dir string }

var _ roster.Store = (*Store)(nil)

// New returns the Store in the directory, which it makes if there is none.
func New(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("roster directory: %w", err)
	}
	return &Store{dir: dir}, nil
}

// contents is what nodes.json holds.
type contents struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"` // of the kernel whose clock the deadlines are on
	table.Table
}

// Nodes implements [roster.Store].
func (s *Store) Nodes(ctx context.Context) (roster.Nodes, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, err := s.read(now())
	if err != nil {
		return nil, err
	}
	return t.Nodes(), nil
}

// Join implements [roster.Store].
func (s *Store) Join(ctx context.Context, n roster.Node, ttl time.Duration) error {
	if err := table.Valid(n, ttl); err != nil {
		return err
	}
	return s.change(ctx, func(t table.Table, now time.Duration) table.Table { return t.Join(n, ttl, now) })
}

// Forget implements [roster.Store].
func (s *Store) Forget(ctx context.Context, name string) error {
	return s.change(ctx, func(t table.Table, _ time.Duration) table.Table { return t.Forget(name) })
}

// ForgetDead implements [roster.Store].
func (s *Store) ForgetDead(ctx context.Context, name string) (forgotten bool, err error) {
	err = s.change(ctx, func(t table.Table, _ time.Duration) table.Table {
		t, forgotten = t.ForgetDead(name)
		return t
	})
	return forgotten && err == nil, err
}

// change runs op on the present table and writes the outcome, under the lock.
func (s *Store) change(ctx context.Context, op func(t table.Table, now time.Duration) table.Table) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Read-only, so that closing it is no IN_CLOSE_WRITE, which would wake every watcher.
	lock, err := os.OpenFile(s.path(lockFile), os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("lock of the roster directory: %w", err)
	}
	defer lock.Close() // gives the lock back
	if err := flock.Lock(ctx, lock); err != nil {
		return fmt.Errorf("lock of the roster directory: %w", err)
	}
	now := now()
	t, err := s.read(now)
	if err != nil {
		return err
	}
	if err := s.replace(op(t, now)); err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	return nil
}

// Watch implements [roster.Store]. Changes are noticed by inotify, deaths by the clock, and both by looking every two seconds in any
// case: notifications can be had no more when the user's inotify instances are used up.
func (s *Store) Watch(ctx context.Context, changed func()) error {
	const longest = 2 * time.Second
	hints, stop, _ := dirwatch.Watch(s.dir, func(name string) bool { return name != nodesFile }) // without it, by looking
	defer stop()
	var seen roster.Nodes
	for known := false; ctx.Err() == nil; {
		at := now()
		t, err := s.read(at)
		nodes := t.Nodes()
		if !known || err != nil || !nodes.Equal(seen) { // else a node has joined again
			changed()
		}
		seen, known = nodes, err == nil
		wait := longest
		if death, ok := t.Next(); ok {
			wait = min(wait, death-at)
		}
		select {
		case <-ctx.Done():
		case <-hints:
		case <-time.After(wait):
		}
	}
	return nil
}

// read reads the nodes as they are by now. It needs no lock. A file that somebody edited is refused instead of misunderstood.
func (s *Store) read(now time.Duration) (table.Table, error) {
	text, err := os.ReadFile(s.path(nodesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return table.Table{}, nil
	}
	if err != nil {
		return table.Table{}, fmt.Errorf("nodes: %w", err)
	}
	c, err := parse(text)
	if err != nil {
		return table.Table{}, fmt.Errorf("nodes: %s: %w", s.path(nodesFile), err)
	}
	if c.Boot != bootID() {
		now = math.MaxInt64
	}
	return c.Expire(now), nil
}

func parse(text []byte) (contents, error) {
	var c contents
	if err := json.Unmarshal(text, &c); err != nil {
		return contents{}, err
	}
	if c.Version != version {
		return contents{}, fmt.Errorf("format version %d: this program knows version %d", c.Version, version)
	}
	return c, c.Check()
}

// replace gives nodes.json new contents at one stroke. Only the holder of the lock may, for there is one draft. Nothing is synced:
// what a power loss takes, the nodes tell again when they are back.
func (s *Store) replace(t table.Table) error {
	text, err := json.MarshalIndent(contents{Version: version, Boot: bootID(), Table: t}, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.path(draftFile), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(s.path(draftFile), s.path(nodesFile))
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// now reads CLOCK_MONOTONIC, which all processes of a machine share from boot to boot, and which stands still while the machine
// sleeps, as its nodes do (clock_gettime(2)).
func now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // never: the clock is there since Linux 2.6. Nobody dies then.
	}
	return time.Duration(ts.Nano())
}

// bootID tells one boot of the machine from the next (random(4)); it is empty where /proc is not to be had.
var bootID = sync.OnceValue(func() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
})
