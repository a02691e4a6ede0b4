package nl

import (
	"context"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/netns"
)

// Events is what Watch reports, function by function; a nil one means that its kind is not even listened to. All are
// called from one goroutine and must not block: the kernel drops what does not fit in the socket's buffer.
type Events struct {
	Link    func(index int, name string)
	Address func(link int)
	// Neighbor and Forward are called for permanent entries, and for all deleted ones, on links that OfLink accepts: the
	// churn of other links' neighbours is dropped at the cost of reading a header. OfLink is required with them.
	Neighbor func(n Neighbor, deleted bool)
	Forward  func(f Forward, deleted bool)
	OfLink   func(link int) bool
	Route    func(r Route, deleted bool)
	Nexthop  func(nh Nexthop, deleted bool)
	// Lost, which is required, is called when messages were dropped: anything may have happened until then.
	Lost func()
}

func (e Events) groups() []uint32 {
	var g []uint32
	if e.Link != nil {
		g = append(g, unix.RTNLGRP_LINK)
	}
	if e.Address != nil {
		g = append(g, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	}
	if e.Neighbor != nil || e.Forward != nil {
		g = append(g, unix.RTNLGRP_NEIGH)
	}
	if e.Route != nil {
		g = append(g, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	}
	if e.Nexthop != nil {
		g = append(g, unix.RTNLGRP_NEXTHOP)
	}
	return g
}

// Watch listens in the namespace at netnsPath. It calls listening once when nothing can be missed any more, then the
// functions of e, until ctx ends (nil) or the socket breaks.
func Watch(ctx context.Context, netnsPath string, e Events, listening func()) error {
	var conn *netlink.Conn
	err := netns.Do(netnsPath, func() (err error) {
		conn, err = netlink.Dial(unix.NETLINK_ROUTE, nil)
		return err
	})
	if err != nil {
		return watchError("open", err)
	}
	defer conn.Close()
	for _, g := range e.groups() {
		if err := conn.JoinGroup(g); err != nil {
			return watchError("join", err)
		}
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return watchError("open", err)
	}
	chunkFor(raw) // for its buffers
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	listening()
	buf := make([]byte, readSize)
	for {
		n, err := readFrom(raw, buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == unix.ENOBUFS:
			// Lost covers what is queued, and the kernel takes in nothing more before the queue is empty.
			if err := drain(raw); err != nil && ctx.Err() == nil {
				return watchError("read", err)
			}
			e.Lost()
		case err != nil:
			return watchError("read", err)
		default:
			if err := messages(buf[:n], e.dispatch); err != nil {
				return watchError("read", err)
			}
		}
	}
}

func watchError(op string, err error) error {
	return &podweft.OpError{Op: op, Object: podweft.Named("netlink notifications"), Err: err}
}

func (e Events) dispatch(h header, body []byte) {
	switch h.kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		e.dispatchLink(body)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(body) >= unix.SizeofIfAddrmsg {
			e.Address(int(native.Uint32(body[4:])))
		}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		e.dispatchNeighbor(body, h.kind == unix.RTM_DELNEIGH)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if r, cloned, ok := parseRoute(body); ok && !cloned {
			e.Route(r, h.kind == unix.RTM_DELROUTE)
		}
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		if nh, ok := parseNexthop(body); ok {
			e.Nexthop(nh, h.kind == unix.RTM_DELNEXTHOP)
		}
	}
}

func (e Events) dispatchLink(body []byte) {
	// Bridges repeat port changes for AF_BRIDGE; they concern no link's own state.
	if len(body) < unix.SizeofIfInfomsg || body[0] == unix.AF_BRIDGE {
		return
	}
	name := ""
	attrs(body[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
		if kind == unix.IFLA_IFNAME {
			name = unix.ByteSliceToString(v)
		}
	})
	e.Link(int(int32(native.Uint32(body[4:]))), name)
}

func (e Events) dispatchNeighbor(body []byte, deleted bool) {
	if len(body) < sizeofNdMsg || !e.OfLink(int(int32(native.Uint32(body[4:])))) {
		return
	}
	entry, _ := parseNeighbor(body)
	if !deleted && !entry.permanent() {
		// A permanent entry that somebody made temporary looks, to us, deleted.
		deleted = true
	}
	switch {
	case entry.family == unix.AF_BRIDGE && e.Forward != nil:
		if entry.whole {
			e.Forward(entry.forward(), deleted)
		}
	case entry.family != unix.AF_BRIDGE && e.Neighbor != nil:
		e.Neighbor(entry.neighbor(), deleted)
	}
}
