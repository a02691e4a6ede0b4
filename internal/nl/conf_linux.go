package nl

import "golang.org/x/sys/unix"

// IPv4Conf is what a link can be told of how to deal with IPv4 packets: net/ipv4/conf/LINK of /proc/sys, to write which a
// process must enter the namespace.
type IPv4Conf struct {
	ProxyARP     bool // answer for every address that another link leads to
	StrictSource bool // rp_filter 1: drop packets from an address that this link does not lead to
}

// Indexes of linux/ip.h, which x/sys/unix lacks, and the attribute of linux/if_link.h that has them.
const (
	ipv4DevconfProxyARP    = 3
	ipv4DevconfRPFilter    = 8
	ipv4DevconfARPAnnounce = 18
	ipv4DevconfARPIgnore   = 19
	iflaInetConf           = 1
)

// SetIPv4Conf adds a request to tell the link of that name what c says.
func (b *Batch) SetIPv4Conf(name string, c IPv4Conf) {
	b.link(0, 0, 0, 0, func(m *message) {
		m.str(unix.IFLA_IFNAME, name)
		m.ipv4Conf(func() {
			m.u32(ipv4DevconfProxyARP, uint32(bit(c.ProxyARP)))
			m.u32(ipv4DevconfRPFilter, uint32(bit(c.StrictSource)))
		})
	})
}

// SetUpAlone adds a request to bring the link up and let it speak of its own addresses only, in what it answers (arp_ignore 1) and in
// what it asks (arp_announce 2). A link speaks of any of the namespace's otherwise: Documentation/networking/ip-sysctl.rst.
func (b *Batch) SetUpAlone(link int) {
	b.link(0, link, unix.IFF_UP, unix.IFF_UP, func(m *message) {
		m.ipv4Conf(func() {
			m.u32(ipv4DevconfARPIgnore, 1)
			m.u32(ipv4DevconfARPAnnounce, 2)
		})
	})
}

func (m *message) ipv4Conf(values func()) {
	m.nest(unix.IFLA_AF_SPEC, func() {
		m.nest(unix.AF_INET, func() { m.nest(iflaInetConf, values) })
	})
}

// parseIPv4Conf reads what a link says of itself: the values in the order of their indexes, the first of which is 1
// (inet_fill_link_af in net/ipv4/devinet.c).
func parseIPv4Conf(body []byte) IPv4Conf {
	conf := body[unix.SizeofIfInfomsg:]
	for _, want := range []uint16{unix.IFLA_AF_SPEC, unix.AF_INET, iflaInetConf} {
		var next []byte
		attrs(conf, func(kind uint16, v []byte) {
			if kind == want {
				next = v
			}
		})
		conf = next
	}
	at := func(index int) uint32 { return asU32(conf[min(4*(index-1), len(conf)):]) }
	return IPv4Conf{ProxyARP: at(ipv4DevconfProxyARP) != 0, StrictSource: at(ipv4DevconfRPFilter) == 1}
}
