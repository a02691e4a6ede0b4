package ipam

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/podweft/podweft/internal/flock"
)

// store is the file. Its methods run under its lock, one at a time: Pool sees to that.
type store struct {
	path     string
	bootID   string
	log      *slog.Logger
	patience time.Duration // for a lock; zero means without end

	closed bool // for good, by the Pool

	f    *os.File // nil: not open
	id   fileID
	void bool // f is empty or of another boot: it holds nothing, and must be replaced before it can
	layout
	super

	// Memory that every call uses again: the super block and the journal's first, the block that was looked at last, and the
	// change under way.
	head    [2 * blockSize]byte
	scratch block
	looked  uint32 // which block scratch is; none while it is the first, which nobody looks at
	tx      tx

	// write is how bytes get into a file. Tests cut it short where kill -9 would.
	write func(f *os.File, p []byte, off int64) error
}

func newStore(path, bootID string, log *slog.Logger) *store {
	return &store{path: path, bootID: bootID, log: log, write: func(f *os.File, p []byte, off int64) error {
		_, err := f.WriteAt(p, off)
		return err
	}}
}

// open opens the file at path, or makes an empty one, and reads its identity. That needs no lock: it was written before
// the file got its name.
func (s *store) open() error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	id, err := idOf(f)
	if err == nil {
		err = s.adopt(f, id)
	}
	if err != nil {
		f.Close()
	}
	return err
}

// adopt makes f the store's file.
func (s *store) adopt(f *os.File, id fileID) error {
	var b block
	n, err := f.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	empty := n == 0
	l, ok := decodeLayout(&b)
	if !empty && !ok {
		return s.damage(identityBlock)
	}
	s.f, s.id, s.layout, s.looked = f, id, l, 0
	s.void = empty || l.bootID != s.bootID
	return nil
}

func (s *store) close() error {
	if s.f == nil {
		return nil
	}
	err := s.f.Close()
	s.f = nil
	return err
}

// lock opens the file if need be, locks it, and completes what a dead process had begun.
func (s *store) lock(ctx context.Context) error {
	ctx, cancel := s.patiently(ctx)
	defer cancel()
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if s.f == nil {
			if err := s.open(); err != nil {
				return err
			}
		}
		if err := flock.Lock(ctx, s.f); err != nil {
			return err
		}
		if !s.id.leadsTo(s.path) { // another process has put a new file in its place
			s.close()
			continue
		}
		if s.void {
			return nil
		}
		if err := s.recover(); err != nil {
			s.unlock()
			return err
		}
		return nil
	}
}

// patiently is ctx for as long as a lock is waited for.
func (s *store) patiently(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.patience == 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, s.patience, ErrLocked)
}

func (s *store) unlock() {
	s.looked = 0 // others may write it now
	if s.f != nil {
		flock.Unlock(s.f)
	}
}

// read reads block num, which must be one that was written.
func (s *store) read(num uint32, b *block) error {
	if err := s.readRaw(num, b[:]); err != nil {
		return err
	}
	// A block newer than the last complete change belongs to one whose journal somebody destroyed.
	if !b.sealed(s.salt, num) || b.seq() > s.seq {
		return s.damage(num)
	}
	return nil
}

// look reads block num into s.scratch, where it stays until the next look.
func (s *store) look(num uint32) (*block, error) {
	s.looked = 0
	err := s.read(num, &s.scratch)
	if err == nil {
		s.looked = num
	}
	return &s.scratch, err
}

// readRaw fills p from block num on. Beyond the end of the file there are zeros, which no block consists of.
func (s *store) readRaw(num uint32, p []byte) error {
	n, err := s.f.ReadAt(p, int64(num)*blockSize)
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		err = nil
	}
	return err
}

func (s *store) writeBlocks(num uint32, p []byte) error {
	return s.write(s.f, p, int64(num)*blockSize)
}

func (s *store) damage(num uint32) error {
	return fmt.Errorf("%s: block %d: %w", s.path, num, ErrDamaged)
}
