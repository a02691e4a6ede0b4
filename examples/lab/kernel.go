package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/testnet"
)

// kernel asks the tables of one network namespace. Each answer comes with the entry that gave it, as `ip` prints it.
type kernel struct {
	name string // of the node or pod
	h    *netlink.Handle
}

// errNoEntry: the kernel has nothing to decide by.
var errNoEntry = errors.New("no such entry")

func openKernel(machine *testnet.Node) (k kernel, err error) {
	k.name = machine.Name
	err = machine.Do(func() error { // a socket belongs to the namespace it was opened in
		k.h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return k, err
}

func (k kernel) close() { k.h.Close() }

// route is the routing table's answer.
type route struct {
	entry   string
	prefix  netip.Prefix // zero for the default route
	dev     netlink.Link
	gateway netip.Addr // zero if the destination is on dev's link
}

// next is who on dev's link gets the packet.
func (r route) next(to netip.Addr) netip.Addr {
	if r.gateway.IsValid() {
		return r.gateway
	}
	return to
}

// route is `ip route get TO fibmatch`.
func (k kernel) route(to netip.Addr) (route, error) {
	found, err := k.h.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if err == nil && len(found) == 0 {
		err = errNoEntry
	}
	if err != nil {
		return route{}, fmt.Errorf("route of %s to %s: %w", k.name, to, err)
	}
	r := found[0]
	dev, err := k.h.LinkByIndex(r.LinkIndex)
	if err != nil {
		return route{}, fmt.Errorf("route of %s to %s: link %d: %w", k.name, to, r.LinkIndex, err)
	}
	entry := "default"
	var prefix netip.Prefix
	if r.Dst != nil && r.Dst.String() != "0.0.0.0/0" && r.Dst.String() != "::/0" {
		entry = r.Dst.String()
		if prefix, err = netip.ParsePrefix(entry); err != nil {
			return route{}, fmt.Errorf("route of %s to %s: %w", k.name, to, err)
		}
	}
	gateway, ok := netip.AddrFromSlice(r.Gw)
	if ok {
		gateway = gateway.Unmap()
		entry += " via " + gateway.String()
	}
	entry += " dev " + dev.Attrs().Name
	if r.Flags&int(netlink.FLAG_ONLINK) != 0 {
		entry += " onlink"
	}
	return route{entry, prefix, dev, gateway}, nil
}

// neighbour is the entry of `ip neigh` for an address on a link.
func (k kernel) neighbour(dev netlink.Link, addr netip.Addr) (mac net.HardwareAddr, entry string, err error) {
	of := netlink.FAMILY_V6
	if addr.Is4() {
		of = netlink.FAMILY_V4
	}
	all, err := k.h.NeighList(dev.Attrs().Index, of)
	if err != nil {
		return nil, "", fmt.Errorf("neighbours of %s: %w", k.name, err)
	}
	for _, n := range all {
		if at, ok := netip.AddrFromSlice(n.IP); ok && at.Unmap() == addr && len(n.HardwareAddr) > 0 {
			return n.HardwareAddr, fmt.Sprintf("%s dev %s lladdr %s %s", addr, dev.Attrs().Name, n.HardwareAddr, stateName(n.State)), nil
		}
	}
	return nil, "", fmt.Errorf("neighbour %s of %s: %w", addr, k.name, errNoEntry)
}

// vxlanFDB is the entry of `bridge fdb` that says behind which machine of the underlay a VXLAN link finds a MAC.
func (k kernel) vxlanFDB(dev netlink.Link, mac net.HardwareAddr) (dst netip.Addr, entry string, err error) {
	all, err := k.h.NeighList(dev.Attrs().Index, unix.AF_BRIDGE)
	if err != nil {
		return dst, "", fmt.Errorf("forwarding entries of %s: %w", k.name, err)
	}
	for _, n := range all {
		if at, ok := netip.AddrFromSlice(n.IP); ok && n.HardwareAddr.String() == mac.String() {
			return at.Unmap(), fmt.Sprintf("%s dev %s dst %s self %s", mac, dev.Attrs().Name, at.Unmap(), lowerStateName(n.State)), nil
		}
	}
	return dst, "", fmt.Errorf("forwarding entry for %s on %s of %s: %w", mac, dev.Attrs().Name, k.name, errNoEntry)
}

// bridgeFDB is the entry of `bridge fdb` that says by which link a bridge forwards to a MAC: one of its ports, or itself
// when the MAC is its own.
func (k kernel) bridgeFDB(br netlink.Link, mac net.HardwareAddr) (to netlink.Link, entry string, err error) {
	all, err := k.h.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return nil, "", fmt.Errorf("forwarding entries of %s: %w", k.name, err)
	}
	for _, n := range all {
		if n.MasterIndex != br.Attrs().Index || n.HardwareAddr.String() != mac.String() {
			continue
		}
		to, err := k.h.LinkByIndex(n.LinkIndex)
		if err != nil {
			return nil, "", fmt.Errorf("forwarding entries of %s: link %d: %w", k.name, n.LinkIndex, err)
		}
		entry := fmt.Sprintf("%s dev %s master %s %s", mac, to.Attrs().Name, br.Attrs().Name, lowerStateName(n.State))
		return to, strings.TrimSpace(entry), nil
	}
	return nil, "", fmt.Errorf("forwarding entry for %s on %s of %s: %w", mac, br.Attrs().Name, k.name, errNoEntry)
}

// peer is the other end of a veth link, which is in another namespace.
func (k kernel) peer(of netlink.Link) (netlink.Link, error) {
	l, err := k.h.LinkByIndex(of.Attrs().ParentIndex) // IFLA_LINK
	if err != nil {
		return nil, fmt.Errorf("other end of %s in %s: %w", of.Attrs().Name, k.name, err)
	}
	return l, nil
}

func (k kernel) link(name string) (netlink.Link, error) {
	l, err := k.h.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("link %s of %s: %w", name, k.name, err)
	}
	return l, nil
}

func (k kernel) has(link string) bool {
	_, err := k.h.LinkByName(link)
	return err == nil
}

// stateName is how `ip neigh` calls the state of an entry.
func stateName(state int) string {
	switch {
	case state&netlink.NUD_PERMANENT != 0:
		return "PERMANENT"
	case state&netlink.NUD_REACHABLE != 0:
		return "REACHABLE"
	case state&netlink.NUD_STALE != 0:
		return "STALE"
	case state&netlink.NUD_DELAY != 0:
		return "DELAY"
	case state&netlink.NUD_PROBE != 0:
		return "PROBE"
	case state&netlink.NUD_NOARP != 0:
		return "NOARP"
	}
	return ""
}

// lowerStateName is how `bridge fdb` calls it, which says nothing of an entry that was learned.
func lowerStateName(state int) string {
	if state&netlink.NUD_PERMANENT != 0 {
		return "permanent"
	}
	return ""
}
