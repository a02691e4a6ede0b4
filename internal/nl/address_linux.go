package nl

import (
	"net/netip"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Address is an address of a link.
type Address struct {
	Link   int
	Prefix netip.Prefix // the address itself with the length of its network
	// LinkScope: set by the kernel for link-local addresses, which callers neither want nor sweep.
	LinkScope bool
}

// AddAddress adds a request to put the address on its link; it fails with EEXIST when it is there. An IPv6 address is
// usable at once: it skips duplicate address detection (IFA_F_NODAD), which would take 1.6 s.
func (b *Batch) AddAddress(a Address) {
	b.add(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, func(m *message) {
		m.ifaddrmsg(a)
		if a.Prefix.Addr().Is6() {
			m.u32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
		}
	})
}

// DeleteAddress adds a request to take the address off its link.
func (b *Batch) DeleteAddress(a Address) {
	b.add(unix.RTM_DELADDR, 0, func(m *message) { m.ifaddrmsg(a) })
}

func (m *message) ifaddrmsg(a Address) {
	m.fixed(family(a.Prefix.Addr()), uint8(a.Prefix.Bits()), 0, unix.RT_SCOPE_UNIVERSE)
	m.buf = native.AppendUint32(m.buf, uint32(a.Link))
	m.addr(unix.IFA_LOCAL, a.Prefix.Addr())
	m.addr(unix.IFA_ADDRESS, a.Prefix.Addr())
}

// Addresses lists the addresses of the link with that index, or of all links when it is 0.
func (c *Conn) Addresses(link int) ([]Address, error) {
	var of vnl.Link
	if link != 0 {
		of = &vnl.Device{LinkAttrs: vnl.LinkAttrs{Index: link}}
	}
	list, err := retried(func() ([]vnl.Addr, error) { return c.links.AddrList(of, vnl.FAMILY_ALL) })
	all := make([]Address, 0, len(list))
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		bits, _ := a.Mask.Size()
		ip = ip.Unmap()
		all = append(all, Address{
			Link: a.LinkIndex, Prefix: netip.PrefixFrom(ip, bits),
			LinkScope: a.Scope == unix.RT_SCOPE_LINK || ip.IsLinkLocalUnicast(),
		})
	}
	return all, wrapList("addresses", err)
}
