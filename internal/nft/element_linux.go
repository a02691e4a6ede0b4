package nft

import (
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Element is one element of a set or map. Bytes are in network byte order and in strings, so that elements are comparable
// and a difference of sets is a difference of Go maps.
type Element struct {
	Key     string       // the key, or the first of a range
	Last    string       // the last key of a range, itself included; empty means that Key is the only one
	Data    string       // a map's value
	Verdict expr.Verdict // a verdict map's value
}

// Prefix is the element of an interval set that holds p's addresses.
func Prefix(p netip.Prefix) Element {
	p = p.Masked()
	first := p.Addr().AsSlice()
	last := p.Addr().AsSlice()
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	e := Element{Key: string(first), Last: string(last)}
	if p.IsSingleIP() {
		e.Last = ""
	}
	return e
}

// AsPrefix returns the prefix that e covers exactly, if there is one.
func (e Element) AsPrefix() (netip.Prefix, bool) {
	first, ok := netip.AddrFromSlice([]byte(e.Key))
	if !ok {
		return netip.Prefix{}, false
	}
	for bits := range first.BitLen() + 1 {
		p := netip.PrefixFrom(first, bits)
		if p == p.Masked() && Prefix(p) == (Element{Key: e.Key, Last: e.Last}) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// SetElement is an element with the set it is in. It is a [podweft.Object].
type SetElement struct {
	Set     Set
	Element Element
}

// ID returns the element without a map's value, as nft writes it: "element inet filter peers { 10.244.1.0/24 }".
func (e SetElement) ID() string { return "element " + e.Set.path() + " { " + e.key() + " }" }

// String adds the value: "element inet filter ports { 80 : jump web }".
func (e SetElement) String() string { return "element " + e.Set.path() + " { " + e.Text() + " }" }

// Text is the element by itself: "80 : jump web".
func (e SetElement) Text() string {
	if e.Set.Data == 0 {
		return e.key()
	}
	return e.key() + " : " + e.value()
}

func (e SetElement) key() string {
	if e.Element.Last == "" {
		return e.Set.Key.text(e.Element.Key)
	}
	if p, ok := e.Element.AsPrefix(); ok && (e.Set.Key == IPv4Addr || e.Set.Key == IPv6Addr) {
		return p.String()
	}
	return e.Set.Key.text(e.Element.Key) + "-" + e.Set.Key.text(e.Element.Last)
}

func (e SetElement) value() string {
	if e.Set.Data != Verdict {
		return e.Set.Data.text(e.Element.Data)
	}
	return verdictText(e.Element.Verdict)
}

func verdictText(v expr.Verdict) string {
	switch v.Kind {
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictReturn:
		return "return"
	case expr.VerdictContinue:
		return "continue"
	case expr.VerdictJump:
		return "jump " + v.Chain
	case expr.VerdictGoto:
		return "goto " + v.Chain
	}
	return "verdict"
}

// AddElements puts elements into the set. One that is there already is fine, unless a map has another value for it;
// ranges must not overlap.
func (b *Batch) AddElements(s Set, elements ...Element) {
	b.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, "create", s, elements)
}

// DeleteElements takes elements out of the set. Each must be there, and a range just as it was put in.
func (b *Batch) DeleteElements(s Set, elements ...Element) {
	b.elements(unix.NFT_MSG_DELSETELEM, 0, "delete", s, elements)
}

// maxList bounds the elements in one message: an attribute's length has 16 bits.
const maxList = 60_000

// elements makes as many messages as the elements need.
func (b *Batch) elements(kind, flags uint16, op string, s Set, elements []Element) {
	for len(elements) > 0 {
		some := elements[:b.fitting(s, elements)]
		b.request(kind, flags, s.Table.Family, op, s, func(m *message) {
			m.str(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table.Name)
			m.str(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
			list := m.open(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
			for _, e := range some {
				m.element(s, e)
			}
			m.close(list)
		})
		b.requests[len(b.requests)-1].elements = some
		elements = elements[len(some):]
	}
}

// fitting is how many of the elements one message holds.
func (b *Batch) fitting(s Set, elements []Element) int {
	size := 0
	for i, e := range elements {
		b.scratch.buf = b.scratch.buf[:0]
		b.scratch.element(s, e)
		if size += len(b.scratch.buf); size > maxList {
			return max(i, 1)
		}
	}
	return len(elements)
}

// element writes one element: as two where the kernel keeps ranges as their two ends.
func (m *message) element(s Set, e Element) {
	item := m.open(unix.NFTA_LIST_ELEM)
	m.data(unix.NFTA_SET_ELEM_KEY, e.Key)
	if s.ranged() {
		m.data(nftaSetElemKeyEnd, e.last())
	}
	switch s.Data {
	case 0:
	case Verdict:
		m.verdict(unix.NFTA_SET_ELEM_DATA, e.Verdict)
	default:
		m.data(unix.NFTA_SET_ELEM_DATA, e.Data)
	}
	m.close(item)
	if s.Interval && !s.ranged() {
		m.rangeEnd(e.last())
	}
}

// nftaSetElemKeyEnd is NFTA_SET_ELEM_KEY_END, since 5.6; missing in x/sys.
const nftaSetElemKeyEnd = 10

func (e Element) last() string {
	if e.Last == "" {
		return e.Key
	}
	return e.Last
}

// rangeEnd writes the element that ends a range: the first key that is no longer in it. A range that goes on to the very
// last key has no end.
func (m *message) rangeEnd(last string) {
	after, ok := next(last)
	if !ok {
		return
	}
	item := m.open(unix.NFTA_LIST_ELEM)
	m.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	m.data(unix.NFTA_SET_ELEM_KEY, after)
	m.close(item)
}

func (m *message) data(kind uint16, v string) {
	at := m.open(kind)
	m.key(unix.NFTA_DATA_VALUE, v)
	m.close(at)
}

func (m *message) verdict(kind uint16, v expr.Verdict) {
	data := m.open(kind)
	verdict := m.open(unix.NFTA_DATA_VERDICT)
	m.u32(unix.NFTA_VERDICT_CODE, uint32(v.Kind))
	if v.Chain != "" {
		m.str(unix.NFTA_VERDICT_CHAIN, v.Chain)
	}
	m.close(verdict)
	m.close(data)
}

// next returns the key after k, and false after the last.
func next(k string) (string, bool) {
	b := []byte(k)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]++
		if b[i] != 0 {
			return string(b), true
		}
	}
	return "", false
}

// previous returns the key before k, and false before the first.
func previous(k string) (string, bool) {
	b := []byte(k)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			return string(b), true
		}
	}
	return "", false
}
