package nft

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// Family is what kind of packets a table sees.
type Family uint8

// The families of tables. INet tables see IPv4 and IPv6; Bridge tables see frames between ports of bridges.
const (
	INet   Family = unix.NFPROTO_INET
	IPv4   Family = unix.NFPROTO_IPV4
	IPv6   Family = unix.NFPROTO_IPV6
	Bridge Family = unix.NFPROTO_BRIDGE
)

// String returns the family's name in nft's language.
func (f Family) String() string {
	switch f {
	case INet:
		return "inet"
	case IPv4:
		return "ip"
	case IPv6:
		return "ip6"
	case Bridge:
		return "bridge"
	}
	return fmt.Sprintf("family %d", uint8(f))
}

// Table names a table. It is a [podweft.Object].
type Table struct {
	Family Family
	Name   string
}

// ID returns the table as nft names it: "table inet filter".
func (t Table) ID() string { return "table " + t.path() }

// String is ID: a table has nothing else.
func (t Table) String() string { return t.ID() }

func (t Table) path() string { return t.Family.String() + " " + t.Name }

// TableFlags are a table's flags, linux/netfilter/nf_tables.h enum nft_table_flags.
type TableFlags uint32

// Dormant tables see no packets. Owned ones (since Linux 5.12) may be changed by one socket alone: everybody else gets EPERM, or for
// a flush of all tables, is told nothing and leaves them out. They go when that socket closes, unless they Persist (since 6.9):
// then they are orphans, which anybody may change, and which the socket owns that next sets the flag of owners.
//
// No other table can be given an owner, and Persist neither come nor go, without making it anew (EOPNOTSUPP, nf_tables_updtable in
// net/netfilter/nf_tables_api.c).
const (
	Dormant TableFlags = 1
	Owned   TableFlags = 2
	Persist TableFlags = 4
)

// String lists the flags as nft does: "dormant, owner".
func (f TableFlags) String() string {
	var names []string
	for _, flag := range []struct {
		bit  TableFlags
		name string
	}{{Dormant, "dormant"}, {Owned, "owner"}, {Persist, "persist"}} {
		if f&flag.bit != 0 {
			names = append(names, flag.name)
			f &^= flag.bit
		}
	}
	if f != 0 {
		names = append(names, fmt.Sprintf("%#x", uint32(f)))
	}
	return strings.Join(names, ", ")
}

// TableInfo is a table as the kernel has it.
type TableInfo struct {
	Table
	Flags TableFlags
	Owner uint32 // port of the netlink socket that owns the table; 0 is none
}

// Orphan reports whether the table had an owner that has gone.
func (t TableInfo) Orphan() bool { return t.Flags&(Owned|Persist) == Persist }

// Owns reports whether the table is this socket's own.
func (c *Conn) Owns(t TableInfo) bool { return t.Flags&Owned != 0 && t.Owner == c.port }

// OwnedByOther is the only change of a plan for a table of ours that another process has made its own. It reads unlike the table
// that we make once that process has let go, so that a loop which backs off from the one tries the other at once.
func OwnedByOther(t TableInfo) podweft.Change {
	return podweft.Change{Op: podweft.Update, Object: ownedTable{t.Table}, Err: &podweft.OpError{
		Op: "update", Object: t.Table, Err: fmt.Errorf("%w: netlink port %d owns the table: end that program first", podweft.ErrConflict, t.Owner),
	}}
}

// ownedTable is a table while another process owns it.
type ownedTable struct{ Table }

func (t ownedTable) String() string { return t.ID() + " { flags owner; }" }

const nftaTableOwner = 7 // NFTA_TABLE_OWNER, since 5.12; missing in x/sys

// AddTable makes the table if it is missing, else gives it these flags.
func (b *Batch) AddTable(t Table, flags TableFlags) {
	b.request(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, t.Family, "create", t, func(m *message) {
		m.str(unix.NFTA_TABLE_NAME, t.Name)
		m.u32(unix.NFTA_TABLE_FLAGS, uint32(flags))
	})
}

// CreateTable makes the table and fails with EEXIST if it is there.
func (b *Batch) CreateTable(t Table) {
	b.request(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, t.Family, "create", t, func(m *message) {
		m.str(unix.NFTA_TABLE_NAME, t.Name)
		m.u32(unix.NFTA_TABLE_FLAGS, 0)
	})
}

// DeleteTable deletes the table with everything in it.
func (b *Batch) DeleteTable(t Table) {
	b.request(unix.NFT_MSG_DELTABLE, 0, t.Family, "delete", t, func(m *message) {
		m.str(unix.NFTA_TABLE_NAME, t.Name)
	})
}

func parseTable(r reply) (TableInfo, bool) {
	if !r.is(unix.NFT_MSG_NEWTABLE) {
		return TableInfo{}, false
	}
	t := TableInfo{Table: Table{Family: r.family()}}
	for a := range attrs(r.attrs()) {
		switch a.kind {
		case unix.NFTA_TABLE_NAME:
			t.Name = str(a.value)
		case unix.NFTA_TABLE_FLAGS:
			t.Flags = TableFlags(u32(a.value))
		case nftaTableOwner:
			t.Owner = u32(a.value)
		}
	}
	return t, true
}
