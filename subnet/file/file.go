// Package file is a subnet.Store in a directory that processes of one machine share: for laboratories whose nodes are
// processes in namespaces of their own, and for a single node that wants its lease to outlive its daemon.
//
// The directory holds net-conf.json, which a person writes in flannel's format, leases.json, which only Stores write, and
// lock, which whoever writes holds (flock). leases.json is replaced by rename: a reader sees the old state or the new one,
// whole, and a process that is killed at any moment leaves one of them behind. File contents are synced before the rename, so
// a power loss leaves one of them too.
//
// Leases expire on the machine's monotonic clock: setting the time of day ends none. After a reboot, when all nodes are gone,
// every lease gets its whole TTL again for its node to come back.
//
// It is not for a directory on a network file system, whose locks and notifications are another matter, nor for thousands of
// leases: each change writes all of them.
package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/internal/ledger"
)

// The files in a Store's directory.
const (
	networkFile = "net-conf.json"
	leasesFile  = "leases.json"
	lockFile    = "lock"
	draftFile   = "leases.json.draft" // of the process that holds the lock; a killed one's is overwritten
)

// Store is a [subnet.Store] and a [subnet.Reserver] in a directory. Leases of claims without a TTL last until they are
// released. Between calls it keeps no file open and needs no Close.
type Store struct {
	dir  string
	busy chan struct{} // holds one token while this process wants the lock: flock would let only one in anyway

	mu       sync.Mutex
	latest   *state           // what was read or written last; never older than what a reader has had
	snapshot *subnet.Snapshot // of latest
}

var (
	_ subnet.Store    = (*Store)(nil)
	_ subnet.Reserver = (*Store)(nil)
)

// New returns the Store in the directory, which it makes if there is none. Without a net-conf.json in it the Store answers
// [subnet.ErrNoNetwork].
func New(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lease directory: %w", err)
	}
	return &Store{dir: dir, busy: make(chan struct{}, 1)}, nil
}

// SetNetwork writes net-conf.json. Leases that do not fit the network stay until they are released or claimed anew.
func (s *Store) SetNetwork(ctx context.Context, n *subnet.Network) error {
	text, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return s.replace(networkFile, append(text, '\n'))
}

// Acquire implements [subnet.Store].
func (s *Store) Acquire(ctx context.Context, c subnet.Claim) (l *subnet.Lease, err error) {
	err = s.change(ctx, func(all *ledger.Ledger, now ledger.Now) error {
		if all.Network == nil {
			return s.noNetwork()
		}
		l, err = all.Acquire(c, now)
		return err
	})
	return l, err
}

// Update implements [subnet.Store].
func (s *Store) Update(ctx context.Context, lease *subnet.Lease) (l *subnet.Lease, err error) {
	err = s.change(ctx, func(all *ledger.Ledger, now ledger.Now) error {
		l, err = all.Update(lease, now)
		return err
	})
	return l, err
}

// Renew implements [subnet.Store].
func (s *Store) Renew(ctx context.Context, lease *subnet.Lease) (l *subnet.Lease, err error) {
	err = s.change(ctx, func(all *ledger.Ledger, now ledger.Now) error {
		l, err = all.Renew(lease, now)
		return err
	})
	return l, err
}

// Release implements [subnet.Store].
func (s *Store) Release(ctx context.Context, lease *subnet.Lease) error {
	return s.change(ctx, func(all *ledger.Ledger, _ ledger.Now) error {
		all.Release(lease)
		return nil
	})
}

// Reserve implements [subnet.Reserver].
func (s *Store) Reserve(ctx context.Context, p subnet.Prefixes, node string) error {
	return s.change(ctx, func(all *ledger.Ledger, _ ledger.Now) error { return all.Reserve(p, node) })
}

// Unreserve implements [subnet.Reserver].
func (s *Store) Unreserve(ctx context.Context, p subnet.Prefixes) error {
	return s.change(ctx, func(all *ledger.Ledger, _ ledger.Now) error {
		all.Unreserve(p)
		return nil
	})
}

// change brings the state up to date, runs op on it and writes the outcome, all under the lock. An op that fails changes
// nothing.
func (s *Store) change(ctx context.Context, op func(*ledger.Ledger, ledger.Now) error) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := s.read()
	if err != nil {
		return err
	}
	now := now()
	next := old.clone()
	next.catchUp(s.readNetwork(), now)
	if err := op(&next.Ledger, now); err != nil {
		return err
	}
	return s.write(old, next)
}

// read returns the present state, the very one of the last time if it is unchanged. It needs no lock of the directory. The
// mutex spans reading and remembering, or of two readers the one that read earlier might be remembered.
func (s *Store) read() (*state, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := os.ReadFile(s.path(leasesFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("leases: %w", err)
	}
	if s.latest != nil && string(text) == string(s.latest.text) {
		return s.latest, nil
	}
	next, err := parseState(text, s.latest)
	if err != nil {
		return nil, fmt.Errorf("leases: %s: %w", s.path(leasesFile), err)
	}
	s.keep(next)
	return next, nil
}

// write makes next the present state. Only the holder of the lock may.
func (s *Store) write(old, next *state) error {
	if err := next.format(); err != nil {
		return fmt.Errorf("leases: %w", err)
	}
	if string(next.text) == string(old.text) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.replace(leasesFile, next.text)
	if err == nil {
		s.keep(next)
	}
	return err
}

// keep remembers the state. A renewal is a new state without a new revision: the snapshot then stays.
func (s *Store) keep(next *state) {
	s.latest = next
	if s.snapshot == nil || s.snapshot.Revision != next.Revision {
		s.snapshot = next.snapshot()
	}
}

// replace gives the file new contents at one stroke. Only the holder of the lock may, for there is one draft.
func (s *Store) replace(name string, contents []byte) error {
	draft, err := os.OpenFile(s.path(draftFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = draft.Write(contents)
	if err == nil {
		// Some file systems would, after a power loss, show the new name with no contents.
		err = draft.Sync()
	}
	if closeErr := draft.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(s.path(draftFile), s.path(name))
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }
