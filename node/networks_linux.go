package node

import (
	"net/netip"

	"github.com/podweft/podweft/internal/nl"
)

// Networks returns the networks that an interface is on, in the network namespace at netns (empty: the caller's): whoever has an
// address in one of them is reached without a router.
func Networks(netns, device string) ([]netip.Prefix, error) {
	conn, err := nl.Dial(netns)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	link, err := conn.Link(device)
	if err != nil {
		return nil, err
	}
	addrs, err := conn.Addresses(link.Index)
	if err != nil {
		return nil, err
	}
	var networks []netip.Prefix
	for _, a := range addrs {
		if !a.LinkScope {
			networks = append(networks, a.Prefix.Masked())
		}
	}
	return networks, nil
}
