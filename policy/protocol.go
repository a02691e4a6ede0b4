package policy

import "strconv"

// Protocol is an IP protocol by its number (IANA, Protocol Numbers).
type Protocol uint8

// The protocols that have ports a policy can name.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String returns the name as Kubernetes writes it, "TCP", or the number of a protocol that policies cannot name.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "protocol " + strconv.Itoa(int(p))
}

func (p Protocol) hasPorts() bool { return p == TCP || p == UDP || p == SCTP }

// orTCP is the default of every API object that names a port.
func (p Protocol) orTCP() Protocol {
	if p == 0 {
		return TCP
	}
	return p
}
