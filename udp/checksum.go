package udp

import (
	"encoding/binary"
	"math/bits"
)

// The Internet checksum (RFC 1071) is a sum in ones' complement, which comes out the same in either byte order if the result is
// stored in the order that was summed in. So the words are summed as this machine loads them, eight bytes at a time.
var native = binary.NativeEndian

// sum adds b to acc. b has to begin at an even offset of what is summed.
func sum(b []byte, acc uint64) uint64 {
	acc, b = sumMost(b, acc)
	var carry uint64
	for len(b) >= 64 {
		acc, carry = bits.Add64(acc, native.Uint64(b), carry)
		acc, carry = bits.Add64(acc, native.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, native.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, native.Uint64(b[24:]), carry)
		acc, carry = bits.Add64(acc, native.Uint64(b[32:]), carry)
		acc, carry = bits.Add64(acc, native.Uint64(b[40:]), carry)
		acc, carry = bits.Add64(acc, native.Uint64(b[48:]), carry)
		acc, carry = bits.Add64(acc, native.Uint64(b[56:]), carry)
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, native.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) >= 4 {
		acc, carry = bits.Add64(acc, uint64(native.Uint32(b)), carry)
		b = b[4:]
	}
	if len(b) >= 2 {
		acc, carry = bits.Add64(acc, uint64(native.Uint16(b)), carry)
		b = b[2:]
	}
	if len(b) > 0 {
		acc, carry = bits.Add64(acc, word(uint16(b[0])<<8), carry)
	}
	acc, carry = bits.Add64(acc, 0, carry)
	return acc + carry // which cannot overflow: where this carries, acc is 0
}

// copySum is sum, and copies b to dst, which has room for it.
func copySum(dst, b []byte, acc uint64) uint64 {
	n, acc := copyMost(dst, b, acc)
	copy(dst[n:], b[n:])
	return sum(b[n:], acc)
}

// word is a 16 bit value of a header as sum would add it.
func word(v uint16) uint64 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return uint64(native.Uint16(b[:]))
}

// fold makes 16 bits of a sum, in this machine's order.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc>>16 + acc)
}

// putChecksum writes the checksum of what was summed to acc.
func putChecksum(b []byte, acc uint64) { native.PutUint16(b, ^fold(acc)) }

// plus is acc and v, without loss of the carry.
func plus(acc, v uint64) uint64 {
	acc, carry := bits.Add64(acc, v, 0)
	return acc + carry
}
