package nl

import (
	"context"
	"net/netip"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Tunnel is a link that wraps IP packets into IP packets, without a remote end of its own: the routes say where each goes.
// Its kind says what it can carry: "ipip" IPv4 over IPv4, "ip6tnl" both over IPv6.
type Tunnel struct {
	Link
	Outer Outer
}

// Outer is what a tunnel does to make outer packets and which ones it accepts.
type Outer struct {
	Local    netip.Addr // their source, and the destination of those accepted; none when External
	Underlay int        // index of the link they leave by; 0 leaves it to the routes
	// Protocol of the inner packets; 0 means every one that the kind can carry.
	Protocol uint8
	// External: the routes carry both addresses themselves (lwtunnel), and packets to any address are accepted. A namespace
	// has room for one such link of each kind.
	External bool

	// What we never set, and another program may have: then it is not a tunnel of ours any more.
	Remote       netip.Addr
	TTL          uint8 // 0 copies the inner packet's
	DontFragment bool  // also where the inner packet may be fragmented
}

// Attributes of linux/if_tunnel.h.
const (
	iflaIPTunLink            = 1
	iflaIPTunLocal           = 2
	iflaIPTunProto           = 9
	iflaIPTunPMTUDisc        = 10
	iflaIPTunCollectMetadata = 19
)

// Tunnel returns the link of that name with what is known of it as a tunnel, which is nothing where it is of another kind.
// The error is ErrNoLink when there is none.
func (c *Conn) Tunnel(name string) (Tunnel, error) {
	var t Tunnel
	var err error
	t.Link, err = c.named(context.Background(), name, func(l vnl.Link, _ []byte) { t.Outer = outerOf(l) })
	return t, err
}

func outerOf(l vnl.Link) Outer {
	o := Outer{Underlay: l.Attrs().ParentIndex}
	switch v := l.(type) {
	case *vnl.Iptun:
		o.Local, o.Remote = specified(v.Local), specified(v.Remote)
		o.Protocol, o.External, o.TTL, o.DontFragment = v.Proto, v.FlowBased, v.Ttl, v.PMtuDisc != 0
	case *vnl.Ip6tnl:
		o.Local, o.Remote = specified(v.Local), specified(v.Remote)
		o.Protocol, o.External, o.TTL = v.Proto, v.FlowBased, v.Ttl
	default:
		return Outer{}
	}
	return o
}

// specified is ip, or the zero Addr for 0.0.0.0 and ::, with which the kernel says "any".
func specified(ip []byte) netip.Addr {
	a := asAddr(ip)
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// AddTunnel adds requests to create the tunnel t, as AddVXLAN does for a VTEP. The first fails with EEXIST when the name is
// taken, when another tunnel has the same addresses and Underlay, or when there is another External one of its kind; and with
// EOPNOTSUPP where the kernel lacks the kind's module, which it loads by itself if it can.
func (b *Batch) AddTunnel(t Tunnel) {
	b.link(unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, 0, 0, func(m *message) {
		m.str(unix.IFLA_IFNAME, t.Name)
		m.linkAttrs(t.Link)
		m.tunnelInfo(t)
	})
	b.Mark(t.Link)
}

// ChangeTunnel adds a request to give the tunnel with t's index another local address or underlay link. The rest of Outer cannot
// be changed (ip_tunnel_update in net/ipv4/ip_tunnel.c). Its MTU is said too, for the kernel would choose one when the underlay
// link changes.
func (b *Batch) ChangeTunnel(t Tunnel) {
	b.link(0, t.Index, 0, 0, func(m *message) {
		m.u32(unix.IFLA_MTU, uint32(t.MTU))
		m.tunnelInfo(t)
	})
}

func (m *message) tunnelInfo(t Tunnel) {
	m.nest(unix.IFLA_LINKINFO, func() {
		m.str(iflaInfoKind, t.Kind)
		m.nest(iflaInfoData, func() {
			if t.Outer.External {
				m.flag(iflaIPTunCollectMetadata)
				return
			}
			m.u32(iflaIPTunLink, uint32(t.Outer.Underlay))
			m.addr(iflaIPTunLocal, t.Outer.Local)
			m.u8(iflaIPTunProto, t.Outer.Protocol)
			// Or every outer packet gets DF, also where the inner one may be fragmented: it is then lost, silently, where the
			// path is narrower than the underlay link. The inner packet's own DF is copied in any case.
			m.u8(iflaIPTunPMTUDisc, 0)
		})
	})
}
