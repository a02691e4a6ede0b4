package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
)

// Protocol is a transport protocol, by its number in IP headers.
type Protocol uint8

// The protocols that have ports.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// ParseProtocol reads "tcp", "udp" or "sctp", in capitals too; empty is TCP.
func ParseProtocol(s string) (Protocol, error) {
	switch s {
	case "", "tcp", "TCP":
		return TCP, nil
	case "udp", "UDP":
		return UDP, nil
	case "sctp", "SCTP":
		return SCTP, nil
	}
	return 0, &podweft.FieldError{
		Field: "Protocol", Value: fmt.Sprintf("%q", s), Problem: "has no ports that can be published", Remedy: "use tcp, udp or sctp",
	}
}

// String is the protocol's name in small letters.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// HostPort is a port of the node that leads to a pod.
type HostPort struct {
	Protocol Protocol
	// HostIP is the node's address that it is open on; the zero Addr means all of the pod's family.
	HostIP netip.Addr
	// Port on the node.
	Port uint16
	// Pod is where packets go.
	Pod netip.AddrPort
	// KeepSource leaves every sender its address. The pod itself, and the node through 127.0.0.1, then get no answer, nor do
	// those of [PortSpec.Near] on the pod's bridge, unless netfilter sees what passes that (br_netfilter): the pod's answers
	// reach them from another address than they asked. Where the same port of the node leads to the same port of the pod on
	// several addresses, all must say so.
	KeepSource bool
}

// String is the host port as a line for people: "tcp 0.0.0.0:8080 to 10.244.1.2:80".
func (h HostPort) String() string {
	return fmt.Sprintf("%s %s to %s", h.Protocol, h.at(), h.Pod)
}

func (h HostPort) at() netip.AddrPort {
	ip := h.HostIP
	if !ip.IsValid() {
		ip = netip.IPv4Unspecified()
		if h.Pod.Addr().Is6() {
			ip = netip.IPv6Unspecified()
		}
	}
	return netip.AddrPortFrom(ip, h.Port)
}

// Place is what no two host ports may share that do not lead to the same place of a pod: protocol, address and port, and nothing else.
func (h HostPort) Place() HostPort {
	return HostPort{Protocol: h.Protocol, HostIP: h.at().Addr(), Port: h.Port}
}

// PortSpec says which ports of the node lead to pods.
type PortSpec struct {
	// Ports are the host ports; no two of which share protocol, address and port.
	Ports []HostPort
	// Near are the sources whose answers would find a way past the node: this node's own pod prefixes. What they send to a
	// host port, the pod behind it among them, gets the node's address as source. Others keep theirs,
	// and so do all at a host port with KeepSource.
	Near []netip.Prefix
}

// Validate reports everything in the PortSpec that makes no sense, each as a [*podweft.FieldError].
func (s PortSpec) Validate() error {
	var errs []error
	first := map[HostPort]int{}
	for i, h := range s.Ports {
		field := fmt.Sprintf("Ports[%d]", i)
		if err := h.check(field); err != nil {
			errs = append(errs, err)
			continue
		}
		if other, taken := first[h.Place()]; taken && s.Ports[other].Pod != h.Pod {
			errs = append(errs, &podweft.FieldError{
				Field: field, Value: h, Problem: "is taken by " + s.Ports[other].String(), Remedy: "publish one of them on another port or address",
			})
			continue
		}
		first[h.Place()] = i
	}
	for i, p := range s.Near {
		errs = append(errs, checkPrefix(fmt.Sprintf("Near[%d]", i), p))
	}
	return errors.Join(errs...)
}

func (h HostPort) check(field string) error {
	bad := func(sub string, value any, problem, remedy string) error {
		return &podweft.FieldError{Field: field + sub, Value: value, Problem: problem, Remedy: remedy}
	}
	pod := h.Pod.Addr()
	switch {
	case !slices.Contains([]Protocol{TCP, UDP, SCTP}, h.Protocol):
		return bad(".Protocol", uint8(h.Protocol), "has no ports that can be published", "use TCP, UDP or SCTP")
	case h.Port == 0:
		return bad(".Port", 0, "is not a port", "use 1 to 65535")
	case h.Pod.Port() == 0 || !pod.IsValid() || pod.IsUnspecified() || pod.Is4In6() || pod.Zone() != "":
		return bad(".Pod", h.Pod, "is not a pod's address and port", "")
	case h.HostIP.IsValid() && (h.HostIP.Is4() != pod.Is4() || h.HostIP.Is4In6() || h.HostIP.Zone() != ""):
		return bad(".HostIP", h.HostIP, "is not of the family of "+pod.String(), "publish it for the pod's address of that family")
	}
	return nil
}

// any reports whether the port is open on every address of the node.
func (h HostPort) any() bool { return !h.HostIP.IsValid() || h.HostIP.IsUnspecified() }
