package bgp

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/podweft/podweft"
)

// Community is a mark on a path (RFC 1997) that peers and filters can act on, as two halves: an AS and its own number.
type Community uint32

// The communities that every BGP speaker obeys.
const (
	NoExport    Community = 0xFFFFFF01 // stays in the AS
	NoAdvertise Community = 0xFFFFFF02 // goes no further than the peer
)

// ParseCommunity reads what [Community.String] writes: "64512:100".
func ParseCommunity(s string) (Community, error) {
	high, low, _ := strings.Cut(s, ":")
	h, err := strconv.ParseUint(high, 10, 16)
	l, err2 := strconv.ParseUint(low, 10, 16)
	if err != nil || err2 != nil {
		return 0, &podweft.FieldError{Field: "community", Value: fmt.Sprintf("%q", s), Problem: "is not a community", Remedy: `write two numbers below 65536, such as "64512:100"`}
	}
	return Community(h<<16 | l), nil
}

// String is the usual spelling: "64512:100".
func (c Community) String() string { return fmt.Sprintf("%d:%d", c>>16, c&0xFFFF) }

// MarshalText is String.
func (c Community) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText is ParseCommunity.
func (c *Community) UnmarshalText(text []byte) (err error) {
	*c, err = ParseCommunity(string(text))
	return err
}

// inOrder is a sorted copy without doubles, as which communities go over the wire and compare.
func inOrder(list []Community) []Community {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}
