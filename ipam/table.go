package ipam

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
)

// chunk is how many records a walk over all of them reads at once.
const chunk = 64

// growth is how many slots the file grows by.
const growth = 64

// slot reads the record in a slot, which must be in the given state. Its block is then in s.scratch.
func (s *store) slot(slot uint32, state byte) (record, error) {
	if slot == 0 || slot > s.slots {
		return record{}, s.damage(superBlock)
	}
	num := s.slotBlock(slot)
	b, err := s.look(num)
	if err != nil {
		return record{}, err
	}
	rec, ok := decodeRecord(b)
	if !ok || rec.state != state {
		return record{}, s.damage(num)
	}
	return rec, nil
}

// place is where an owner's record is, or would be: the block and offset of what leads to it, and its slot if it exists.
type place struct {
	num  uint32
	at   int
	slot uint32
	rec  record
}

func (p place) found() bool { return p.slot != 0 }

// find looks an owner up.
func (s *store) find(o Owner) (place, error) {
	if s.void {
		return place{}, nil
	}
	num, at := s.bucket(o)
	p := place{num: num, at: at}
	b, err := s.look(num)
	if err != nil {
		return p, err
	}
	// A chain is no longer than there are slots, or it runs in a circle.
	for range s.slots + 1 {
		p.slot = binary.LittleEndian.Uint32(b[p.at:])
		if p.slot == 0 {
			return p, nil
		}
		rec, err := s.slot(p.slot, held)
		if err != nil {
			return p, err
		}
		if rec.Owner == o {
			p.rec = rec
			return p, nil
		}
		p.num, p.at = s.slotBlock(p.slot), nextAt
	}
	return p, s.damage(num)
}

// each calls fn for every slot that was ever used until fn returns false. The record is fn's until it returns.
func (s *store) each(fn func(slot uint32, rec *record) bool) error {
	if s.void {
		return nil
	}
	buf := make([]byte, chunk*blockSize)
	var rec record
	for from := uint32(1); from <= s.slots; from += chunk {
		n := min(chunk, s.slots-from+1)
		if err := s.readRaw(s.slotBlock(from), buf[:n*blockSize]); err != nil {
			return err
		}
		for i := range n {
			b, num := (*block)(buf[i*blockSize:]), s.slotBlock(from+i)
			var ok bool
			rec, ok = decodeRecord(b)
			if !ok || !b.sealed(s.salt, num) || b.seq() > s.seq {
				return s.damage(num)
			}
			if !fn(from+i, &rec) {
				return nil
			}
		}
	}
	return nil
}

// eachCooling calls fn for what is kept back, the longest first, until fn returns false.
func (s *store) eachCooling(fn func(slot uint32, rec *record) bool) error {
	slot := s.coolHead
	for range s.slots {
		if slot == 0 {
			return nil
		}
		rec, err := s.slot(slot, cooling)
		if err != nil {
			return err
		}
		next := rec.next
		if !fn(slot, &rec) {
			return nil
		}
		slot = next
	}
	if slot != 0 {
		return s.damage(superBlock)
	}
	return nil
}

// holder finds the record, held or kept back, that an address belongs to. It reads all of them.
func (s *store) holder(a netip.Addr) (slot uint32, rec record, err error) {
	err = s.each(func(i uint32, r *record) bool {
		if r.state != unused && r.holds(a) {
			slot, rec = i, *r
		}
		return slot == 0
	})
	return slot, rec, err
}

// search finds the first position from `from` on, and then from the start on, whose bit is set neither in the set's bitmap
// nor in excluded.
func (s *store) search(set int, from uint32, excluded []uint64) (pos uint32, ok bool, err error) {
	n := bitmapBlocks(s.geometry.size(set))
	from %= s.geometry.size(set)
	first := from / bitmapBits
	for i := range n + 1 { // the first block comes twice: from `from` on, and at last up to it
		at := (first + i) % n
		b, err := s.look(s.bitmaps[set] + at)
		if err != nil {
			return 0, false, err
		}
		for w := range uint32(bitmapWords) {
			base := at*bitmapBits + w*64
			full := binary.LittleEndian.Uint64(b[w*8:]) | excluded[at*bitmapWords+w]
			if i == 0 && base+64 <= from {
				continue
			}
			if i == 0 && base < from {
				full |= 1<<(from-base) - 1
			}
			if full != ^uint64(0) {
				return base + uint32(bits.TrailingZeros64(^full)), true, nil
			}
		}
	}
	return 0, false, nil
}

// taken counts the positions of a set whose bit is set and that are not excluded.
func (s *store) taken(set int, excluded []uint64) (n int, err error) {
	for at := range bitmapBlocks(s.geometry.size(set)) {
		b, err := s.look(s.bitmaps[set] + at)
		if err != nil {
			return 0, err
		}
		for w := range uint32(bitmapWords) {
			n += bits.OnesCount64(binary.LittleEndian.Uint64(b[w*8:]) &^ excluded[at*bitmapWords+w])
		}
	}
	return n, nil
}

// isTaken reports whether the bit of a position is set.
func (s *store) isTaken(set int, pos uint32) (bool, error) {
	num, at, mask := s.bit(set, pos)
	b, err := s.look(num)
	return b[at]&mask != 0, err
}

// mark sets the bit of an address, or counts it as a stray.
func (t *tx) mark(a netip.Addr) error {
	set, pos, stray, _ := t.s.geometry.locate(a)
	if stray {
		t.super.strays++
		return nil
	}
	num, at, mask := t.s.bit(set, pos)
	b, err := t.edit(num)
	if err != nil {
		return err
	}
	if b[at]&mask != 0 {
		return t.s.damage(num)
	}
	b[at] |= mask
	return nil
}

// unmark undoes mark.
func (t *tx) unmark(a netip.Addr) error {
	set, pos, stray, _ := t.s.geometry.locate(a)
	if stray {
		if t.super.strays == 0 {
			return t.s.damage(superBlock)
		}
		t.super.strays--
		return nil
	}
	num, at, mask := t.s.bit(set, pos)
	b, err := t.edit(num)
	if err != nil {
		return err
	}
	if b[at]&mask == 0 {
		return t.s.damage(num)
	}
	b[at] &^= mask
	return nil
}

// insert gives rec a slot and makes p, the end of its owner's chain, lead there.
func (t *tx) insert(p place, rec *record) error {
	slot, b, err := t.take()
	if err != nil {
		return err
	}
	rec.state, rec.next, rec.born = held, 0, t.super.seq
	rec.encode(b)
	link, err := t.edit(p.num)
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(link[p.at:], slot)
	return nil
}

// take takes a slot that is free.
func (t *tx) take() (slot uint32, b *block, err error) {
	if slot = t.super.free; slot != 0 {
		rec, err := t.s.slot(slot, unused)
		if err != nil {
			return 0, nil, err
		}
		t.super.free = rec.next
		b, err = t.blank(t.s.slotBlock(slot))
		return slot, b, err
	}
	if t.super.slots%growth == 0 {
		// Take the disk space now: a journal that cannot be carried out, for want of it, would stop every later call.
		if err := t.s.writeBlocks(t.s.slotBlock(t.super.slots+1), make([]byte, growth*blockSize)); err != nil {
			return 0, nil, err
		}
	}
	t.super.slots++
	slot = t.super.slots
	b, err = t.blank(t.s.slotBlock(slot))
	return slot, b, err
}

// unlink takes the record at p off its chain.
func (t *tx) unlink(p place) error {
	link, err := t.edit(p.num)
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(link[p.at:], p.rec.next)
	return nil
}

// cool puts a record, already off its chain, at the end of the queue.
func (t *tx) cool(slot uint32, rec record, until uint64) error {
	b, err := t.edit(t.s.slotBlock(slot))
	if err != nil {
		return err
	}
	rec.state, rec.next, rec.until = cooling, 0, until
	rec.encode(b)
	if t.super.coolTail == 0 {
		t.super.coolHead = slot
	} else {
		last, err := t.edit(t.s.slotBlock(t.super.coolTail))
		if err != nil {
			return err
		}
		setNext(last, slot)
	}
	t.super.coolTail = slot
	return nil
}

// free gives a record's addresses and its slot, already off its chain or the queue, back.
func (t *tx) free(slot uint32, rec record) error {
	for _, a := range rec.Addresses {
		if err := t.unmark(a.Prefix.Addr()); err != nil {
			return err
		}
	}
	b, err := t.edit(t.s.slotBlock(slot))
	if err != nil {
		return err
	}
	(&record{state: unused, next: t.super.free}).encode(b)
	t.super.free = slot
	return nil
}

// thaw frees the record at the head of the queue.
func (t *tx) thaw(head record) error {
	slot := t.super.coolHead
	t.super.coolHead = head.next
	if head.next == 0 {
		t.super.coolTail = 0
	}
	return t.free(slot, head)
}

// evict makes sure that nobody has an address. It takes it from a record that is only kept back; if somebody holds it, that
// is ErrTaken.
func (t *tx) evict(a netip.Addr) error {
	set, pos, stray, _ := t.s.geometry.locate(a)
	taken := t.s.strays > 0 // perhaps: strays have no bit
	if !stray {
		var err error
		if taken, err = t.s.isTaken(set, pos); err != nil {
			return err
		}
	}
	if !taken {
		return nil
	}
	slot, rec, err := t.s.holder(a)
	switch {
	case err != nil:
		return err
	case slot == 0 && stray:
		return nil
	case slot == 0:
		return t.s.damage(t.s.bitmaps[set] + pos/bitmapBits)
	case rec.state == held:
		return fmt.Errorf("%s: %w by %s", a, ErrTaken, rec.Owner)
	}
	return t.strip(slot, a)
}

// strip takes an address from the record in a slot, which is kept back.
func (t *tx) strip(slot uint32, a netip.Addr) error {
	b, err := t.edit(t.s.slotBlock(slot))
	if err != nil {
		return err
	}
	rec, ok := decodeRecord(b) // again: another of its addresses may be gone by now
	if !ok {
		return t.s.damage(t.s.slotBlock(slot))
	}
	rec.Addresses = slices.DeleteFunc(rec.Addresses, func(other Address) bool { return other.Prefix.Addr() == a })
	rec.encode(b)
	return t.unmark(a)
}
