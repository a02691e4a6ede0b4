package testnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

const (
	bridgeName = "br0"
	uplinkName = "eth0"
)

func (f *Fabric) build(cfg FabricConfig) (err error) {
	if f.Switch, err = BuildNode("switch"); err != nil {
		return err
	}
	sw, err := f.Switch.dial()
	if err != nil {
		return err
	}
	defer sw.Close()
	bridge, err := addBridge(sw, bridgeName, cfg.MTU)
	if err != nil {
		return err
	}
	members := members(cfg)
	err = inParallel(members, func(m *member) error { return m.plug(sw, bridge, cfg.MTU) })
	for _, m := range members { // those that were built must be closed even if others could not be
		switch {
		case m.node == nil:
		case m.outside:
			f.Outside = m.node
		default:
			f.Nodes = append(f.Nodes, m.node)
		}
	}
	if err != nil {
		return err
	}
	err = inParallel(members, func(m *member) error { return m.configure(members) })
	if err != nil {
		return err
	}
	if err := awaitPorts(sw, len(members)); err != nil {
		return err
	}
	return inParallel(members, (*member).awaitUplink)
}

// addBridge creates a switch: without addresses of its own, without spanning tree (the default; a port forwards at once)
// and without multicast snooping, which could hold back a neighbour solicitation.
func addBridge(sw *netlink.Handle, name string, mtu int) (index int, err error) {
	off := false
	bridge := &netlink.Bridge{
		LinkAttrs:         netlink.LinkAttrs{Name: name, MTU: mtu, TxQLen: -1},
		MulticastSnooping: &off,
	}
	err = firstError(
		func() error { return sw.LinkAdd(bridge) },
		func() error { return noAutomaticAddresses(sw, bridge) },
		func() error { return sw.LinkSetUp(bridge) },
	)
	return bridge.Index, opError("create", "bridge "+name, err)
}

// member is a machine on the underlay.
type member struct {
	name    string
	outside bool
	mac     podweft.MAC
	v4, v6  netip.Prefix // the zero Prefix where the underlay has no such family
	local   netip.Prefix // link-local, for v6
	node    *Node
}

// members numbers the machines from 1, and everything about one is made of its number.
func members(cfg FabricConfig) []*member {
	all := make([]*member, cfg.members())
	for i := range all {
		number := i + 1
		all[i] = &member{
			name:    fmt.Sprintf("node%d", number),
			outside: i == cfg.Nodes,
			mac:     podweft.MAC{0x02, 4: byte(number >> 8), 5: byte(number)},
			v4:      host(cfg.V4, number),
			v6:      host(cfg.V6, number),
		}
		if cfg.V6.IsValid() {
			all[i].local = host(netip.MustParsePrefix("fe80::/64"), number)
		}
		if all[i].outside {
			all[i].name = "outside"
		}
	}
	return all
}

// plug builds the machine and makes its cable, the link pair, in one message with the far end born inside the node: moving
// it there later costs 25 times more. The port goes up first, so that eth0 can send the moment it goes up.
func (m *member) plug(sw *netlink.Handle, bridge, mtu int) (err error) {
	if m.node, err = BuildNode(m.name); err != nil {
		return err
	}
	inside, err := m.node.open()
	if err != nil {
		return m.opError("create", err)
	}
	defer inside.Close()
	port := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: m.name, MTU: mtu, TxQLen: -1, MasterIndex: bridge},
		PeerName:         uplinkName,
		PeerHardwareAddr: m.mac[:],
		PeerNamespace:    netlink.NsFd(int(inside.Fd())),
	}
	return m.opError("create", firstError(
		func() error { return sw.LinkAdd(port) },
		func() error { return noAutomaticAddresses(sw, port) },
		func() error { return sw.LinkSetUp(port) },
	))
}

// configure gives eth0 its addresses, brings it up and tells it of the others.
func (m *member) configure(all []*member) error {
	return m.node.configure(func(h *netlink.Handle) error {
		eth0, err := h.LinkByName(uplinkName)
		if err != nil {
			return m.opError("configure", err)
		}
		return m.opError("configure", firstError(
			func() error { return m.address(h, eth0) },
			func() error { return h.LinkSetUp(eth0) },
			func() error { return m.meet(h, eth0, all) },
			func() error { return m.face(h, eth0, all[len(all)-1]) },
		))
	})
}

func (m *member) opError(op string, err error) error {
	return opError(op, "link "+uplinkName+" of "+m.name, err)
}

// address gives eth0 its addresses. The link-local one, which a forwarding node needs for neighbour discovery
// (ndisc_send_ns in net/ipv6/ndisc.c), is ours: the kernel would first look for duplicates of its own, for a second or two.
func (m *member) address(h *netlink.Handle, eth0 netlink.Link) error {
	m.node.V4, m.node.V6 = m.v4.Addr(), m.v6.Addr()
	if m.v6.IsValid() {
		if err := noAutomaticAddresses(h, eth0); err != nil {
			return err
		}
	}
	for _, a := range []netip.Prefix{m.v4, m.v6, m.local} {
		if !a.IsValid() {
			continue
		}
		if err := addAddress(h, eth0, a); err != nil {
			return err
		}
	}
	return nil
}

// meet makes the others permanent neighbours. The kernel has one neighbour table for all namespaces of the machine; it
// holds 1,024 entries (gc_thresh3; see neigh_alloc in net/core/neighbour.c), and 33 nodes that had to ask for each other
// would overflow it, with packets lost at random. Permanent entries do not count.
func (m *member) meet(h *netlink.Handle, eth0 netlink.Link, all []*member) error {
	for _, other := range all {
		if other == m {
			continue
		}
		for _, a := range []netip.Prefix{other.v4, other.v6} {
			if !a.IsValid() {
				continue
			}
			err := h.NeighSet(&netlink.Neigh{
				LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.Addr().AsSlice(), HardwareAddr: other.mac[:],
			})
			if err != nil {
				return fmt.Errorf("neighbour %s: %w", a.Addr(), err)
			}
		}
	}
	return nil
}

// face turns the machine to the outside, if there is one: it is the last of all.
func (m *member) face(h *netlink.Handle, eth0 netlink.Link, last *member) error {
	switch {
	case !last.outside:
		return nil
	case m == last:
		return m.moveOut(h)
	}
	for _, gateway := range []netip.Prefix{last.v4, last.v6} {
		if !gateway.IsValid() {
			continue
		}
		everything := netip.PrefixFrom(gateway.Addr(), 0).Masked()
		route := &netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: ipNet(everything), Gw: gateway.Addr().AsSlice()}
		if err := h.RouteAdd(route); err != nil {
			return fmt.Errorf("default route via %s: %w", gateway.Addr(), err)
		}
	}
	return nil
}

// moveOut makes the machine reachable at addresses beyond the underlay. They are on its loopback link, so that it is both
// the router and the host behind it, and nothing needs to be forwarded.
func (m *member) moveOut(h *netlink.Handle) error {
	beyond := map[*netip.Addr]string{&m.node.V4: OutsideV4, &m.node.V6: OutsideV6}
	for at, addr := range beyond {
		if !at.IsValid() {
			continue
		}
		*at = netip.MustParseAddr(addr)
		if err := addAddress(h, linkAt(loopback), netip.PrefixFrom(*at, at.BitLen())); err != nil {
			return err
		}
	}
	return nil
}

// addAddress skips duplicate address detection, during which an address cannot be used.
func addAddress(h *netlink.Handle, link netlink.Link, p netip.Prefix) error {
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}); err != nil {
		return fmt.Errorf("address %s: %w", p, err)
	}
	return nil
}

// noAutomaticAddresses keeps the kernel from giving the link an IPv6 link-local address when it goes up. Kernels without
// IPv6 give none.
func noAutomaticAddresses(h *netlink.Handle, link netlink.Link) error {
	const none = 1 // IN6_ADDR_GEN_MODE_NONE
	err := h.LinkSetIP6AddrGenMode(link, none)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return err
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// inParallel runs fn for each and joins the errors. The kernel serialises most of it (RTNL); the rest gains.
func inParallel[T any](all []T, fn func(T) error) error {
	errs := make([]error, len(all))
	slots := make(chan struct{}, 2*runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for i, one := range all {
		slots <- struct{}{}
		wg.Go(func() {
			errs[i] = fn(one)
			<-slots
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// firstError runs the steps until one fails.
func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
