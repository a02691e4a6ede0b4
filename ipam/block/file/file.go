// Package file is a block.Store in a directory that processes of one machine share: for laboratories whose nodes are
// processes in namespaces of their own.
//
// The directory holds blocks.json and lock, which whoever writes holds (flock). blocks.json is replaced by rename: a reader
// sees the old blocks or the new ones, whole, and a process that is killed at any moment leaves one of them behind. Contents
// are synced before the rename, so a power loss leaves one of them too.
//
// It is not for a directory on a network file system, whose locks and notifications are another matter, nor for thousands of
// blocks: each change writes all of them.
package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/podweft/podweft/internal/dirwatch"
	"github.com/podweft/podweft/internal/flock"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/internal/table"
)

// The files in a Store's directory.
const (
	blocksFile = "blocks.json"
	lockFile   = "lock"
	draftFile  = "blocks.json.draft" // of the process that holds the lock; a killed one's is overwritten
)

// version is the format of blocks.json that this code reads and writes.
const version = 1

// Store is a [block.Store] in a directory. Between calls it keeps no file open and needs no Close.
type Store struct{ dir string }

var _ block.Store = (*Store)(nil)

// New returns the Store in the directory, which it makes if there is none.
func New(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("block directory: %w", err)
	}
	return &Store{dir: dir}, nil
}

// contents is what blocks.json holds.
type contents struct {
	Version  int         `json:"version"`
	Revision uint64      `json:"revision"`
	Blocks   []table.Row `json:"blocks"`
}

// Blocks implements [block.Store].
func (s *Store) Blocks(ctx context.Context, p netip.Prefix) ([]block.Block, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, err := s.read()
	return t.Within(p), err
}

// Write implements [block.Store].
func (s *Store) Write(ctx context.Context, b block.Block) (block.Block, error) {
	if err := ctx.Err(); err != nil {
		return block.Block{}, err
	}
	// Read-only, so that closing it is no IN_CLOSE_WRITE, which would wake every watcher.
	lock, err := os.OpenFile(s.path(lockFile), os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return block.Block{}, fmt.Errorf("lock of the block directory: %w", err)
	}
	defer lock.Close() // gives the lock back
	if err := flock.Lock(ctx, lock); err != nil {
		return block.Block{}, fmt.Errorf("lock of the block directory: %w", err)
	}
	old, err := s.read()
	if err != nil {
		return block.Block{}, err
	}
	next, written, err := old.Write(b)
	if err != nil || next.Revision == old.Revision {
		return written, err
	}
	if err := s.replace(next); err != nil {
		return block.Block{}, fmt.Errorf("blocks: %w", err)
	}
	return written, nil
}

// Watch implements [block.Store].
func (s *Store) Watch(ctx context.Context, changed func()) error {
	dirwatch.Run(ctx, s.dir, func(name string) bool { return name != blocksFile }, changed)
	return nil
}

// read reads the present blocks. It needs no lock. A file that somebody edited is refused instead of misunderstood.
func (s *Store) read() (table.Table, error) {
	text, err := os.ReadFile(s.path(blocksFile))
	if errors.Is(err, fs.ErrNotExist) {
		return table.Table{}, nil
	}
	if err != nil {
		return table.Table{}, fmt.Errorf("blocks: %w", err)
	}
	t, err := parse(text)
	if err != nil {
		return table.Table{}, fmt.Errorf("blocks: %s: %w", s.path(blocksFile), err)
	}
	return t, nil
}

func parse(text []byte) (table.Table, error) {
	var c contents
	if err := json.Unmarshal(text, &c); err != nil {
		return table.Table{}, err
	}
	if c.Version != version {
		return table.Table{}, fmt.Errorf("format version %d: this program knows version %d", c.Version, version)
	}
	t := table.Table{Revision: c.Revision, Blocks: c.Blocks}
	return t, t.Check()
}

// replace gives blocks.json new contents at one stroke. Only the holder of the lock may, for there is one draft.
func (s *Store) replace(t table.Table) error {
	text, err := json.MarshalIndent(contents{Version: version, Revision: t.Revision, Blocks: t.Blocks}, "", " ")
	if err != nil {
		return err
	}
	draft, err := os.OpenFile(s.path(draftFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = draft.Write(append(text, '\n'))
	if err == nil {
		err = draft.Sync() // some file systems would, after a power loss, show the new name with no contents
	}
	if closeErr := draft.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(s.path(draftFile), s.path(blocksFile))
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }
