package kube

import (
	"fmt"
	"net/netip"

	"github.com/podweft/podweft"
)

// family indexes what exists once for IPv4 and once for IPv6, so that both take one path through the code.
type family int

const (
	v4 family = iota
	v6
)

var families = [...]family{v4, v6}

// names are the names of a family's annotations.
var names = [...]struct {
	data         string // what the backend publishes
	publicIP     string // where peers send
	overwrite    string // what to tell them instead; the operator's
	nodePublicIP string // the address that the agent is to use; the operator's
}{
	v4: {"backend-data", "public-ip", "public-ip-overwrite", "node-public-ip"},
	v6: {"backend-v6-data", "public-ipv6", "public-ipv6-overwrite", "node-public-ipv6"},
}

// String is the family's name in messages.
func (f family) String() string {
	if f == v4 {
		return "IPv4"
	}
	return "IPv6"
}

// example is an address for people to see how one is written.
func (f family) example() string {
	if f == v4 {
		return "192.0.2.3"
	}
	return "2001:db8::3"
}

// has reports whether a is an address of the family that other nodes can use: one without a zone, which names a link of one
// node. An IPv4 address in IPv6 clothes is of neither family: two spellings of one address would compare as different.
func (f family) has(a netip.Addr) bool {
	if f == v4 {
		return a.Is4()
	}
	return a.Is6() && !a.Is4In6() && a.Zone() == ""
}

// parseAddr reads what somebody wrote into the annotation at key. No text is no address, and neither is 0.0.0.0, which flannel
// writes on a node without IPv4 unless its backend is vxlan.
func (f family) parseAddr(key, text, remedy string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !f.has(a) {
		return netip.Addr{}, &podweft.FieldError{Field: key, Value: shown(text), Problem: "is not an " + f.String() + " address", Remedy: remedy}
	}
	if a.IsUnspecified() {
		return netip.Addr{}, nil
	}
	return a, nil
}

// shown is what somebody wrote as an error shows it: quoted, and no longer than a line can bear.
func shown(text string) string { return fmt.Sprintf("%.100q", text) }
