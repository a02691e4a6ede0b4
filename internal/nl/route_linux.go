package nl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// TableMain is the routing table that ordinary routes live in.
const TableMain uint32 = unix.RT_TABLE_MAIN

// rtaNexthopID is RTA_NH_ID of linux/rtnetlink.h, which x/sys/unix lacks.
const rtaNexthopID = 30

// RouteKey is what makes two routes the same one for the kernel: a write with another metric adds a second route.
type RouteKey struct {
	Table  uint32
	Prefix netip.Prefix
	Metric uint32
}

// UsualMetric is what the kernel makes of a metric of 0 for a route to p: 0, and IP6_RT_PRIO_USER of linux/ipv6_route.h for IPv6.
func UsualMetric(p netip.Prefix) uint32 {
	if p.Addr().Is6() {
		return 1024
	}
	return 0
}

// CompareRouteKeys orders keys by table, prefix and metric.
func CompareRouteKeys(a, b RouteKey) int {
	if a.Table != b.Table {
		return cmp.Compare(a.Table, b.Table)
	}
	// Thousands are sorted: Prefix.Compare would mask both first, which they are.
	if order := a.Prefix.Addr().Compare(b.Prefix.Addr()); order != 0 {
		return order
	}
	return cmp.Or(cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), cmp.Compare(a.Metric, b.Metric))
}

// Route is a unicast route through a nexthop object, or through Gateway and Link.
type Route struct {
	RouteKey
	Protocol uint8
	Type     uint8 // RTN_UNICAST, RTN_BLACKHOLE, ...; zero in a request means unicast
	Nexthop  uint32
	Gateway  netip.Addr
	Link     int
	Onlink   bool
	// Multipath: the kernel lists several nexthops, of which Gateway and Link say nothing, but with Hops.
	Multipath bool
}

// AddRoute adds a request to create r; it fails with EEXIST when something stands at its key.
func (b *Batch) AddRoute(r Route) { b.route(unix.NLM_F_CREATE|unix.NLM_F_EXCL, r) }

// ReplaceRoute adds a request to put r in place of what stands at its key, whoever made that.
func (b *Batch) ReplaceRoute(r Route) { b.route(unix.NLM_F_CREATE|unix.NLM_F_REPLACE, r) }

func (b *Batch) route(flags uint16, r Route) {
	m := b.begin(unix.RTM_NEWROUTE, flags)
	var rtmFlags uint32
	if r.Onlink && r.Nexthop == 0 {
		rtmFlags = unix.RTNH_F_ONLINK
	}
	m.rtmsg(&r, cmp.Or(r.Type, unix.RTN_UNICAST), rtmFlags)
	switch {
	case r.Nexthop != 0:
		m.u32(rtaNexthopID, r.Nexthop)
	default:
		if r.Gateway.IsValid() {
			m.addr(unix.RTA_GATEWAY, r.Gateway)
		}
		if r.Link != 0 {
			m.u32(unix.RTA_OIF, uint32(r.Link))
		}
	}
	m.finish()
}

// DeleteRoute adds a request to delete the route at r's key that has r's protocol: another program's, put there in the
// meantime, stays.
func (b *Batch) DeleteRoute(r Route) {
	m := b.begin(unix.RTM_DELROUTE, 0)
	m.rtmsg(&r, unix.RTN_UNSPEC, 0)
	if r.Nexthop != 0 {
		m.u32(rtaNexthopID, r.Nexthop)
	}
	m.finish()
}

// rtmsg writes struct rtmsg and the attributes of the key.
func (m *message) rtmsg(r *Route, kind uint8, flags uint32) {
	table := uint8(unix.RT_TABLE_UNSPEC) // RTA_TABLE says it
	scope := uint8(unix.RT_SCOPE_UNIVERSE)
	switch {
	case kind == unix.RTN_UNSPEC:
		scope = unix.RT_SCOPE_NOWHERE // matches any, fib_table_delete in net/ipv4/fib_trie.c
	case r.Nexthop == 0 && !r.Gateway.IsValid() && kind == unix.RTN_UNICAST:
		scope = unix.RT_SCOPE_LINK
	}
	m.fixed(family(r.Prefix.Addr()), uint8(r.Prefix.Bits()), 0, 0, table, r.Protocol, scope, kind)
	m.buf = native.AppendUint32(m.buf, flags)
	m.u32(unix.RTA_TABLE, r.Table)
	m.addr(unix.RTA_DST, r.Prefix.Addr())
	if r.Metric != 0 {
		m.u32(unix.RTA_PRIORITY, r.Metric)
	}
}

// Routes calls each for every route of both families in every table, whoever made it. restart is called before each
// listing, also the first: an interrupted one starts anew.
func (c *Conn) Routes(ctx context.Context, restart func(), each func(Route)) error {
	return c.routes(ctx, restart, func(r Route, _ []byte) { each(r) })
}

// Hops is Routes, but that a route over several nexthops comes once for each of them, with its Gateway and Link.
func (c *Conn) Hops(ctx context.Context, restart func(), each func(Route)) error {
	return c.routes(ctx, restart, func(r Route, body []byte) {
		if r.Multipath {
			r.hops(body, each)
		} else {
			each(r)
		}
	})
}

func (c *Conn) routes(ctx context.Context, restart func(), each func(r Route, body []byte)) error {
	request := func(m *message) { m.fixed(make([]byte, unix.SizeofRtMsg)...) } // AF_UNSPEC: one listing of all families
	return wrapList("routes", c.dump(ctx, unix.RTM_GETROUTE, request, restart, func(body []byte) {
		if r, cloned, ok := parseRoute(body); ok && !cloned {
			each(r, body)
		}
	}))
}

// hops calls each for the nexthops of r, which was decoded from body: a list of struct rtnexthop of linux/rtnetlink.h, its length,
// flags, weight and link, with attributes behind it.
func (r Route) hops(body []byte, each func(Route)) {
	attrs(body[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
		if kind != unix.RTA_MULTIPATH {
			return
		}
		for len(v) >= unix.SizeofRtNexthop {
			size := int(native.Uint16(v))
			if size < unix.SizeofRtNexthop || size > len(v) {
				return
			}
			hop := r
			hop.Onlink = v[2]&unix.RTNH_F_ONLINK != 0
			hop.Link = int(native.Uint32(v[4:]))
			attrs(v[unix.SizeofRtNexthop:size], func(kind uint16, v []byte) {
				if kind == unix.RTA_GATEWAY {
					hop.Gateway = asAddr(v)
				}
			})
			each(hop)
			v = v[min((size+3)&^3, len(v)):]
		}
	})
}

// Local reports whether packets to a stay in the namespace. For an IPv6 address that was just added this is not so at once,
// even if it skips duplicate address detection: the kernel joins its multicast group, without which nobody finds it, and
// makes its local route from a work queue (addrconf_dad_work in net/ipv6/addrconf.c).
func (c *Conn) Local(ctx context.Context, a netip.Addr) (local bool, err error) {
	request := func(m *message) {
		m.fixed(family(a), uint8(a.BitLen()), 0, 0, 0, 0, 0, 0)
		m.buf = native.AppendUint32(m.buf, 0)
		m.addr(unix.RTA_DST, a)
	}
	err = c.get(ctx, unix.RTM_GETROUTE, request, func(body []byte) {
		local = len(body) >= unix.SizeofRtMsg && body[7] == unix.RTN_LOCAL
	})
	if errors.Is(err, unix.ENETUNREACH) {
		err = nil
	}
	if err != nil {
		err = &podweft.OpError{Op: "find", Object: podweft.Named("route to " + a.String()), Err: err}
	}
	return local, err
}

// parseRoute decodes a route of IPv4 or IPv6 without TOS or source prefix; ok is false for any other.
func parseRoute(body []byte) (r Route, cloned, ok bool) {
	if len(body) < unix.SizeofRtMsg || body[2] != 0 || body[3] != 0 {
		return r, false, false
	}
	fam, bits := body[0], int(body[1])
	r.Table, r.Protocol, r.Type = uint32(body[4]), body[5], body[7]
	flags := native.Uint32(body[8:])
	cloned = flags&unix.RTM_F_CLONED != 0
	r.Onlink = flags&unix.RTNH_F_ONLINK != 0
	var dst netip.Addr
	switch fam {
	case unix.AF_INET:
		dst = netip.IPv4Unspecified()
	case unix.AF_INET6:
		dst = netip.IPv6Unspecified()
	default:
		return r, false, false
	}
	attrs(body[unix.SizeofRtMsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.RTA_DST:
			dst = asAddr(v)
		case unix.RTA_TABLE:
			r.Table = asU32(v)
		case unix.RTA_PRIORITY:
			r.Metric = asU32(v)
		case unix.RTA_GATEWAY:
			r.Gateway = asAddr(v)
		case unix.RTA_OIF:
			r.Link = int(asU32(v))
		case rtaNexthopID:
			r.Nexthop = asU32(v)
		case unix.RTA_MULTIPATH:
			r.Multipath = true
		}
	})
	r.Prefix = netip.PrefixFrom(dst, bits)
	return r, cloned, r.Prefix.IsValid()
}

// Format writes the route as `ip route` does; dev is the link's name, which rtnetlink's numbers do not say.
func (r Route) Format(dev string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "route %s", r.Prefix)
	if r.Gateway.IsValid() && !r.Gateway.IsUnspecified() {
		fmt.Fprintf(&b, " via %s", r.Gateway)
	}
	if dev != "" {
		fmt.Fprintf(&b, " dev %s", dev)
	}
	if r.Onlink {
		b.WriteString(" onlink")
	}
	if r.Nexthop != 0 {
		fmt.Fprintf(&b, " nhid %d", r.Nexthop)
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.Table != TableMain {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	return b.String()
}
