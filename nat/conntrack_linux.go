package nat

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/nl"
)

// Connection tracking decides about translation with the first packet of a connection alone. UDP has no handshake: to it,
// packets of a sender that never pauses are one connection, which goes on to wherever its first packet went.

// Attributes and flags of linux/netfilter/nfnetlink_conntrack.h and net/netfilter/nf_internals.h that x/sys/unix lacks.
const (
	ctTupleOrig  = 1
	ctTupleReply = 2
	ctID         = 12
	ctZone       = 18
	ctFilter     = 25

	ctTupleIP    = 1
	ctTupleProto = 2

	ctIPv4Src, ctIPv4Dst, ctIPv6Src, ctIPv6Dst = 1, 2, 3, 4

	ctProtoNum, ctProtoSrcPort, ctProtoDstPort = 1, 2, 3

	ctFilterOrig, ctFilterReply = 1, 2

	ctGet      = 1
	ctDelete   = 2
	ctGetStats = 5

	ctStatsEntries = 1
)

// Which fields of a tuple count.
const (
	ctFilterNum uint32 = 1 << (iota + 3)
	ctFilterSrcPort
	ctFilterDstPort
)

func udpOnly(p Protocol) bool     { return p == UDP }
func everyProtocol(Protocol) bool { return true }

// flows are tracked connections: those with one destination as their first packet had it, or with one source as their answers
// have it, which is the pod. An unspecified destination is every address of the node.
type flows struct {
	protocol Protocol
	to, from netip.AddrPort
}

// forgotten are flows that are to be dropped.
type forgotten struct {
	flows map[flows]bool
	own   map[netip.Addr]bool // the node's addresses
}

// forget drops what is tracked of the host ports whose protocol counts: connections to the node's port, from before it led
// to the pod, and connections that lead to the pod.
func (p *Ports) forget(ctx context.Context, ports []HostPort, counts func(Protocol) bool) (err error) {
	all := forgotten{flows: map[flows]bool{}}
	for _, h := range ports {
		if !counts(h.Protocol) {
			continue
		}
		all.flows[flows{protocol: h.Protocol, from: h.Pod}] = true
		all.flows[flows{protocol: h.Protocol, to: h.at()}] = true
		if h.any() && all.own == nil {
			if all.own, err = p.ownAddresses(); err != nil {
				return err
			}
		}
	}
	return p.drop(ctx, all)
}

// forgetChanged does so for the elements of a plan that were made or deleted, as Add and Remove do.
func (p *Ports) forgetChanged(ctx context.Context, plan podweft.Plan) error {
	t := newPortTable(p.name)
	var opened, closed []HostPort
	for _, c := range plan {
		e, ok := c.Object.(nft.SetElement)
		if !ok || c.Err != nil || !slices.Contains([]nft.Set{t.any4, t.any6, t.one4, t.one6}, e.Set) {
			continue
		}
		port := portOf(e.Element)
		if c.Op == podweft.Delete {
			closed = append(closed, port)
		} else {
			opened = append(opened, port)
		}
	}
	return errors.Join(p.forget(ctx, closed, everyProtocol), p.forget(ctx, opened, udpOnly))
}

// portOf is the host port of an element of a map: (the node's address,) protocol and port, each padded to four bytes, to the pod and
// its port.
func portOf(e nft.Element) HostPort {
	key, data := []byte(e.Key), []byte(e.Data)
	host, port := key[:len(key)-8], key[len(key)-8:]
	on, _ := netip.AddrFromSlice(host) // none: all
	pod, _ := netip.AddrFromSlice(data[:len(data)-4])
	return HostPort{
		Protocol: Protocol(port[0]), HostIP: on, Port: binary.BigEndian.Uint16(port[4:]),
		Pod: netip.AddrPortFrom(pod, binary.BigEndian.Uint16(data[len(data)-4:])),
	}
}

func (p *Ports) ownAddresses() (map[netip.Addr]bool, error) {
	conn, err := nl.Dial(p.netns)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	all, err := conn.Addresses(0)
	own := map[netip.Addr]bool{}
	for _, a := range all {
		own[a.Prefix.Addr()] = true
	}
	return own, err
}

// walk is how many connections are listed and looked at in the time that the kernel takes to walk its table of them, of which it
// lists those that a filter lets through. It takes 13 ms for 262,144 buckets, and 1.7 us for each that is listed (see BenchmarkForget).
const walk = 5000

// drop removes the flows from the kernel's table. It walks that as seldom as it can: once for each filter, or once for all where so
// few connections are tracked that it is the quicker to look at each.
func (p *Ports) drop(ctx context.Context, all forgotten) error {
	if len(all.flows) == 0 {
		return nil
	}
	c, err := dialTracker(p.netns)
	if err != nil {
		return &podweft.OpError{Op: "open", Object: podweft.Named("conntrack socket"), Err: err}
	}
	defer c.sock.Close()
	filters := map[filter]bool{}
	for f := range all.flows {
		filters[f.filter()] = true
	}
	if count, err := c.count(); err == nil && count < walk*len(filters) {
		filters = map[filter]bool{{}: true}
	}
	for f := range filters {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.drop(f, all); err != nil {
			return &podweft.OpError{Op: "delete", Object: podweft.Named("tracked connections"), Err: err}
		}
	}
	return nil
}

// include reports whether a connection with these attributes is one of them.
func (all forgotten) include(attrs []byte) bool {
	to, ok := tupleOf(find(attrs, ctTupleOrig), false)
	if !ok {
		return false
	}
	every := netip.IPv4Unspecified()
	if to.at.Addr().Is6() {
		every = netip.IPv6Unspecified()
	}
	if all.flows[flows{protocol: to.protocol, to: to.at}] ||
		all.own[to.at.Addr()] && all.flows[flows{protocol: to.protocol, to: netip.AddrPortFrom(every, to.at.Port())}] {
		return true
	}
	from, ok := tupleOf(find(attrs, ctTupleReply), true)
	return ok && all.flows[flows{protocol: from.protocol, from: from.at}]
}

// end is the source or the destination of a tuple.
type end struct {
	protocol Protocol
	at       netip.AddrPort
}

func tupleOf(tuple []byte, source bool) (e end, ok bool) {
	v4, v6, port := uint16(ctIPv4Dst), uint16(ctIPv6Dst), uint16(ctProtoDstPort)
	if source {
		v4, v6, port = ctIPv4Src, ctIPv6Src, ctProtoSrcPort
	}
	ip, proto := find(tuple, ctTupleIP), find(tuple, ctTupleProto)
	text := find(ip, v4)
	if text == nil {
		text = find(ip, v6)
	}
	addr, ok := netip.AddrFromSlice(text)
	number, raw := find(proto, ctProtoNum), find(proto, port)
	if !ok || len(number) != 1 || len(raw) != 2 {
		return e, false
	}
	return end{Protocol(number[0]), netip.AddrPortFrom(addr, binary.BigEndian.Uint16(raw))}, true
}

// find is the value of the first attribute of that kind, nil if there is none. A listing has thousands of connections with a dozen
// attributes each, so nothing is copied.
func find(attrs []byte, kind uint16) []byte {
	for len(attrs) >= unix.NLA_HDRLEN {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < unix.NLA_HDRLEN || size > len(attrs) {
			return nil
		}
		if binary.NativeEndian.Uint16(attrs[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return attrs[unix.NLA_HDRLEN:size]
		}
		attrs = attrs[min((size+3)&^3, len(attrs)):]
	}
	return nil
}

// filter is what the kernel is asked to list: the connections of one port, at one end of them. The zero filter is all there are.
type filter struct {
	family   byte
	tuple    uint16
	protocol Protocol
	port     uint16
}

// filter is that of the flows, and of those of other addresses. When kernels from 5.8 on compare an IPv6 address with that of a filter
// they take the different ones for equal and the equal ones for different (ipv6_addr_cmp is negated in ctnetlink_filter_match_tuple in
// net/netfilter/nf_conntrack_netlink.c, in 6.1 among others), and a node has many addresses.
func (f flows) filter() filter {
	at, tuple := f.to, uint16(ctTupleOrig)
	if f.from.IsValid() {
		at, tuple = f.from, ctTupleReply
	}
	family := byte(unix.AF_INET)
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	return filter{family, tuple, f.protocol, at.Port()}
}

// attributes are those of a request. Kernels before 5.8 know no filters and list all.
func (f filter) attributes() []byte {
	if f == (filter{}) {
		return nil
	}
	which, flags, port := uint16(ctFilterOrig), ctFilterNum|ctFilterDstPort, uint16(ctProtoDstPort)
	if f.tuple == ctTupleReply {
		which, flags, port = ctFilterReply, ctFilterNum|ctFilterSrcPort, ctProtoSrcPort
	}
	e := netlink.NewAttributeEncoder()
	e.Nested(f.tuple, func(e *netlink.AttributeEncoder) error {
		e.Nested(ctTupleIP, func(e *netlink.AttributeEncoder) error { // must be there, and does not count
			kind, size := uint16(ctIPv4Dst), net.IPv4len
			if f.family == unix.AF_INET6 {
				kind, size = ctIPv6Dst, net.IPv6len
			}
			e.Bytes(kind, make([]byte, size))
			return nil
		})
		e.Nested(ctTupleProto, func(e *netlink.AttributeEncoder) error {
			e.ByteOrder = binary.BigEndian
			e.Uint8(ctProtoNum, uint8(f.protocol))
			e.Uint16(port, f.port)
			return nil
		})
		return nil
	})
	e.Nested(ctFilter, func(e *netlink.AttributeEncoder) error {
		e.ByteOrder = binary.NativeEndian // alone among them: net/netfilter/nf_conntrack_netlink.c, ctnetlink_parse_filter
		e.Uint32(which, flags)
		return nil
	})
	data, _ := e.Encode() // fails for attributes beyond 64 KiB only
	return data
}
