package testnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Links come up in two steps: the request returns, then a work queue (linkwatch) tells the others that there is a carrier.
// Only then does a bridge forward to its port, and IPv6 answer on a link; what comes sooner is lost, and asked again after
// a second. So a fabric is handed over when that has happened.

// awaitPorts waits until the bridge forwards to this many ports.
func awaitPorts(sw *netlink.Handle, ports int) error {
	return await("ports of the switch", func() (string, error) {
		links, err := complete(sw.LinkList)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return "", err
		}
		up := 0
		for _, l := range links {
			if l.Attrs().MasterIndex != 0 && l.Attrs().OperState == netlink.OperUp {
				up++
			}
		}
		if up < ports {
			return fmt.Sprintf("%d of %d have a carrier", up, ports), nil
		}
		return "", nil
	})
}

// awaitUplink waits until the machine's eth0 has a carrier and answers for its IPv6 address, whose route to the machine
// itself is the business of another work queue (addrconf_dad_work in net/ipv6/addrconf.c, even where no duplicates are
// looked for).
func (m *member) awaitUplink() error {
	return m.node.configure(func(h *netlink.Handle) error {
		return await("link "+uplinkName+" of "+m.name, func() (string, error) {
			eth0, err := h.LinkByName(uplinkName)
			switch {
			case err != nil:
				return "", err
			case eth0.Attrs().OperState != netlink.OperUp:
				return "it has no carrier", nil
			case m.v6.IsValid() && !isLocal(h, m.v6.Addr()):
				return "it does not answer for " + m.v6.Addr().String(), nil
			}
			return "", nil
		})
	})
}

// isLocal reports whether what is sent to addr stays in the namespace.
func isLocal(h *netlink.Handle, addr netip.Addr) bool {
	routes, err := h.RouteGet(addr.AsSlice())
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
}

// await waits until missing returns nothing.
func await(what string, missing func() (string, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		why, err := missing()
		if err != nil || why == "" {
			return opError("await", what, err)
		}
		select {
		case <-ctx.Done():
			return opError("await", what, fmt.Errorf("%s: %w", why, ctx.Err()))
		case <-time.After(time.Millisecond):
		}
	}
}
