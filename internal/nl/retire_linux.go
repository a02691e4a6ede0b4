package nl

import (
	"crypto/rand"
	"encoding/hex"
	"hash/fnv"

	"golang.org/x/sys/unix"
)

// Whoever deletes a link waits some 20 ms for the kernel, for one as long as for hundreds. So a link can be retired at once,
// and deleted later together with others.

// Graveyard is the group of the retired links of an owner, named by the alias that marks them. People number groups from 0.
func Graveyard(alias string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte("graveyard of " + alias)) // never fails: package hash
	return h.Sum32() | 1<<31
}

// Retire adds requests to take the link out of use: it is brought down, and gets another name, so that its own is free, an
// alias that begins with its owner's, and the owner's Graveyard as its group, which DeleteGroup empties. It keeps its place
// in a bridge, since leaving one is what takes time.
func (b *Batch) Retire(index int, owner string) {
	b.SetUp(index, false) // first: kernels before 6.2 rename nothing that is up
	b.link(0, index, 0, 0, func(m *message) {
		m.str(unix.IFLA_IFNAME, retiredName())
		m.bytes(unix.IFLA_IFALIAS, []byte(RetiredAlias(owner)))
		m.u32(unix.IFLA_GROUP, Graveyard(owner))
	})
}

// RetiredAlias is what an owner's retired links bear.
func RetiredAlias(owner string) string { return owner + "/retired" }

// retiredName is as long as a link's name may be.
func retiredName() string {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand's documentation
	return "gone" + hex.EncodeToString(b[:])[:unix.IFNAMSIZ-1-len("gone")]
}
