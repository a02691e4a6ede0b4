package ipam

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"net/netip"
)

const (
	magic         = "podweft ipam\x00\x00\x00\x02" // the last byte is the version of the format
	maxBootID     = 64
	bitmapWords   = 62 // 64-bit words in a block of a bitmap
	bitmapBits    = bitmapWords * 64
	bucketEntries = payloadSize / 4
	minBuckets    = 256
	spanSize      = 1 + 16 + 16
)

// layout is where things are in a file:
//
//	identity | super | journal | a bitmap for each set | hash buckets | records
//
// A bitmap has a bit for each position of its set, one where the address is held. A bucket is the slot of the first
// record of the owners that hash there; records chain on. Records grow at the end of the file.
type layout struct {
	bootID    string
	salt      uint64
	geometry  geometry
	bitmaps   []uint32 // by set: the first block
	buckets   uint32   // the first block
	nbuckets  uint32   // a power of two
	firstSlot uint32   // the block of slot 1
}

func newLayout(bootID string, salt uint64, g geometry) layout {
	l := layout{bootID: bootID, salt: salt, geometry: g, nbuckets: minBuckets}
	next := uint32(dataBlock)
	for set := range g {
		size := g.size(set)
		l.bitmaps = append(l.bitmaps, next)
		next += bitmapBlocks(size)
		l.nbuckets = max(l.nbuckets, 1<<bits.Len32(size-1))
	}
	l.buckets = next
	l.firstSlot = next + (l.nbuckets+bucketEntries-1)/bucketEntries
	return l
}

func bitmapBlocks(size uint32) uint32 { return (size + bitmapBits - 1) / bitmapBits }

// slotBlock is the block that holds a slot. Slots count from 1; 0 means none.
func (l *layout) slotBlock(slot uint32) uint32 { return l.firstSlot + slot - 1 }

// bit is where the bit of a position is: its block, the byte in it, and the mask.
func (l *layout) bit(set int, pos uint32) (num uint32, at int, mask byte) {
	return l.bitmaps[set] + pos/bitmapBits, int(pos % bitmapBits / 8), 1 << (pos % 8)
}

// bucket is where the bucket of an owner is: its block and the offset in it.
func (l *layout) bucket(o Owner) (num uint32, at int) {
	b := uint32(o.hash(l.salt)) & (l.nbuckets - 1)
	return l.buckets + b/bucketEntries, int(b % bucketEntries * 4)
}

// hash is FNV-1a over the salt and the three fields, each ended by a byte that text does not hold.
func (o Owner) hash(salt uint64) uint64 {
	const offset, prime = 0xcbf29ce484222325, 0x100000001b3
	h := offset ^ salt
	for _, field := range [...]string{o.Network, o.Container, o.Interface} {
		for i := range len(field) {
			h = (h ^ uint64(field[i])) * prime
		}
		h = (h ^ 0xff) * prime
	}
	return h ^ h>>32
}

// encode writes the identity block. It is sealed with no salt, since the salt stands in it.
func (l *layout) encode() *block {
	b := new(block)
	p := append(b[:0], magic...)
	p = binary.LittleEndian.AppendUint64(p, l.salt)
	p = append(p, byte(len(l.bootID)))
	p = append(p, l.bootID...)
	p = append(p, byte(len(l.geometry)))
	for _, set := range l.geometry {
		p = append(p, byte(len(set)))
		for _, s := range set {
			p = appendAddr(append(p, byte(s.first.BitLen())), s.first)
			p = appendAddr(p, s.last)
		}
	}
	b.seal(0, identityBlock, 0)
	return b
}

// decodeLayout reads an identity block; ok is false for anything that encode did not write.
func decodeLayout(b *block) (l layout, ok bool) {
	if !b.sealed(0, identityBlock) {
		return l, false
	}
	r := reader{left: b.payload()}
	if string(r.take(len(magic))) != magic {
		return l, false
	}
	salt := binary.LittleEndian.Uint64(r.take(8))
	bootID := string(r.take(int(r.byte())))
	g := make(geometry, r.byte())
	if len(g) > maxSets {
		return l, false
	}
	for set := range g {
		n := int(r.byte())
		if n == 0 || n > MaxRanges {
			return l, false
		}
		for range n {
			family := r.byte()
			g[set] = append(g[set], span{r.addr(family), r.addr(family)})
		}
	}
	if r.short {
		return l, false
	}
	if _, problem := g.flaw(); problem != "" {
		return l, false
	}
	return newLayout(bootID, salt, g), true
}

// appendAddr writes a in the 16 bytes of its IPv6 form; the family is written apart.
func appendAddr(p []byte, a netip.Addr) []byte {
	b := a.As16()
	return append(p, b[:]...)
}

// reader takes a payload apart. It never fails half-way: past the end it yields zeros and remembers.
type reader struct {
	left  []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.left) {
		r.short = true
		return make([]byte, n)
	}
	p := r.left[:n]
	r.left = r.left[n:]
	return p
}

func (r *reader) byte() byte     { return r.take(1)[0] }
func (r *reader) uint16() uint16 { return binary.LittleEndian.Uint16(r.take(2)) }
func (r *reader) uint32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) uint64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

// addr reads an address of a family, given by its length in bits.
func (r *reader) addr(family byte) netip.Addr {
	a := netip.AddrFrom16([16]byte(r.take(16)))
	switch {
	case family == 32 && a.Is4In6():
		return a.Unmap()
	case family == 128 && !a.Is4In6():
		return a
	}
	r.short = true
	return netip.IPv6Unspecified()
}

// gateway is addr, where only zeros are none at all: an address that was taken over from outside of every range has none.
func (r *reader) gateway(family byte) netip.Addr {
	if bytes.HasPrefix(r.left, make([]byte, 16)) {
		r.take(16)
		return netip.Addr{}
	}
	return r.addr(family)
}
