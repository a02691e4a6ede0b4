package ipam

import "encoding/binary"

// super is the state that every change rewrites, in a block of its own. It is written last: its sequence number says that
// the change with that number is complete.
type super struct {
	seq      uint64
	slots    uint32 // slots 1 to this have been used
	free     uint32 // the first free slot among them
	coolHead uint32 // the released record that is kept back longest
	coolTail uint32 // the one released last
	strays   uint32 // held addresses that have no position
	cursors  [maxSets]uint32
}

func (s super) encode(b *block) {
	*b = block{}
	p := b[:0]
	for _, v := range [...]uint32{s.slots, s.free, s.coolHead, s.coolTail, s.strays} {
		p = binary.LittleEndian.AppendUint32(p, v)
	}
	for _, v := range s.cursors {
		p = binary.LittleEndian.AppendUint32(p, v)
	}
}

func decodeSuper(b *block) super {
	r := reader{left: b.payload()}
	s := super{seq: b.seq()}
	for _, v := range [...]*uint32{&s.slots, &s.free, &s.coolHead, &s.coolTail, &s.strays} {
		*v = r.uint32()
	}
	for i := range s.cursors {
		s.cursors[i] = r.uint32()
	}
	return s
}
