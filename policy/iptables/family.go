package iptables

import (
	"net/netip"

	"github.com/podweft/podweft/policy"
)

// family is what differs between IPv4 and IPv6.
type family struct {
	digit byte   // in the names of its sets
	word  string // for people
	inet  string // as ipset calls it
	tool  string // its iptables
	bits  int
	// toItself is a program of the bpf match: whether a packet's source is its destination. It is written in numbers as iptables
	// reads and shows it, as of linux/filter.h: 32 loads a word at an offset in the IP header, 7 keeps it, 29 compares with
	// what is kept, 6 returns.
	toItself string
}

var families = [...]family{
	{digit: '4', word: "ip", inet: "inet", tool: "iptables", bits: 32,
		toItself: "6,32 0 0 16,7 0 0 0,32 0 0 12,29 0 1 0,6 0 0 65535,6 0 0 0"},
	{digit: '6', word: "ip6", inet: "inet6", tool: "ip6tables", bits: 128,
		toItself: "18,32 0 0 24,7 0 0 0,32 0 0 8,29 0 13 0,32 0 0 28,7 0 0 0,32 0 0 12,29 0 9 0,32 0 0 32,7 0 0 0,32 0 0 16,29 0 5 0," +
			"32 0 0 36,7 0 0 0,32 0 0 20,29 0 1 0,6 0 0 65535,6 0 0 0"},
}

// neighborDiscovery is a program too: whether the type of an ICMPv6 packet is 133 to 136 (48 loads a byte, 53 asks for greater or
// equal, 37 for greater).
const neighborDiscovery = "5,48 0 0 40,53 0 2 133,37 1 0 136,6 0 0 65535,6 0 0 0"

// has reports whether an address is of the family.
func (f family) has(a netip.Addr) bool { return a.BitLen() == f.bits }

var directions = [...]policy.Direction{policy.Egress, policy.Ingress}

// own and remote are which of a packet's addresses is the pod's, and which that of the other end.
func own(d policy.Direction) string {
	if d == policy.Egress {
		return "src"
	}
	return "dst"
}

func remote(d policy.Direction) string {
	if d == policy.Egress {
		return "dst"
	}
	return "src"
}
