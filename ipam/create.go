package ipam

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"

	"github.com/podweft/podweft/internal/flock"
)

// prepare makes the file fit for allocations in g: a new one takes its place if it is void, or laid out for other ranges.
// The old one's lock is held throughout and the new one is locked before it gets its name, so no other process comes
// between, and one that waits for the old one notices.
func (s *store) prepare(g geometry) error {
	if !s.void && s.geometry.equal(g) {
		return nil
	}
	if !s.void {
		s.log.Info("ranges changed", "store", s.path, "was", s.geometry.String(), "now", g.String())
	}
	m, err := s.image(g, nil)
	if err != nil {
		return err
	}
	return s.replace(m)
}

// image is the file as it would be for allocations in g, without keeping back any of except.
func (s *store) image(g geometry, except map[netip.Addr]bool) (*image, error) {
	m := newImage(newLayout(s.bootID, rand.Uint64(), g))
	m.seq = 1
	if s.void {
		return m, nil
	}
	m.seq = s.seq + 1
	return m, m.copy(s, except)
}

// replace puts m in the place of the store's file, with the lock held throughout.
func (s *store) replace(m *image) error {
	if s.void && s.layout.bootID != "" {
		s.log.Info("addresses of an earlier boot are void", "store", s.path)
	}
	f, id, err := s.create(m.seal())
	if err != nil {
		return err
	}
	old := s.f
	if err := s.adopt(f, id); err != nil {
		f.Close()
		return err
	}
	s.super = m.super
	return old.Close()
}

// create writes a file under a passing name, waits until it is on the disk, and gives it the store's name. After a power
// loss there is thus the old file or the whole new one, and either says that it is of another boot.
func (s *store) create(content []byte) (f *os.File, id fileID, err error) {
	passing := s.path + ".new"
	if err := os.Remove(passing); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, id, err
	}
	f, err = os.OpenFile(passing, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, id, err
	}
	defer func() {
		if err != nil {
			f.Close()
			_ = os.Remove(passing) // the next one to make a file tries again
		}
	}()
	if err := s.write(f, content, 0); err != nil {
		return nil, id, err
	}
	if err := f.Sync(); err != nil {
		return nil, id, err
	}
	if err := flock.Lock(context.Background(), f); err != nil { // nobody else knows the file: no wait
		return nil, id, err
	}
	if id, err = idOf(f); err != nil {
		return nil, id, err
	}
	return f, id, os.Rename(passing, s.path)
}

// image is a whole file to be.
type image struct {
	layout
	super
	content []byte
}

func newImage(l layout) *image {
	return &image{layout: l, content: make([]byte, int(l.firstSlot)*blockSize)}
}

func (m *image) block(num uint32) *block { return (*block)(m.content[int(num)*blockSize:]) }

// copy takes over what is held and what is kept back in s, but keeps none of except back.
func (m *image) copy(s *store, except map[netip.Addr]bool) error {
	m.content = slices.Grow(m.content, (int(s.slots)+growth)*blockSize)
	err := s.each(func(_ uint32, rec *record) bool {
		if rec.state == held {
			m.hold(rec)
		}
		return true
	})
	if err != nil {
		return err
	}
	return s.eachCooling(func(_ uint32, rec *record) bool {
		rec.next = 0
		rec.Addresses = slices.DeleteFunc(rec.Addresses, func(a Address) bool { return except[a.Prefix.Addr()] })
		slot := m.add(rec)
		if m.coolTail == 0 {
			m.coolHead = slot
		} else {
			setNext(m.block(m.slotBlock(m.coolTail)), slot)
		}
		m.coolTail = slot
		return true
	})
}

// hold adds rec, which is held, to the chain of its bucket.
func (m *image) hold(rec *record) {
	num, at := m.bucket(rec.Owner)
	rec.next = binary.LittleEndian.Uint32(m.block(num)[at:])
	slot := m.add(rec)
	binary.LittleEndian.PutUint32(m.block(num)[at:], slot)
}

// add puts rec into the next slot and marks its addresses.
func (m *image) add(rec *record) (slot uint32) {
	if m.slots%growth == 0 {
		m.content = append(m.content, make([]byte, growth*blockSize)...)
	}
	m.slots++
	rec.encode(m.block(m.slotBlock(m.slots)))
	for _, a := range rec.Addresses {
		set, pos, stray, _ := m.geometry.locate(a.Prefix.Addr())
		if stray {
			m.strays++
			continue
		}
		num, at, mask := m.bit(set, pos)
		m.block(num)[at] |= mask
	}
	return m.slots
}

// seal finishes the file. Its journal stays zero, which is no journal.
func (m *image) seal() []byte {
	m.super.encode(m.block(superBlock))
	m.block(superBlock).seal(m.salt, superBlock, m.seq)
	for num := uint32(dataBlock); num <= m.slotBlock(m.slots); num++ {
		m.block(num).seal(m.salt, num, m.seq)
	}
	*m.block(identityBlock) = *m.layout.encode()
	return m.content
}
