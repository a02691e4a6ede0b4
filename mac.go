package podweft

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
)

// MAC is an Ethernet address (48 bits). It is comparable, unlike net.HardwareAddr; the zero MAC means "none".
type MAC [6]byte

// ParseMAC parses the usual forms of an Ethernet address, such as "0e:1d:2c:3b:4a:59". The error is a [*FieldError].
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(MAC{}) {
		return MAC{}, &FieldError{
			Field:   "MAC",
			Value:   fmt.Sprintf("%q", s),
			Problem: "is not an Ethernet address",
			Remedy:  `write six pairs of hexadecimal digits, "0e:1d:2c:3b:4a:59"`,
		}
	}
	return MAC(hw), nil
}

// NewMAC returns a random, locally administered unicast address (IEEE 802: bit 1 of the first octet set, bit 0 clear),
// as a new VTEP or pod takes it.
func NewMAC() MAC {
	var m MAC
	rand.Read(m[:]) // never fails: crypto/rand's documentation
	m[0] = m[0]&^0x01 | 0x02
	return m
}

// String returns the address in the usual form, "0e:1d:2c:3b:4a:59".
func (m MAC) String() string {
	var b [17]byte
	for i, octet := range m {
		if i > 0 {
			b[3*i-1] = ':'
		}
		hex.Encode(b[3*i:], []byte{octet})
	}
	return string(b[:])
}

// IsZero reports whether m is "none".
func (m MAC) IsZero() bool { return m == MAC{} }

// IsUnicast reports whether m can be one station's address: it is neither zero nor a group address.
func (m MAC) IsUnicast() bool { return !m.IsZero() && m[0]&0x01 == 0 }

// LinkLocal returns the IPv6 address that a station with this MAC makes for its link: fe80::/64 with the modified EUI-64
// (RFC 4291, appendix A).
func (m MAC) LinkLocal() netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 0x02, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

// MarshalText writes the form of String; the zero MAC is the empty text.
func (m MAC) MarshalText() ([]byte, error) {
	if m.IsZero() {
		return []byte{}, nil
	}
	return []byte(m.String()), nil
}

// UnmarshalText accepts what [ParseMAC] accepts, and the empty text for the zero MAC.
func (m *MAC) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*m = MAC{}
		return nil
	}
	parsed, err := ParseMAC(string(text))
	if err == nil {
		*m = parsed
	}
	return err
}
