package nl

import (
	"cmp"
	"context"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Port is a link as the port of a bridge.
type Port struct {
	Link
	Hairpin bool // a frame may leave by the port it came in by
}

// Attributes of linux/if_link.h that x/sys/unix lacks.
const (
	iflaInfoSlaveKind = 4
	iflaInfoSlaveData = 5

	iflaBrportMode = 4
)

// Port returns the link of that name with what its bridge knows of it; the error is ErrNoLink when there is none.
func (c *Conn) Port(ctx context.Context, name string) (Port, error) {
	request := func(m *message) {
		m.ifinfomsg(0, 0, 0)
		m.u32(unix.IFLA_EXT_MASK, rtextFilterSkipStats)
		m.str(unix.IFLA_IFNAME, name)
	}
	var found vnl.Link
	var malformed error
	var hairpin bool
	err := c.get(ctx, unix.RTM_GETLINK, request, func(body []byte) {
		found, malformed = vnl.LinkDeserialize(nil, body)
		hairpin = malformed == nil && parseHairpin(body)
	})
	link, err := asLink(found, name, cmp.Or(err, malformed))
	return Port{link, hairpin}, err
}

func parseHairpin(body []byte) (hairpin bool) {
	path := []uint16{unix.IFLA_LINKINFO, iflaInfoSlaveData, iflaBrportMode}
	var look func(b []byte, depth int)
	look = func(b []byte, depth int) {
		attrs(b, func(kind uint16, v []byte) {
			switch {
			case kind != path[depth]:
			case depth < len(path)-1:
				look(v, depth+1)
			default:
				hairpin = len(v) == 1 && v[0] != 0
			}
		})
	}
	look(body[unix.SizeofIfInfomsg:], 0)
	return hairpin
}

// SetHairpin adds a request to turn hairpin on or off for the bridge port of that name.
func (b *Batch) SetHairpin(name string, on bool) {
	b.link(0, 0, 0, 0, func(m *message) {
		m.str(unix.IFLA_IFNAME, name)
		m.nest(unix.IFLA_LINKINFO, func() {
			m.str(iflaInfoSlaveKind, "bridge")
			m.nest(iflaInfoSlaveData, func() { m.u8(iflaBrportMode, bit(on)) })
		})
	})
}
