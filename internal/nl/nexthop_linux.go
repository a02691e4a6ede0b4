package nl

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// Nexthop is a nexthop object: a gateway that routes name by id. It spares IPv4 the quadratic cost of many gateways on
// one device: fib_info_hashfn in net/ipv4/fib_semantics.c hashes a route's device but not its gateway, while routes
// through nexthop objects hash the id.
type Nexthop struct {
	ID       uint32
	Protocol uint8
	Gateway  netip.Addr // the unspecified address of its family when there is none: everybody is on the link
	Link     int
	Onlink   bool
	// Source, where valid, makes the nexthop wrap packets itself, into an IPv6 header from Source to Gateway, for Link to send:
	// an External tunnel. Gateway is then not looked for on Link.
	Source netip.Addr
}

// Attributes of linux/nexthop.h.
const (
	nhaID        = 1
	nhaOIF       = 5
	nhaGateway   = 6
	nhaEncapType = 7
	nhaEncap     = 8
)

// Of linux/lwtunnel.h.
const (
	lwtunnelEncapIP6 = 4
	lwtunnelIP6Dst   = 2
	lwtunnelIP6Src   = 3
)

// AddNexthop adds a request to create nh; it fails with EEXIST when the id is taken.
func (b *Batch) AddNexthop(nh Nexthop) {
	m := b.begin(unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	var nhFlags uint32
	if nh.Onlink {
		nhFlags = unix.RTNH_F_ONLINK
	}
	m.fixed(family(nh.Gateway), 0, nh.Protocol, 0)
	m.buf = native.AppendUint32(m.buf, nhFlags)
	m.u32(nhaID, nh.ID)
	m.u32(nhaOIF, uint32(nh.Link))
	switch {
	case nh.Source.IsValid():
		m.u16(nhaEncapType, lwtunnelEncapIP6)
		m.nest(nhaEncap, func() {
			m.addr(lwtunnelIP6Dst, nh.Gateway)
			m.addr(lwtunnelIP6Src, nh.Source)
		})
	case !nh.Gateway.IsUnspecified():
		m.addr(nhaGateway, nh.Gateway)
	}
	m.finish()
}

// DeleteNexthop adds a request to delete the nexthop with the id. The kernel deletes the routes that still use it.
func (b *Batch) DeleteNexthop(id uint32) {
	m := b.begin(unix.RTM_DELNEXTHOP, 0)
	m.fixed(0, 0, 0, 0, 0, 0, 0, 0)
	m.u32(nhaID, id)
	m.finish()
}

// Nexthops calls each for every nexthop object with one gateway, whoever made it; groups and blackholes come with their id
// and protocol alone. restart is called before each listing, as in Routes. The error is [podweft.ErrNotSupported] on
// kernels before 5.3.
func (c *Conn) Nexthops(ctx context.Context, restart func(), each func(Nexthop)) error {
	request := func(m *message) { m.fixed(0, 0, 0, 0, 0, 0, 0, 0) }
	err := c.dump(ctx, unix.RTM_GETNEXTHOP, request, restart, func(body []byte) {
		if nh, ok := parseNexthop(body); ok {
			each(nh)
		}
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = fmt.Errorf("%w: %w", podweft.ErrNotSupported, err)
	}
	return wrapList("nexthops", err)
}

func parseNexthop(body []byte) (nh Nexthop, ok bool) {
	if len(body) < sizeofNexthopMsg {
		return nh, false
	}
	nh.Protocol = body[2]
	nh.Onlink = native.Uint32(body[4:])&unix.RTNH_F_ONLINK != 0
	var direct netip.Addr
	switch body[0] {
	case unix.AF_INET:
		direct = netip.IPv4Unspecified()
	case unix.AF_INET6:
		direct = netip.IPv6Unspecified()
	}
	attrs(body[sizeofNexthopMsg:], func(kind uint16, v []byte) {
		switch kind {
		case nhaID:
			nh.ID = asU32(v)
		case nhaOIF:
			nh.Link = int(asU32(v))
		case nhaGateway:
			nh.Gateway = asAddr(v)
		case nhaEncap:
			nh.Gateway, nh.Source = parseEncap(v)
		}
	})
	if !nh.Gateway.IsValid() && nh.Link != 0 {
		nh.Gateway = direct
	}
	return nh, nh.ID != 0
}

// parseEncap decodes the addresses of an outer IPv6 header. What other kinds of encapsulation have in their place does no harm:
// their nexthops are others'.
func parseEncap(b []byte) (to, from netip.Addr) {
	attrs(b, func(kind uint16, v []byte) {
		switch kind {
		case lwtunnelIP6Dst:
			to = asAddr(v)
		case lwtunnelIP6Src:
			from = asAddr(v)
		}
	})
	return to, from
}

// Format writes the nexthop as `ip nexthop` does; dev is the link's name, as in Route.Format.
func (nh Nexthop) Format(dev string) string {
	if nh.Source.IsValid() {
		return fmt.Sprintf("nexthop %d encap ip6 src %s dst %s dev %s", nh.ID, nh.Source, nh.Gateway, dev)
	}
	text := fmt.Sprintf("nexthop %d", nh.ID)
	if !nh.Gateway.IsUnspecified() {
		text += fmt.Sprintf(" via %s", nh.Gateway)
	}
	if dev != "" {
		text += " dev " + dev
	}
	if nh.Onlink {
		text += " onlink"
	}
	return text
}
