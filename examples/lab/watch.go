package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft/testnet"
)

// watch sends an echo request, records every link on the way, and notes where the request came by.
func (t *tracer) watch(ctx context.Context) (err error) {
	captures := map[*hop]*testnet.Capture{}
	defer func() {
		for _, c := range captures {
			err = errors.Join(err, c.Close())
		}
	}()
	for i := range t.hops {
		if h := &t.hops[i]; h.Kind == kindLink {
			if captures[h], err = h.machine.Capture(h.Entry); err != nil {
				delete(captures, h)
				return err
			}
		}
	}
	// The answer is the sign that the request has been everywhere.
	if _, err := t.from.machine.Ping(ctx, t.dst); err != nil {
		return err
	}
	for h, c := range captures {
		if _, err := c.Count(func(p testnet.Packet) bool {
			if h.Seen == "" && t.carried(p.Frame) {
				h.Seen = describe(p.Frame)
			}
			return false
		}); err != nil {
			return err
		}
	}
	return nil
}

// carried reports whether the frame is one of this trace, wrapped or not: source and destination stand side by side in both
// families' headers.
func (t *tracer) carried(frame []byte) bool {
	return bytes.Contains(frame, slices.Concat(t.src.AsSlice(), t.dst.AsSlice()))
}

// describe says how long the frame is and, if it is in a tunnel, what is around the inner one.
func describe(frame []byte) string {
	text := fmt.Sprintf("%d bytes", len(frame))
	if o, ok := outerOf(frame); ok {
		text += fmt.Sprintf(", %s > %s", o.src, netip.AddrPortFrom(o.dst, o.port))
		if !o.bare {
			text += fmt.Sprintf(", VNI %d", o.vni)
		}
	}
	return text
}

// outer is what is around a frame in VXLAN, or around a packet in UDP.
type outer struct {
	src, dst netip.Addr
	port     uint16
	vni      uint32
	bare     bool // nothing but UDP
}

const (
	etherLen = 14
	protoUDP = 17
)

// outerOf reads the outer headers: Ethernet, IP without options, UDP, and then VXLAN with a valid VNI (RFC 7348, section 5) or at once
// an IP packet.
func outerOf(frame []byte) (o outer, ok bool) {
	if len(frame) < etherLen+40+8+8 {
		return o, false
	}
	ip := frame[etherLen:]
	var proto byte
	var rest []byte
	switch ip[0] >> 4 {
	case 4:
		proto, rest = ip[9], ip[20:]
		o.src, o.dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	case 6:
		proto, rest = ip[6], ip[40:]
		o.src, o.dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	}
	const vniValid = 0x08
	if proto != protoUDP {
		return o, false
	}
	o.port = binary.BigEndian.Uint16(rest[2:])
	if version := rest[8] >> 4; version == 4 || version == 6 {
		o.bare = true
		return o, true
	}
	if rest[8] != vniValid {
		return o, false
	}
	o.vni = binary.BigEndian.Uint32(rest[12:]) >> 8
	return o, true
}
