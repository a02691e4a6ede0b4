package nft

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Set is a named set or map without its elements. Sets are comparable: what Sets reads is == to what AddSet made, as long
// as it is of the kinds that can be said here. It is a [podweft.Object].
type Set struct {
	Table    Table
	Name     string
	Key      Type
	Data     Type   // of a map's values; Verdict makes a verdict map; 0 is a plain set
	Interval bool   // elements are ranges of keys; those of a concatenation are ranges in each field (Linux 5.6)
	Flags    uint32 // NFT_SET flags beside those that the other fields imply; we make sets with none
}

// ID returns the set as nft names it: "set inet filter peers", "map inet filter ports".
func (s Set) ID() string { return s.word() + " " + s.path() }

// String adds its type: "set inet filter peers { type ipv4_addr; flags interval; }".
func (s Set) String() string {
	text := s.ID() + " { type " + s.Key.String()
	if s.Data != 0 {
		text += " : " + s.Data.String()
	}
	if s.Interval {
		text += "; flags interval"
	}
	if s.Flags != 0 {
		text += fmt.Sprintf("; flags %#x", s.Flags)
	}
	return text + "; }"
}

func (s Set) word() string {
	if s.Data != 0 {
		return "map"
	}
	return "set"
}

func (s Set) path() string { return s.Table.path() + " " + s.Name }

const (
	nftSetConcat      = 0x80 // NFT_SET_CONCAT, since 5.6; missing in x/sys, like the next two
	nftaSetDescConcat = 2    // NFTA_SET_DESC_CONCAT
	nftaSetFieldLen   = 1    // NFTA_SET_FIELD_LEN
)

// ranged reports whether elements carry first and last key in one (pipapo), not as two elements (rbtree).
func (s Set) ranged() bool { return s.Interval && len(s.Key.fields()) > 1 }

func (s Set) kernelFlags() uint32 {
	flags := s.Flags
	if s.Interval {
		flags |= unix.NFT_SET_INTERVAL
	}
	if s.ranged() {
		flags |= nftSetConcat
	}
	if s.Data != 0 {
		flags |= unix.NFT_SET_MAP
	}
	return flags
}

// byteOrder tells nft that keys are in network byte order: without it nft misreads ranges. It is libnftnl's user data,
// type NFTNL_UDATA_SET_KEYBYTEORDER with nftables' BYTEORDER_BIG_ENDIAN as a native u32.
func byteOrder() []byte { return native.AppendUint32([]byte{0, 4}, 2) }

// AddSet makes the set if it is missing. One that is there must not differ.
func (b *Batch) AddSet(s Set) {
	b.sets++
	id := b.sets
	b.request(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, s.Table.Family, "create", s, func(m *message) {
		m.str(unix.NFTA_SET_TABLE, s.Table.Name)
		m.str(unix.NFTA_SET_NAME, s.Name)
		m.u32(unix.NFTA_SET_ID, id) // must be there and unique in the batch, though we always go by the name
		m.u32(unix.NFTA_SET_FLAGS, s.kernelFlags())
		m.u32(unix.NFTA_SET_KEY_TYPE, uint32(s.Key))
		m.u32(unix.NFTA_SET_KEY_LEN, uint32(s.Key.length()))
		if s.Data != 0 {
			m.u32(unix.NFTA_SET_DATA_TYPE, uint32(s.Data))
		}
		if s.Data != 0 && s.Data != Verdict {
			m.u32(unix.NFTA_SET_DATA_LEN, uint32(s.Data.length()))
		}
		if s.ranged() {
			s.describe(m)
		}
		m.bytes(unix.NFTA_SET_USERDATA, byteOrder())
	})
}

// describe gives the length of each field, which the kernel needs to compare ranges field by field.
func (s Set) describe(m *message) {
	desc := m.open(unix.NFTA_SET_DESC)
	concat := m.open(nftaSetDescConcat)
	for _, f := range s.Key.fields() {
		field := m.open(unix.NFTA_LIST_ELEM)
		m.u32(nftaSetFieldLen, uint32(f.size()))
		m.close(field)
	}
	m.close(concat)
	m.close(desc)
}

// DeleteSet deletes the set with its elements. One that a rule uses is busy.
func (b *Batch) DeleteSet(s Set) {
	b.request(unix.NFT_MSG_DELSET, 0, s.Table.Family, "delete", s, func(m *message) {
		m.str(unix.NFTA_SET_TABLE, s.Table.Name)
		m.str(unix.NFTA_SET_NAME, s.Name)
	})
}

func parseSet(r reply) (Set, bool) {
	if !r.is(unix.NFT_MSG_NEWSET) {
		return Set{}, false
	}
	s := Set{Table: Table{Family: r.family()}}
	for a := range attrs(r.attrs()) {
		switch a.kind {
		case unix.NFTA_SET_TABLE:
			s.Table.Name = str(a.value)
		case unix.NFTA_SET_NAME:
			s.Name = str(a.value)
		case unix.NFTA_SET_KEY_TYPE:
			s.Key = Type(u32(a.value))
		case unix.NFTA_SET_DATA_TYPE:
			s.Data = Type(u32(a.value))
		case unix.NFTA_SET_FLAGS:
			s.Flags = u32(a.value)
		}
	}
	s.Interval = s.Flags&unix.NFT_SET_INTERVAL != 0
	s.Flags &^= unix.NFT_SET_INTERVAL | unix.NFT_SET_MAP | nftSetConcat
	return s, true
}
