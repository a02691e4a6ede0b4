// Package memory is a block.Store inside one process: for tests, and for laboratories whose nodes live in one process.
//
// Nothing is kept when the process ends. A Store whose nodes are processes of one machine is ipam/block/file.
package memory

import (
	"context"
	"net/netip"
	"sync"

	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/internal/table"
)

// Store is a [block.Store]. Give the same one to every node. It has no goroutine and needs no Close.
type Store struct {
	mu      sync.Mutex
	table   table.Table
	changed chan struct{} // closed, and replaced, at each change
}

var _ block.Store = (*Store)(nil)

// New makes a Store without blocks.
func New() *Store { return &Store{changed: make(chan struct{})} }

// Blocks implements [block.Store].
func (s *Store) Blocks(ctx context.Context, p netip.Prefix) ([]block.Block, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.Within(p), nil
}

// Write implements [block.Store].
func (s *Store) Write(ctx context.Context, b block.Block) (block.Block, error) {
	if err := ctx.Err(); err != nil {
		return block.Block{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next, written, err := s.table.Write(b)
	if next.Revision != s.table.Revision {
		s.table = next
		close(s.changed)
		s.changed = make(chan struct{})
	}
	return written, err
}

// Watch implements [block.Store].
func (s *Store) Watch(ctx context.Context, changed func()) error {
	for ctx.Err() == nil {
		s.mu.Lock()
		next := s.changed
		s.mu.Unlock()
		changed()
		select {
		case <-ctx.Done():
		case <-next:
		}
	}
	return nil
}
