package nl

import (
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

// operUp is IF_OPER_UP of linux/if.h, which x/sys/unix lacks.
const operUp = 6

// parseLink reads what the kernel says of a link; ok is false for what is too short to say anything. What it does not say, and what
// nobody here asks for, is left out: a process that attaches one pod reads three links in its life, and a reader of every attribute
// that there is took it longer than the kernel took to write them.
func parseLink(body []byte) (l Link, ok bool) {
	if len(body) < unix.SizeofIfInfomsg {
		return l, false
	}
	l.Index = int(int32(native.Uint32(body[4:])))
	l.Up = native.Uint32(body[8:])&unix.IFF_UP != 0
	other := 0
	attrs(body[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = unix.ByteSliceToString(v)
		case unix.IFLA_IFALIAS:
			l.Alias = unix.ByteSliceToString(v)
		case unix.IFLA_ADDRESS:
			if len(v) == len(l.MAC) {
				l.MAC = podweft.MAC(v)
			}
		case unix.IFLA_MTU:
			l.MTU = int(asU32(v))
		case unix.IFLA_MASTER:
			l.Master = int(int32(asU32(v)))
		case unix.IFLA_GROUP:
			l.Group = asU32(v)
		case unix.IFLA_LINK:
			other = int(int32(asU32(v)))
		case unix.IFLA_OPERSTATE:
			l.Operational = asU8(v) == operUp
		}
	})
	var data []byte
	switch l.Kind, data = linkInfo(body); l.Kind {
	case "vxlan":
		l.VXLAN = parseVXLAN(data)
	case "veth":
		l.Pair, l.IPv4 = other, parseIPv4Conf(body)
	}
	return l, true
}

// linkInfo returns a link's kind, and what its driver says of it.
func linkInfo(body []byte) (kind string, data []byte) {
	attrs(body[unix.SizeofIfInfomsg:], func(what uint16, info []byte) {
		if what != unix.IFLA_LINKINFO {
			return
		}
		attrs(info, func(what uint16, v []byte) {
			switch what {
			case iflaInfoKind:
				kind = unix.ByteSliceToString(v)
			case iflaInfoData:
				data = v
			}
		})
	})
	return kind, data
}

// parseVXLAN reads what a VTEP says of itself. Its checksums are one setting for IPv4 and the opposite of one for IPv6.
func parseVXLAN(data []byte) (x VXLAN) {
	var checksum4, noChecksum6 bool
	attrs(data, func(kind uint16, v []byte) {
		switch kind {
		case iflaVXLANID:
			x.VNI = asU32(v)
		case iflaVXLANLink:
			x.Underlay = int(int32(asU32(v)))
		case iflaVXLANLocal, iflaVXLANLocal6:
			x.Local = asAddr(v).Unmap()
		case iflaVXLANLearning:
			x.Learning = asU8(v) != 0
		case iflaVXLANPort:
			if len(v) == 2 {
				x.Port = uint16(v[0])<<8 | uint16(v[1])
			}
		case iflaVXLANGBP:
			x.GBP = true
		case iflaVXLANUDPCsum:
			checksum4 = asU8(v) != 0
		case iflaVXLANZeroCsum6Tx:
			noChecksum6 = asU8(v) != 0
		}
	})
	if x.Checksum = checksum4; x.Local.Is6() {
		x.Checksum = !noChecksum6
	}
	return x
}
