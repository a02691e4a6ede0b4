package subnet

import (
	"bytes"
	"encoding/json"
	"iter"
	"net/netip"
	"strings"
)

// family indexes what exists once for IPv4 and once for IPv6, so that both take one path through the code.
type family int

const (
	v4 family = iota
	v6
)

var families = [...]family{v4, v6}

// String is the family's name in messages.
func (f family) String() string {
	if f == v4 {
		return "IPv4"
	}
	return "IPv6"
}

// suffix is the name of the family's field in Prefixes, Addrs and Data.
func (f family) suffix() string {
	if f == v4 {
		return "V4"
	}
	return "V6"
}

// has reports whether a is an address of the family. An IPv4 address in IPv6 clothes is of neither: two spellings of one
// address would compare as different.
func (f family) has(a netip.Addr) bool {
	if f == v4 {
		return a.Is4()
	}
	return a.Is6() && !a.Is4In6()
}

// Prefixes is up to one prefix of each family. The zero netip.Prefix means none.
type Prefixes struct {
	V4 netip.Prefix `json:"v4,omitzero"`
	V6 netip.Prefix `json:"v6,omitzero"`
}

// All yields the valid prefixes, IPv4 first.
func (p Prefixes) All() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for _, x := range p.pair() {
			if x.IsValid() && !yield(x) {
				return
			}
		}
	}
}

// IsZero reports whether there is no prefix at all.
func (p Prefixes) IsZero() bool { return p == Prefixes{} }

// Overlaps reports whether p and o have an address in common.
func (p Prefixes) Overlaps(o Prefixes) bool { return p.V4.Overlaps(o.V4) || p.V6.Overlaps(o.V6) }

// String lists the prefixes: "10.244.3.0/24, fd00:244:0:3::/64".
func (p Prefixes) String() string { return join(p.All()) }

func (p Prefixes) pair() [2]netip.Prefix { return [2]netip.Prefix{p.V4, p.V6} }

// Addrs is up to one address of each family. The zero netip.Addr means none.
type Addrs struct {
	V4 netip.Addr `json:"v4,omitzero"`
	V6 netip.Addr `json:"v6,omitzero"`
}

// All yields the valid addresses, IPv4 first.
func (a Addrs) All() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for _, x := range a.pair() {
			if x.IsValid() && !yield(x) {
				return
			}
		}
	}
}

// IsZero reports whether there is no address at all.
func (a Addrs) IsZero() bool { return a == Addrs{} }

// String lists the addresses: "192.0.2.7, 2001:db8::7".
func (a Addrs) String() string { return join(a.All()) }

func (a Addrs) pair() [2]netip.Addr { return [2]netip.Addr{a.V4, a.V6} }

// Data is what a node's backend publishes for its peers, as JSON, once for each family of the underlay. In flannel's stores
// V4 is BackendData and V6 is BackendV6Data. Whoever holds a Data must not change its bytes.
type Data struct {
	V4 json.RawMessage `json:"v4,omitempty"`
	V6 json.RawMessage `json:"v6,omitempty"`
}

// Equal reports whether d and o say the same, whatever white space their stores put in between.
func (d Data) Equal(o Data) bool { return sameJSON(d.V4, o.V4) && sameJSON(d.V6, o.V6) }

func sameJSON(a, b json.RawMessage) bool {
	return bytes.Equal(a, b) || bytes.Equal(compact(a), compact(b))
}

// compact is raw as json.Marshal writes it: without white space, and with the characters escaped that HTML knows. What is
// not JSON stays as it is.
func compact(raw json.RawMessage) json.RawMessage {
	if out, err := json.Marshal(raw); err == nil {
		return out
	}
	return raw
}

func join[T interface{ String() string }](all iter.Seq[T]) string {
	var b strings.Builder
	for x := range all {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(x.String())
	}
	return b.String()
}
