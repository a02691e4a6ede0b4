package iptables

import (
	"net/netip"

	"github.com/podweft/podweft/policy"
)

// prefixes are the fewest prefixes that make up a range. None of them is /0, which ipset does not take: all addresses are two halves.
func prefixes(r policy.Range) (list []netip.Prefix) {
	for from := r.From; ; {
		p := widest(from, r.To)
		list = append(list, p)
		end := last(p)
		if end == r.To {
			return list
		}
		from = end.Next()
	}
}

// widest returns the widest prefix that begins at from and does not go beyond to.
func widest(from, to netip.Addr) netip.Prefix {
	for bits := 1; ; bits++ {
		p := netip.PrefixFrom(from, bits)
		if bits == from.BitLen() || p.Masked().Addr() == from && !to.Less(last(p)) {
			return p
		}
	}
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// netText is a prefix as ipset shows it: the one of a single address without its length.
func netText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
