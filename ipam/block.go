package ipam

import (
	"encoding/binary"
	"hash/crc32"
)

// The file is an array of blocks of 512 bytes: it divides a page, so that no block straddles two, and holds one owner.
//
//	payload 500 | sequence number of the change that wrote it 8 | checksum 4
//
// The checksum covers the block's place and the file's salt too: a block that was copied elsewhere, or left over from
// another file, is as bad as a torn one. So is a block of zeros.
const (
	blockSize   = 512
	payloadSize = 500
)

// The blocks at the head of the file. Bitmaps, buckets and records follow (see layout).
const (
	identityBlock = 0 // written once, before the file gets its name
	superBlock    = 1 // what changes with every call
	journalBlock  = 2 // which blocks the last change wrote, followed by their content
	journalBody   = 3
	dataBlock     = journalBody + maxEdits
)

type block [blockSize]byte

func (b *block) payload() []byte { return b[:payloadSize] }

func (b *block) seq() uint64 { return binary.LittleEndian.Uint64(b[payloadSize:]) }

// seal makes b fit to be written as block num by change seq.
func (b *block) seal(salt uint64, num uint32, seq uint64) {
	binary.LittleEndian.PutUint64(b[payloadSize:], seq)
	binary.LittleEndian.PutUint32(b[payloadSize+8:], b.sum(salt, num))
}

// sealed reports whether b was sealed as block num of the file with this salt.
func (b *block) sealed(salt uint64, num uint32) bool {
	return binary.LittleEndian.Uint32(b[payloadSize+8:]) == b.sum(salt, num)
}

func (b *block) sum(salt uint64, num uint32) uint32 {
	var place [12]byte
	binary.LittleEndian.PutUint64(place[:], salt)
	binary.LittleEndian.PutUint32(place[8:], num)
	// The polynomial of IEEE: tables for others, Castagnoli's too, cost each process that opens a pool 0.4 ms.
	return crc32.Update(crc32.ChecksumIEEE(b[:payloadSize+8]), crc32.IEEETable, place[:])
}
