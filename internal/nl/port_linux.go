package nl

import (
	"context"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Port is a link as the port of a bridge.
type Port struct {
	Link
	Hairpin  bool // a frame may leave by the port it came in by
	Isolated bool // no frame passes between it and another such port
}

// Attributes of linux/if_link.h that x/sys/unix lacks.
const (
	iflaInfoSlaveKind = 4
	iflaInfoSlaveData = 5

	iflaBrportMode     = 4
	iflaBrportIsolated = 33
)

// Port returns the link of that name with what its bridge knows of it; the error is ErrNoLink when there is none.
func (c *Conn) Port(ctx context.Context, name string) (Port, error) {
	var port Port
	link, err := c.named(ctx, name, func(_ vnl.Link, body []byte) { port = parsePort(body) })
	port.Link = link
	return port, err
}

// parsePort reads what the bridge says.
func parsePort(body []byte) (p Port) {
	path := []uint16{unix.IFLA_LINKINFO, iflaInfoSlaveData}
	var look func(b []byte, depth int)
	look = func(b []byte, depth int) {
		attrs(b, func(kind uint16, v []byte) {
			on := len(v) == 1 && v[0] != 0
			switch {
			case depth < len(path) && kind == path[depth]:
				look(v, depth+1)
			case depth == len(path) && kind == iflaBrportMode:
				p.Hairpin = on
			case depth == len(path) && kind == iflaBrportIsolated:
				p.Isolated = on
			}
		})
	}
	look(body[unix.SizeofIfInfomsg:], 0)
	return p
}

// SetHairpin adds a request to turn hairpin on or off for the bridge port of that name.
func (b *Batch) SetHairpin(name string, on bool) { b.setPort(name, iflaBrportMode, on) }

// SetIsolated adds a request to turn isolation on or off for the bridge port of that name.
func (b *Batch) SetIsolated(name string, on bool) { b.setPort(name, iflaBrportIsolated, on) }

func (b *Batch) setPort(name string, what uint16, on bool) {
	b.link(0, 0, 0, 0, func(m *message) {
		m.str(unix.IFLA_IFNAME, name)
		m.nest(unix.IFLA_LINKINFO, func() {
			m.str(iflaInfoSlaveKind, "bridge")
			m.nest(iflaInfoSlaveData, func() { m.u8(what, bit(on)) })
		})
	})
}
