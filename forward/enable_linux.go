package forward

import (
	"net/netip"

	"github.com/podweft/podweft/internal/sysctl"
)

// Enable lets the node, in the network namespace at netns (empty: the caller's), forward packets of the families that networks are
// of. The error is a [*podweft.OpError] that says what an administrator can do.
func Enable(netns string, networks ...netip.Prefix) error {
	for _, p := range networks {
		key := "net/ipv6/conf/all/forwarding"
		if p.Addr().Is4() {
			key = "net/ipv4/ip_forward"
		}
		if err := sysctl.Ensure(netns, key, "1"); err != nil {
			return err
		}
	}
	return nil
}
