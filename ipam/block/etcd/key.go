package etcd

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// keys are the names of blocks. prefix ends in a slash.
type keys struct{ prefix string }

func (k keys) block(p netip.Prefix) string { return k.at(p.Addr(), p.Bits()) }

// at is the key of a block that begins at the address. The address and the length have a fixed width each, so that a family's
// keys are in the order of addresses, and where these are equal of lengths.
func (k keys) at(a netip.Addr, bits int) string {
	return k.prefix + ordered(a) + fmt.Sprintf("-%03d", bits)
}

func ordered(a netip.Addr) string {
	if !a.Is4() {
		return "ipv6/" + a.StringExpanded()
	}
	b := a.As4()
	return fmt.Sprintf("ipv4/%03d.%03d.%03d.%03d", b[0], b[1], b[2], b[3])
}

// span is a range of keys: those from one up to end.
type span struct{ from, end string }

// inside is the blocks that begin in p. They overlap p, and those do too that begin where it does and are shorter.
func (k keys) inside(p netip.Prefix) span { return span{k.at(p.Addr(), 0), k.at(last(p), 999)} }

// around is the blocks that begin before p and reach it. They begin where one bit of p's address, and all that follow it, are
// cleared, and end at that bit at the latest.
func (k keys) around(p netip.Prefix) (spans []span) {
	for bits := range p.Bits() {
		from := netip.PrefixFrom(p.Addr(), bits).Masked().Addr()
		if from != netip.PrefixFrom(p.Addr(), bits+1).Masked().Addr() {
			spans = append(spans, span{k.at(from, 0), k.at(from, bits+1)})
		}
	}
	return spans
}

// last is the highest address of p.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

var (
	keyForm      = regexp.MustCompile(`^ipv[46]/([0-9a-f.:]+)-([0-9]{3})$`)
	leadingZeros = regexp.MustCompile(`\b0{1,2}([0-9])`)
)

// parse reads what block made. It says no to all other keys.
func (k keys) parse(key string) (netip.Prefix, bool) {
	m := keyForm.FindStringSubmatch(strings.TrimPrefix(key, k.prefix))
	if m == nil {
		return netip.Prefix{}, false
	}
	text := m[1]
	if strings.Contains(text, ".") {
		text = leadingZeros.ReplaceAllString(text, "$1") // netip takes none: some would read the number as octal
	}
	addr, err := netip.ParseAddr(text)
	bits, _ := strconv.Atoi(m[2])
	p := netip.PrefixFrom(addr, bits)
	return p, err == nil && p.IsValid() && k.block(p) == key
}
