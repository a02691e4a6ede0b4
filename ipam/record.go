package ipam

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// What a record is.
const (
	held    = 1 // somebody's allocation, chained to its bucket
	cooling = 2 // released and kept back for the grace, in the queue
	unused  = 3 // on the list of free slots
)

// record is one slot: an owner and its addresses. One record is one allocation, so that dual-stack cannot be half done.
type record struct {
	state byte
	next  uint32 // the slot that follows on its chain, queue or list
	born  uint64 // the change that made it; no two allocations of a file share it
	until uint64 // cooling: when it may be given again, by the clock of the boot in nanoseconds
	Allocation
}

func (r *record) encode(b *block) {
	*b = block{}
	p := append(b[:0], r.state, byte(len(r.Addresses)))
	p = binary.LittleEndian.AppendUint32(p, r.next)
	p = binary.LittleEndian.AppendUint64(p, r.born)
	p = binary.LittleEndian.AppendUint64(p, r.until)
	p = binary.LittleEndian.AppendUint64(p, uint64(r.Since.UnixNano()))
	fields := [...]string{r.Owner.Network, r.Owner.Container, r.Owner.Interface}
	for _, text := range fields {
		p = binary.LittleEndian.AppendUint16(p, uint16(len(text)))
	}
	for _, text := range fields {
		p = append(p, text...)
	}
	for _, a := range r.Addresses {
		p = append(p, byte(a.Prefix.Addr().BitLen()), byte(a.Prefix.Bits()))
		p = appendAddr(p, a.Prefix.Addr())
		p = appendAddr(p, a.Gateway)
	}
}

// decodeRecord reads a slot; ok is false for anything that encode did not write.
func decodeRecord(b *block) (rec record, ok bool) {
	r := reader{left: b.payload()}
	rec.state = r.byte()
	n := int(r.byte())
	rec.next, rec.born, rec.until = r.uint32(), r.uint64(), r.uint64()
	rec.Since = time.Unix(0, int64(r.uint64()))
	network, container, iface := int(r.uint16()), int(r.uint16()), int(r.uint16())
	text := string(r.take(network + container + iface))
	rec.Owner = Owner{text[:network], text[network : network+container], text[network+container:]}
	if rec.state < held || rec.state > unused || n > maxSets {
		return rec, false
	}
	rec.Addresses = make([]Address, n)
	for i := range rec.Addresses {
		family, length := r.byte(), r.byte()
		a := Address{Prefix: netip.PrefixFrom(r.addr(family), int(length)), Gateway: r.gateway(family)}
		if !a.Prefix.IsValid() {
			return rec, false
		}
		rec.Addresses[i] = a
	}
	return rec, !r.short
}

// nextAt is where the next of a record stands in its block.
const nextAt = 2

func setNext(b *block, slot uint32) { binary.LittleEndian.PutUint32(b[nextAt:], slot) }
