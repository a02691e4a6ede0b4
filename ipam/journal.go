package ipam

import (
	"encoding/binary"
	"errors"
	"slices"
)

// maxEdits is how many blocks one change touches at most: an allocation writes its record, its bucket, a bitmap block for
// each set, the super block, and for each set the record of a kept-back address that was asked for by name; a release
// fewer.
const maxEdits = 3 + 2*maxSets

var errTooLarge = errors.New("change touches too many blocks")

// tx is one change of the store, all or nothing. It gathers blocks with their new content. commit writes all of them to the
// journal and then each to its place, the super block last. Whoever takes the lock next and finds that the journal is one
// change ahead of the super block writes the blocks again: so a process may die between any two instructions. One that died
// while it wrote the journal has left one that is not whole, which counts as none, and nothing else.
type tx struct {
	s     *store
	super super // to be written
	n     int   // blocks so far
	nums  [maxEdits]uint32
	// journal is what is written there: a head that lists nums, then the blocks. They are edited in place.
	journal [(1 + maxEdits) * blockSize]byte
}

func (s *store) begin() *tx {
	s.tx.s, s.tx.super, s.tx.n = s, s.super, 0
	s.tx.super.seq++
	return &s.tx
}

func (t *tx) block(i int) *block { return (*block)(t.journal[(1+i)*blockSize:]) }

// edit gives block num to be changed.
func (t *tx) edit(num uint32) (*block, error) {
	if i := slices.Index(t.nums[:t.n], num); i >= 0 {
		return t.block(i), nil
	}
	b, err := t.blank(num)
	if err != nil {
		return nil, err
	}
	if t.s.looked == num { // as a rule it was looked at a moment ago
		*b = t.s.scratch
		return b, nil
	}
	return b, t.s.read(num, b)
}

// blank gives block num to be filled, whatever was there.
func (t *tx) blank(num uint32) (*block, error) {
	if t.n == maxEdits {
		return nil, errTooLarge
	}
	t.nums[t.n] = num
	t.n++
	return t.block(t.n - 1), nil
}

// commit makes the change. After an error it has either not happened, or the next call completes it.
func (t *tx) commit() error {
	b, err := t.blank(superBlock)
	if err != nil {
		return err
	}
	t.super.encode(b)
	t.s.looked = 0 // it may be one of these

	head := (*block)(t.journal[:])
	binary.LittleEndian.PutUint32(head[:], uint32(t.n))
	for i, num := range t.nums[:t.n] {
		t.block(i).seal(t.s.salt, num, t.super.seq)
		binary.LittleEndian.PutUint32(head[4+4*i:], num)
	}
	head.seal(t.s.salt, journalBlock, t.super.seq)
	if err := t.s.writeBlocks(journalBlock, t.journal[:(1+t.n)*blockSize]); err != nil {
		return err
	}
	for i, num := range t.nums[:t.n] {
		if err := t.s.writeBlocks(num, t.block(i)[:]); err != nil {
			return err
		}
	}
	t.s.super = t.super
	return nil
}

// recover reads the super block, and first completes the last change if its process died.
func (s *store) recover() error {
	if err := s.readRaw(superBlock, s.head[:]); err != nil {
		return err
	}
	super, journal := (*block)(s.head[:]), (*block)(s.head[blockSize:])
	whole := super.sealed(s.salt, superBlock)
	if whole {
		s.super = decodeSuper(super)
	}
	ahead := journal.sealed(s.salt, journalBlock) && (!whole || journal.seq() == super.seq()+1)
	if whole && !ahead {
		return nil
	}
	if ahead {
		done, err := s.replay(journal)
		if err != nil || done {
			return err
		}
	}
	if !whole {
		return s.damage(superBlock)
	}
	return nil
}

// replay writes what the journal says, if it is whole.
func (s *store) replay(head *block) (done bool, err error) {
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 || n > maxEdits {
		return false, nil
	}
	body := make([]byte, n*blockSize)
	if err := s.readRaw(journalBody, body); err != nil {
		return false, err
	}
	content := func(i uint32) (num uint32, b *block) {
		return binary.LittleEndian.Uint32(head[4+4*i:]), (*block)(body[i*blockSize:])
	}
	for i := range n {
		if num, b := content(i); !b.sealed(s.salt, num) || b.seq() != head.seq() {
			return false, nil
		}
	}
	last, super := content(n - 1)
	if last != superBlock {
		return false, nil
	}
	for i := range n {
		num, b := content(i)
		if err := s.writeBlocks(num, b[:]); err != nil {
			return false, err
		}
	}
	s.super = decodeSuper(super)
	s.log.Info("completed a call that its process did not live to complete", "store", s.path)
	return true, nil
}
