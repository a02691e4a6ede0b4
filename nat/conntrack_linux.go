package nat

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/netns"
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

	ctGet    = 1
	ctDelete = 2
)

// Which fields of a tuple count.
const (
	ctFilterSrc uint32 = 1 << iota
	ctFilterDst
	ctFilterZone
	ctFilterNum
	ctFilterSrcPort
	ctFilterDstPort
)

func udpOnly(p Protocol) bool     { return p == UDP }
func everyProtocol(Protocol) bool { return true }

// flows are tracked connections: those with one destination as their first packet had it, or with one source as their answers
// have it, which is the pod.
type flows struct {
	protocol Protocol
	to, from netip.AddrPort
}

// forget drops what is tracked of the host ports whose protocol counts: connections to the node's port, from before it led
// to the pod, and connections that lead to the pod.
func (p *Ports) forget(ctx context.Context, ports []HostPort, counts func(Protocol) bool) error {
	var all []flows
	var own []netip.Addr
	for _, h := range ports {
		if !counts(h.Protocol) {
			continue
		}
		all = append(all, flows{protocol: h.Protocol, from: h.Pod})
		if !h.any() {
			all = append(all, flows{protocol: h.Protocol, to: h.at()})
			continue
		}
		if own == nil {
			var err error
			if own, err = p.ownAddresses(); err != nil {
				return err
			}
		}
		for _, a := range own {
			if a.Is4() == h.Pod.Addr().Is4() {
				all = append(all, flows{protocol: h.Protocol, to: netip.AddrPortFrom(a, h.Port)})
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
		if !ok || c.Err != nil || e.Set != t.ours4 && e.Set != t.ours6 {
			continue
		}
		key := []byte(e.Element.Key) // protocol, host port, pod, pod's port, each padded to four bytes
		pod, _ := netip.AddrFromSlice(key[8 : len(key)-4])
		port := HostPort{
			Protocol: Protocol(key[0]), Port: binary.BigEndian.Uint16(key[4:]),
			Pod: netip.AddrPortFrom(pod, binary.BigEndian.Uint16(key[len(key)-4:])),
		}
		if c.Op == podweft.Delete {
			closed = append(closed, port)
		} else {
			opened = append(opened, port)
		}
	}
	return errors.Join(p.forget(ctx, closed, everyProtocol), p.forget(ctx, opened, udpOnly))
}

func (p *Ports) ownAddresses() ([]netip.Addr, error) {
	conn, err := nl.Dial(p.netns)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	all, err := conn.Addresses(0)
	var own []netip.Addr
	for _, a := range all {
		own = append(own, a.Prefix.Addr())
	}
	return own, err
}

// drop removes the flows from the kernel's table, which it walks once for each.
func (p *Ports) drop(ctx context.Context, all []flows) error {
	if len(all) == 0 {
		return nil
	}
	var sock *netlink.Conn
	err := netns.Do(p.netns, func() (err error) {
		sock, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	})
	if err != nil {
		return &podweft.OpError{Op: "open", Object: podweft.Named("conntrack socket"), Err: err}
	}
	defer sock.Close()
	for _, f := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.drop(sock); err != nil {
			return &podweft.OpError{Op: "delete", Object: podweft.Named("tracked connections"), Err: err}
		}
	}
	return nil
}

func (f flows) drop(sock *netlink.Conn) error {
	if end, _, _, _ := f.shared(); end.Addr().Is6() {
		return f.dropEach(sock) // a filter cannot tell them by their address
	}
	err := execute(sock, f.request(ctDelete, netlink.Acknowledge))
	if errors.Is(err, unix.EINVAL) {
		return f.dropEach(sock)
	}
	return err
}

// execute sends a deletion. What is gone already was to be deleted.
func execute(sock *netlink.Conn, m netlink.Message) error {
	if _, err := sock.Execute(m); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// dropEach lists the flows and deletes them one by one. Older kernels, such as 6.1, know filters for listings alone: a deletion that
// has one is refused, since its tuple is not whole (ctnetlink_del_conntrack in net/netfilter/nf_conntrack_netlink.c). Those before
// 5.8 know none at all and list every connection of the node, so each is looked at before it goes.
func (f flows) dropEach(sock *netlink.Conn) error {
	listed, err := sock.Execute(f.request(ctGet, netlink.Dump))
	if err != nil {
		return err
	}
	for _, m := range listed {
		const header = 4 // struct nfgenmsg
		if len(m.Data) < header || !f.include(m.Data[header:]) {
			continue
		}
		attrs, err := netlink.UnmarshalAttributes(m.Data[header:])
		if err != nil {
			return err
		}
		var key []netlink.Attribute
		for _, a := range attrs {
			switch a.Type &^ netlink.Nested {
			case ctTupleOrig, ctID, ctZone:
				key = append(key, a)
			}
		}
		data, err := netlink.MarshalAttributes(key)
		if err != nil {
			return err
		}
		if err := execute(sock, message(ctDelete, netlink.Acknowledge, m.Data[0], data)); err != nil {
			return err
		}
	}
	return nil
}

// include reports whether the attributes are those of one of the flows.
func (f flows) include(attrs []byte) bool {
	end, tuple, ip, port := f.shared()
	return bytes.Equal(field(attrs, tuple, ctTupleProto, ctProtoNum), []byte{byte(f.protocol)}) &&
		bytes.Equal(field(attrs, tuple, ctTupleIP, ip), end.Addr().AsSlice()) &&
		bytes.Equal(field(attrs, tuple, ctTupleProto, port), binary.BigEndian.AppendUint16(nil, end.Port()))
}

// field is what attributes, and those within, have at a path of types: nil if nothing.
func field(attrs []byte, path ...uint16) []byte {
	for _, kind := range path {
		all, err := netlink.UnmarshalAttributes(attrs)
		i := slices.IndexFunc(all, func(a netlink.Attribute) bool { return a.Type&^netlink.Nested == kind })
		if err != nil || i < 0 {
			return nil
		}
		attrs = all[i].Data
	}
	return attrs
}

// shared is the end that the flows have in common, and the attributes that the kernel has it in: a tuple, its address, its port.
func (f flows) shared() (end netip.AddrPort, tuple, ip, port uint16) {
	end, tuple, ip, port = f.to, ctTupleOrig, ctIPv4Dst, ctProtoDstPort
	if f.from.IsValid() {
		end, tuple, ip, port = f.from, ctTupleReply, ctIPv4Src, ctProtoSrcPort
	}
	if end.Addr().Is6() {
		ip += ctIPv6Src - ctIPv4Src
	}
	return end, tuple, ip, port
}

func message(kind uint16, flags netlink.HeaderFlags, family byte, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_CTNETLINK<<8 | kind),
			Flags: netlink.Request | flags,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	}
}

// request deletes or lists the flows; of IPv6 those of every address that has the port. When kernels from 5.8 on compare an IPv6
// address with that of a filter they take the different ones for equal and the equal ones for different: ipv6_addr_cmp is negated in
// ctnetlink_filter_match_tuple in net/netfilter/nf_conntrack_netlink.c, in 6.1 among others.
func (f flows) request(kind uint16, how netlink.HeaderFlags) netlink.Message {
	end, tuple, ip, port := f.shared()
	which, flags := uint16(ctFilterOrig), ctFilterDst|ctFilterNum|ctFilterDstPort
	if tuple == ctTupleReply {
		which, flags = ctFilterReply, ctFilterSrc|ctFilterNum|ctFilterSrcPort
	}
	family := byte(unix.AF_INET)
	if end.Addr().Is6() {
		family = unix.AF_INET6
		flags &^= ctFilterSrc | ctFilterDst
	}
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Nested(tuple, func(e *netlink.AttributeEncoder) error {
		e.Nested(ctTupleIP, func(e *netlink.AttributeEncoder) error {
			e.Bytes(ip, end.Addr().AsSlice())
			return nil
		})
		e.Nested(ctTupleProto, func(e *netlink.AttributeEncoder) error {
			e.ByteOrder = binary.BigEndian
			e.Uint8(ctProtoNum, uint8(f.protocol))
			e.Uint16(port, end.Port())
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
	return message(kind, how, family, data)
}
