package nl

import (
	"context"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Address is an address of a link.
type Address struct {
	Link   int
	Prefix netip.Prefix // the address itself with the length of its network
	// LinkScope: set by the kernel for link-local addresses, which callers neither want nor sweep.
	LinkScope bool
	// Unsteady: not one to be known by. Set by the kernel for addresses that come and go with another (secondary) or by themselves
	// (temporary, RFC 8981), that are deprecated, or that are not known to be nobody else's (tentative, or found to be a duplicate).
	Unsteady bool
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

// Addresses lists the addresses of the link with that index, or of all links when it is 0. A link that is not there has none.
func (c *Conn) Addresses(link int) ([]Address, error) {
	request := func(m *message) {
		m.fixed(unix.AF_UNSPEC, 0, 0, 0)
		m.buf = native.AppendUint32(m.buf, uint32(link))
	}
	var all []Address
	err := c.dump(context.Background(), unix.RTM_GETADDR, request, func() { all = nil }, func(body []byte) {
		if a, ok := parseAddress(body); ok && (link == 0 || a.Link == link) { // kernels before 5.0 list those of every link
			all = append(all, a)
		}
	})
	if link != 0 && errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	return all, wrapList("addresses", err)
}

// unsteady are flags of linux/if_addr.h. For IPv6 the first is IFA_F_TEMPORARY.
const unsteady = unix.IFA_F_SECONDARY | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE

// parseAddress reads an address's message. Of a point-to-point link the length is the other end's, not the address's own.
func parseAddress(body []byte) (a Address, ok bool) {
	if len(body) < unix.SizeofIfAddrmsg {
		return a, false
	}
	var local, other netip.Addr
	attrs(body[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFA_LOCAL:
			local = asAddr(v)
		case unix.IFA_ADDRESS:
			other = asAddr(v)
		}
	})
	bits := int(body[1])
	switch {
	case !local.IsValid():
		local = other // as IPv6 says it
	case local != other:
		bits = local.BitLen()
	}
	local = local.Unmap()
	a.Prefix = netip.PrefixFrom(local, bits)
	a.Link = int(int32(native.Uint32(body[4:])))
	a.Unsteady = body[2]&unsteady != 0
	a.LinkScope = body[3] == unix.RT_SCOPE_LINK || local.IsLinkLocalUnicast()
	return a, a.Prefix.IsValid()
}
