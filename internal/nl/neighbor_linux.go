package nl

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// ARP/NDP entries and FDB entries travel in the same message and are easily confused. A neighbour says which MAC an
// address on the link has. A forwarding entry (FDB) says behind which underlay address a VXLAN device finds a MAC.

// NeighborKey is the place of one neighbour entry.
type NeighborKey struct {
	Link int
	Addr netip.Addr
}

// Neighbor is a permanent ARP (IPv4) or NDP (IPv6) entry. Permanent ones are outside the table's garbage collection
// limits (net.ipv4.neigh.default.gc_thresh*).
type Neighbor struct {
	NeighborKey
	MAC podweft.MAC
}

// ForwardKey is the place of one forwarding entry. A device may have several entries for one MAC, one per destination.
type ForwardKey struct {
	Link int
	MAC  podweft.MAC
}

// Forward is a permanent forwarding entry of a VXLAN device itself (`bridge fdb ... self`).
type Forward struct {
	ForwardKey
	To netip.Addr
	Detour
}

// Detour is what a forwarding entry says otherwise than its device: frames that take one usually end where nobody listens. Its
// zero value is none. We write no detours, but other programs may, and they are taken off again by name.
type Detour struct {
	Port     uint16
	VNI      uint32
	Underlay int    // index of the link that the outer packets leave by
	Nexthop  uint32 // id of a group that stands for the destination (`bridge fdb ... nhid`)
}

// Format writes the entry as `bridge fdb` does; dev is the link's name, as in Route.Format.
func (f Forward) Format(dev string) string {
	text := fmt.Sprintf("fdb %s dev %s", f.MAC, dev)
	if f.To.IsValid() {
		text += fmt.Sprintf(" dst %s", f.To)
	}
	if f.Port != 0 {
		text += fmt.Sprintf(" port %d", f.Port)
	}
	if f.VNI != 0 {
		text += fmt.Sprintf(" vni %d", f.VNI)
	}
	if f.Underlay != 0 {
		text += fmt.Sprintf(" via link %d", f.Underlay)
	}
	if f.Nexthop != 0 {
		text += fmt.Sprintf(" nhid %d", f.Nexthop)
	}
	return text + " self permanent"
}

const (
	sizeofNdMsg  = 12
	ndaNexthopID = 13 // NDA_NH_ID of linux/neighbour.h, which x/sys/unix lacks
)

// SetNeighbor adds a request to create or replace a permanent neighbour.
func (b *Batch) SetNeighbor(n Neighbor) {
	m := b.begin(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	m.ndmsg(family(n.Addr), n.Link, unix.NUD_PERMANENT, 0)
	m.addr(unix.NDA_DST, n.Addr)
	m.hardware(n.MAC)
	m.finish()
}

// DeleteNeighbor adds a request to delete a neighbour.
func (b *Batch) DeleteNeighbor(k NeighborKey) {
	m := b.begin(unix.RTM_DELNEIGH, 0)
	m.ndmsg(family(k.Addr), k.Link, 0, 0)
	m.addr(unix.NDA_DST, k.Addr)
	m.finish()
}

// SetForward adds a request to create a permanent forwarding entry, or to replace the one its MAC has. One through a nexthop
// group must be deleted first: vxlan_fdb_replace in drivers/net/vxlan/vxlan_core.c finds no destination there to replace, and
// says that all is well.
func (b *Batch) SetForward(f Forward) {
	m := b.begin(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	m.ndmsg(unix.AF_BRIDGE, f.Link, unix.NUD_PERMANENT|unix.NUD_NOARP, unix.NTF_SELF)
	m.forward(f)
	m.finish()
}

// DeleteForward adds a request to delete the forwarding entry of a MAC to one destination.
func (b *Batch) DeleteForward(f Forward) {
	m := b.begin(unix.RTM_DELNEIGH, 0)
	m.ndmsg(unix.AF_BRIDGE, f.Link, 0, unix.NTF_SELF)
	m.forward(f)
	m.finish()
}

// forward writes the attributes by which the kernel tells destinations of one MAC apart (vxlan_fdb_find_rdst).
func (m *message) forward(f Forward) {
	m.hardware(f.MAC)
	if f.To.IsValid() {
		m.addr(unix.NDA_DST, f.To)
	}
	if f.Port != 0 {
		m.bytes(unix.NDA_PORT, binary.BigEndian.AppendUint16(nil, f.Port))
	}
	if f.VNI != 0 {
		m.u32(unix.NDA_VNI, f.VNI)
	}
	if f.Underlay != 0 {
		m.u32(unix.NDA_IFINDEX, uint32(f.Underlay))
	}
	if f.Nexthop != 0 {
		m.u32(ndaNexthopID, f.Nexthop)
	}
}

func (m *message) ndmsg(family uint8, link int, state uint16, flags uint8) {
	m.fixed(family, 0, 0, 0)
	m.buf = native.AppendUint32(m.buf, uint32(link))
	m.buf = native.AppendUint16(m.buf, state)
	m.fixed(flags, 0)
}

// Neighbors calls each for every permanent neighbour of the link with that index, or of all links when it is 0, both families.
// restart is called before each listing, as in Routes.
func (c *Conn) Neighbors(ctx context.Context, link int, restart func(), each func(Neighbor)) error {
	request := func(m *message) {
		m.ndmsg(unix.AF_UNSPEC, 0, 0, 0)
		if link != 0 {
			m.u32(unix.NDA_IFINDEX, uint32(link))
		}
	}
	return wrapList("neighbours", c.dump(ctx, unix.RTM_GETNEIGH, request, restart, func(body []byte) {
		if e, ok := parseNeighbor(body); ok && e.family != unix.AF_BRIDGE && (link == 0 || e.link == link) && e.permanent() {
			each(e.neighbor())
		}
	}))
}

// Forwards calls each for every permanent forwarding entry of the VXLAN device itself. restart is called before each
// listing, as in Routes.
func (c *Conn) Forwards(ctx context.Context, link int, restart func(), each func(Forward)) error {
	request := func(m *message) { m.ndmsg(unix.AF_BRIDGE, link, 0, 0) }
	return wrapList("forwarding entries", c.dump(ctx, unix.RTM_GETNEIGH, request, restart, func(body []byte) {
		if e, ok := parseNeighbor(body); ok && e.family == unix.AF_BRIDGE && e.link == link && e.permanent() {
			each(e.forward())
		}
	}))
}

// ndEntry is a decoded neighbour message of either sort.
type ndEntry struct {
	family uint8
	link   int
	state  uint16
	flags  uint8
	dst    netip.Addr
	mac    podweft.MAC
	detour Detour
	// whole: it comes from whoever keeps the entry. Older kernels, such as 6.1, announce each change of a forwarding entry
	// once more, in a summary without its destination (rtnl_fdb_notify in net/core/rtnetlink.c).
	whole bool
}

func (e ndEntry) permanent() bool { return e.state&unix.NUD_PERMANENT != 0 }

func (e ndEntry) neighbor() Neighbor { return Neighbor{NeighborKey{e.link, e.dst}, e.mac} }

func (e ndEntry) forward() Forward { return Forward{ForwardKey{e.link, e.mac}, e.dst, e.detour} }

func parseNeighbor(body []byte) (e ndEntry, ok bool) {
	if len(body) < sizeofNdMsg {
		return e, false
	}
	e.family = body[0]
	e.link = int(int32(native.Uint32(body[4:])))
	e.state = native.Uint16(body[8:])
	e.flags = body[10]
	attrs(body[sizeofNdMsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.NDA_DST:
			e.dst = asAddr(v)
		case unix.NDA_LLADDR:
			if len(v) == len(e.mac) {
				e.mac = podweft.MAC(v)
			}
		case unix.NDA_CACHEINFO:
			e.whole = true
		case unix.NDA_PORT:
			if len(v) == 2 {
				e.detour.Port = binary.BigEndian.Uint16(v)
			}
		case unix.NDA_VNI:
			e.detour.VNI = asU32(v)
		case unix.NDA_IFINDEX:
			e.detour.Underlay = int(asU32(v))
		case ndaNexthopID:
			e.detour.Nexthop = asU32(v)
		}
	})
	return e, true
}
