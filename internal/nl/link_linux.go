package nl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// ErrNoLink: there is no link of that name or index.
var ErrNoLink = errors.New("no such link")

// Link is a network device as it is, or as a request wants it.
type Link struct {
	Index  int
	Name   string
	Alias  string
	Kind   string // "vxlan", "bridge", "veth"; empty for hardware
	MAC    podweft.MAC
	MTU    int // bytes
	Up     bool
	Master int // index of the bridge it is a port of
	Group  uint32
	// Operational: it is up, has a carrier, and the kernel has acted on that, which it does from a work queue. Until then
	// frames sent through it are dropped. Never so for lo.
	Operational bool
	VXLAN       VXLAN    // when Kind is "vxlan"
	Pair        int      // index of the other end, when Kind is "veth"
	IPv4        IPv4Conf // when Kind is "veth"
}

// VXLAN is what is particular to a VTEP.
type VXLAN struct {
	VNI      uint32
	Port     uint16
	Local    netip.Addr // source of the outer packets; its family is the underlay's
	Underlay int        // index of the link the outer packets leave by
	Learning bool
	GBP      bool
	Checksum bool // of the outer UDP packets sent
}

// Link returns the link of that name, which may be another name that it has; the error is ErrNoLink when there is none.
func (c *Conn) Link(name string) (Link, error) { return c.named(context.Background(), name, nil) }

// LinkAt returns the link with that index; the error is ErrNoLink when there is none.
func (c *Conn) LinkAt(index int) (Link, error) {
	return c.link(context.Background(), fmt.Sprintf("with index %d", index), func(m *message) { m.ifinfomsg(index, 0, 0) }, nil)
}

// named asks for a link by its name.
func (c *Conn) named(ctx context.Context, name string, more func(l vnl.Link, body []byte)) (Link, error) {
	return c.link(ctx, name, func(m *message) { m.byName(name) }, more)
}

func (m *message) byName(name string) {
	m.ifinfomsg(0, 0, 0)
	if len(name) < unix.IFNAMSIZ {
		m.str(unix.IFLA_IFNAME, name)
	} else {
		m.str(unix.IFLA_ALT_IFNAME, name)
	}
}

// link asks for one link, of which more, unless it is nil, learns the rest. What it is given lies in the socket's buffer, in which
// the next answer may stand as soon as it returns.
func (c *Conn) link(ctx context.Context, name string, which func(m *message), more func(l vnl.Link, body []byte)) (link Link, err error) {
	request := func(m *message) {
		which(m)
		m.u32(unix.IFLA_EXT_MASK, rtextFilterSkipStats)
	}
	failure := error(unix.ENODEV) // until there is an answer
	err = c.get(ctx, unix.RTM_GETLINK, request, func(body []byte) {
		var l vnl.Link
		if l, failure = vnl.LinkDeserialize(nil, body); failure != nil {
			return
		}
		link = fromVNL(l, body)
		if more != nil {
			more(l, body)
		}
	})
	if err = cmp.Or(err, failure); errors.Is(err, unix.ENODEV) {
		err = ErrNoLink
	}
	if err != nil {
		return Link{}, &podweft.OpError{Op: "find", Object: podweft.Named("link " + name), Err: err}
	}
	return link, nil
}

// Links lists all links.
func (c *Conn) Links() ([]Link, error) {
	links, err := c.dumpLinks(context.Background(), func(*message) {}, func(Link) bool { return true })
	return links, wrapList("links", err)
}

// LinksOfKind lists the links of one kind; the others, such as a node's hundreds of veths, cost next to nothing.
func (c *Conn) LinksOfKind(ctx context.Context, kind string) ([]Link, error) {
	filter := func(m *message) {
		m.nest(unix.IFLA_LINKINFO, func() { m.str(iflaInfoKind, kind) })
	}
	// The filter is a wish that old kernels ignore.
	links, err := c.dumpLinks(ctx, filter, func(l Link) bool { return l.Kind == kind })
	return links, wrapList(kind+" links", err)
}

func (c *Conn) dumpLinks(ctx context.Context, filter func(*message), keep func(Link) bool) ([]Link, error) {
	request := func(m *message) {
		m.ifinfomsg(0, 0, 0)
		m.u32(unix.IFLA_EXT_MASK, rtextFilterSkipStats)
		filter(m)
	}
	var links []Link
	var failure error
	err := c.dump(ctx, unix.RTM_GETLINK, request, func() { links = links[:0] }, func(body []byte) {
		l, err := vnl.LinkDeserialize(nil, body)
		if err != nil {
			failure = err
			return
		}
		if found := fromVNL(l, body); keep(found) {
			links = append(links, found)
		}
	})
	return links, cmp.Or(err, failure)
}

func fromVNL(l vnl.Link, body []byte) Link {
	a := l.Attrs()
	link := Link{
		Index: a.Index, Name: a.Name, Alias: a.Alias, MTU: a.MTU, Master: a.MasterIndex, Group: a.Group,
		Up: a.Flags&unix.IFF_UP != 0, Operational: a.OperState == vnl.OperUp,
	}
	if len(a.HardwareAddr) == len(link.MAC) {
		link.MAC = podweft.MAC(a.HardwareAddr)
	}
	switch kind := l.Type(); kind {
	case "device":
	case "tuntap":
		link.Kind = "tun" // the kernel's word
	default:
		link.Kind = kind
	}
	switch v := l.(type) {
	case *vnl.Vxlan:
		link.VXLAN = VXLAN{VNI: uint32(v.VxlanId), Port: uint16(v.Port), Underlay: v.VtepDevIndex, Learning: v.Learning, GBP: v.GBP}
		local, _ := netip.AddrFromSlice(v.SrcAddr)
		link.VXLAN.Local = local.Unmap()
		link.VXLAN.Checksum = v.UDPCSum
		if link.VXLAN.Local.Is6() {
			link.VXLAN.Checksum = !v.UDP6ZeroCSumTx
		}
	case *vnl.Veth:
		link.Pair, link.IPv4 = a.ParentIndex, parseIPv4Conf(body)
	}
	return link
}

// Attributes of linux/if_link.h that x/sys/unix lacks.
const (
	iflaInfoKind = 1
	iflaInfoData = 2

	rtextFilterSkipStats = 1 << 3
	in6AddrGenModeNone   = 1

	vethInfoPeer = 1

	iflaVXLANID          = 1
	iflaVXLANLink        = 3
	iflaVXLANLocal       = 4
	iflaVXLANLearning    = 7
	iflaVXLANPort        = 15
	iflaVXLANLocal6      = 17
	iflaVXLANUDPCsum     = 18
	iflaVXLANZeroCsum6Tx = 19
	iflaVXLANGBP         = 23
)

// AddVXLAN adds requests to create the VTEP l, to give it what a link can only be given when it exists (see Mark), and to
// bring it up. The first fails with EEXIST when the name, or the VNI with the port, is taken.
func (b *Batch) AddVXLAN(l Link) {
	b.link(unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, 0, 0, func(m *message) {
		m.str(unix.IFLA_IFNAME, l.Name)
		m.linkAttrs(l)
		m.nest(unix.IFLA_LINKINFO, func() { m.vxlanInfo(l.VXLAN, true) })
	})
	b.Mark(l)
}

// ChangeVXLAN adds a request to give the VTEP with l's index the attributes that the kernel can change in place
// (vxlan_changelink in drivers/net/vxlan): local address, underlay link, learning. The VNI, the port, GBP and the checksum
// setting cannot be changed.
func (b *Batch) ChangeVXLAN(l Link) {
	b.link(0, l.Index, 0, 0, func(m *message) {
		m.nest(unix.IFLA_LINKINFO, func() { m.vxlanInfo(l.VXLAN, false) })
	})
}

func (m *message) vxlanInfo(v VXLAN, create bool) {
	m.str(iflaInfoKind, "vxlan")
	m.nest(iflaInfoData, func() {
		m.u32(iflaVXLANID, v.VNI)
		m.u32(iflaVXLANLink, uint32(v.Underlay))
		if v.Local.Is4() {
			m.addr(iflaVXLANLocal, v.Local)
		} else {
			m.addr(iflaVXLANLocal6, v.Local)
		}
		m.u8(iflaVXLANLearning, bit(v.Learning))
		if !create {
			return
		}
		m.bytes(iflaVXLANPort, []byte{byte(v.Port >> 8), byte(v.Port)})
		// Said for both families: without the attribute the kernel chooses, and not alike for both.
		m.u8(iflaVXLANUDPCsum, bit(v.Checksum && v.Local.Is4()))
		m.u8(iflaVXLANZeroCsum6Tx, bit(!v.Checksum && v.Local.Is6()))
		if v.GBP {
			m.flag(iflaVXLANGBP)
		}
	})
}

func bit(v bool) uint8 {
	if v {
		return 1
	}
	return 0
}

// AddBridge adds requests to create a bridge, as AddVXLAN does for a VTEP.
func (b *Batch) AddBridge(l Link) {
	b.CreateBridge(l)
	b.Mark(l)
}

// CreateBridge adds a request to create a bridge, down and without an alias; it fails with EEXIST when the name is taken.
func (b *Batch) CreateBridge(l Link) {
	b.link(unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, 0, 0, func(m *message) {
		m.str(unix.IFLA_IFNAME, l.Name)
		m.linkAttrs(l)
		m.nest(unix.IFLA_LINKINFO, func() { m.str(iflaInfoKind, "bridge") })
	})
}

// AddVeth adds requests to create a veth pair: host, up and a port of host.Master where that is set, as AddVXLAN does for
// a VTEP, and peer, down, born in the namespace that the descriptor peerNetNS names. A peer that is moved there later
// costs some 25 times more.
func (b *Batch) AddVeth(host, peer Link, peerNetNS int) {
	b.CreateVeth(host, peer, peerNetNS)
	b.Mark(host)
}

// CreateVeth adds a request to create a veth pair as AddVeth does, with host down and without an alias. It fails with
// EEXIST when one of the names is taken. The kernel chooses the indexes; host's Pair tells peer's.
//
// The pair is born with one queue each way, which is all that passes packets anyway: unasked, the kernel makes one for each
// processor that there might ever be, and once the links are there it takes all but the first away again, for which it waits
// until no processor looks at them any more (veth_init_queues in drivers/net/veth.c, since 5.15).
func (b *Batch) CreateVeth(host, peer Link, peerNetNS int) {
	b.link(unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, 0, 0, func(m *message) {
		m.str(unix.IFLA_IFNAME, host.Name)
		m.linkAttrs(host)
		m.oneQueue()
		if host.Master != 0 {
			m.u32(unix.IFLA_MASTER, uint32(host.Master))
		}
		m.nest(unix.IFLA_LINKINFO, func() {
			m.str(iflaInfoKind, "veth")
			m.nest(iflaInfoData, func() {
				m.nest(vethInfoPeer, func() {
					// The peer cannot be born up (ENOTCONN): its end is not joined yet.
					m.ifinfomsg(0, 0, 0)
					m.str(unix.IFLA_IFNAME, peer.Name)
					m.linkAttrs(peer)
					m.oneQueue()
					m.u32(unix.IFLA_NET_NS_FD, uint32(peerNetNS))
				})
			})
		})
	})
}

func (m *message) oneQueue() {
	m.u32(unix.IFLA_NUM_TX_QUEUES, 1)
	m.u32(unix.IFLA_NUM_RX_QUEUES, 1)
}

// Mark adds requests to give the link of l's name what is ignored at creation: its alias, and no automatic link-local
// address, since nothing here needs one and its duplicate address detection would go over the overlay. Then it brings the
// link up: a request of its own, for the kernel does that first (do_setlink in net/core/rtnetlink.c), with the address.
//
// Where the name may turn out to be another program's, create first and mark when that has succeeded: within one batch,
// a creation that fails does not keep the rest from being carried out.
func (b *Batch) Mark(l Link) {
	b.link(0, 0, 0, 0, func(m *message) {
		m.str(unix.IFLA_IFNAME, l.Name)
		m.nest(unix.IFLA_AF_SPEC, func() {
			m.nest(unix.AF_INET6, func() { m.u8(unix.IFLA_INET6_ADDR_GEN_MODE, in6AddrGenModeNone) })
		})
	})
	b.tolerate(unix.EAFNOSUPPORT) // without IPv6: the kernel has none, or not for an MTU below 1280
	b.link(0, 0, unix.IFF_UP, unix.IFF_UP, func(m *message) {
		m.str(unix.IFLA_IFNAME, l.Name)
		m.bytes(unix.IFLA_IFALIAS, []byte(l.Alias))
	})
}

// linkAttrs writes what every kind of link may be created with.
func (m *message) linkAttrs(l Link) {
	if !l.MAC.IsZero() {
		m.bytes(unix.IFLA_ADDRESS, l.MAC[:])
	}
	if l.MTU != 0 {
		m.u32(unix.IFLA_MTU, uint32(l.MTU))
	}
	if l.Group != 0 {
		m.u32(unix.IFLA_GROUP, l.Group)
	}
}

// SetUp adds a request to bring the link up or down.
func (b *Batch) SetUp(index int, up bool) {
	var flags uint32
	if up {
		flags = unix.IFF_UP
	}
	b.link(0, index, flags, unix.IFF_UP, func(*message) {})
}

// SetMAC adds a request to change the link's Ethernet address.
func (b *Batch) SetMAC(index int, mac podweft.MAC) {
	b.link(0, index, 0, 0, func(m *message) { m.bytes(unix.IFLA_ADDRESS, mac[:]) })
}

// SetMTU adds a request to change the link's MTU, in bytes.
func (b *Batch) SetMTU(index, mtu int) {
	b.link(0, index, 0, 0, func(m *message) { m.u32(unix.IFLA_MTU, uint32(mtu)) })
}

// SetMaster adds a request to make the link a port of the bridge with the index master; 0 takes it out.
func (b *Batch) SetMaster(index, master int) {
	b.link(0, index, 0, 0, func(m *message) { m.u32(unix.IFLA_MASTER, uint32(master)) })
}

// DeleteLink adds a request to delete the link. The kernel then waits about 20 ms (rcu_barrier).
func (b *Batch) DeleteLink(index int) {
	b.add(unix.RTM_DELLINK, 0, func(m *message) { m.ifinfomsg(index, 0, 0) })
}

// SetGroup adds a request to put the link into a group, which DeleteGroup deletes at once.
func (b *Batch) SetGroup(index int, group uint32) {
	b.link(0, index, 0, 0, func(m *message) { m.u32(unix.IFLA_GROUP, group) })
}

// DeleteGroup adds a request to delete all links of a group. The kernel waits once for all of them. It fails with ENODEV
// when the group is empty, and with EOPNOTSUPP, without deleting any, when a link in it cannot be deleted.
func (b *Batch) DeleteGroup(group uint32) {
	b.add(unix.RTM_DELLINK, 0, func(m *message) {
		m.ifinfomsg(0, 0, 0)
		m.u32(unix.IFLA_GROUP, group)
	})
}

func (b *Batch) link(nlFlags uint16, index int, flags, change uint32, body func(m *message)) {
	b.add(unix.RTM_NEWLINK, nlFlags, func(m *message) {
		m.ifinfomsg(index, flags, change)
		body(m)
	})
}

func (m *message) ifinfomsg(index int, flags, change uint32) {
	m.fixed(unix.AF_UNSPEC, 0, 0, 0)
	m.buf = native.AppendUint32(m.buf, uint32(index))
	m.buf = native.AppendUint32(m.buf, flags)
	m.buf = native.AppendUint32(m.buf, change)
}
