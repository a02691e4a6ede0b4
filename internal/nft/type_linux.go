package nft

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// Type is the type of a set's keys or a map's values, as nft numbers it (nftables/include/datatype.h). The kernel looks at
// lengths only; the number lets nft list a set in a person's words, and lets us read our own back.
type Type uint32

// The types of keys that we use, and Verdict, which is only a value.
const (
	IPv4Addr    Type = 7
	IPv6Addr    Type = 8
	EtherAddr   Type = 9
	InetProto   Type = 12
	InetService Type = 13
	Mark        Type = 19
	Verdict     Type = unix.NFT_DATA_VERDICT
)

// concatBits is how many bits each field of a concatenation takes in the number: TYPE_BITS in nftables' datatype.h.
const concatBits = 6

// Concat is the type of keys made of several fields, at most five: Concat(IPv4Addr, InetProto, InetService).
func Concat(fields ...Type) Type {
	var t Type
	for _, f := range fields {
		t = t<<concatBits | f
	}
	return t
}

// fields takes a concatenation apart; any other type is its own only field.
func (t Type) fields() []Type {
	if t == Verdict {
		return []Type{t}
	}
	var fields []Type
	for ; t != 0; t >>= concatBits {
		fields = append([]Type{t & (1<<concatBits - 1)}, fields...)
	}
	return fields
}

// size is the length of one field in bytes; 0 if we do not know the type.
func (t Type) size() int {
	switch t {
	case IPv4Addr, Mark:
		return 4
	case IPv6Addr:
		return 16
	case EtherAddr:
		return 6
	case InetProto:
		return 1
	case InetService:
		return 2
	}
	return 0
}

// length is what the kernel calls the key length: that of the only field, or of all of them, each padded to a register.
func (t Type) length() int {
	fields := t.fields()
	if len(fields) == 1 {
		return t.size()
	}
	n := 0
	for _, f := range fields {
		n += align(f.size())
	}
	return n
}

// String returns the type's name in nft's language: "ipv4_addr . inet_service".
func (t Type) String() string {
	var names []string
	for _, f := range t.fields() {
		names = append(names, f.name())
	}
	return strings.Join(names, " . ")
}

func (t Type) name() string {
	switch t {
	case IPv4Addr:
		return "ipv4_addr"
	case IPv6Addr:
		return "ipv6_addr"
	case EtherAddr:
		return "ether_addr"
	case InetProto:
		return "inet_proto"
	case InetService:
		return "inet_service"
	case Mark:
		return "mark"
	case Verdict:
		return "verdict"
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Key joins the fields of a concatenation, each in network byte order, as elements want it.
func Key(fields ...[]byte) string {
	var b strings.Builder
	for _, f := range fields {
		b.Write(f)
		b.Write(make([]byte, align(len(f))-len(f)))
	}
	return b.String()
}

// text writes a key or value as nft would.
func (t Type) text(key string) string {
	fields := t.fields()
	if len(fields) == 1 {
		return t.field(key)
	}
	var texts []string
	for _, f := range fields {
		size := min(f.size(), len(key))
		texts = append(texts, f.field(key[:size]))
		key = key[min(align(size), len(key)):]
	}
	return strings.Join(texts, " . ")
}

func (t Type) field(v string) string {
	if len(v) != t.size() || v == "" {
		return fmt.Sprintf("%#x", v)
	}
	switch t {
	case IPv4Addr, IPv6Addr:
		addr, _ := netip.AddrFromSlice([]byte(v))
		return addr.String()
	case InetService:
		return fmt.Sprint(network.Uint16([]byte(v)))
	case InetProto:
		return protocol(v[0])
	}
	return fmt.Sprintf("%#x", v)
}

func protocol(n byte) string {
	switch n {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return fmt.Sprint(n)
}
