package testnet

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sysctl"
)

// routerHost is the router's address in each network of [Racks]: 192.0.2.254.
const routerHost = 254

// wan is the router's bridge to the machine outside.
const wan = "wan"

// rackNetworks are the underlays of the first racks: addresses that are kept for documentation (RFC 5737, RFC 3849).
var rackNetworks = []struct{ v4, v6 string }{
	{DefaultV4, DefaultV6},
	{"198.51.100.0/24", "2001:db8:0:1::/64"},
}

// RacksConfig says what [Racks] look like. Its zero value is two racks of two nodes.
type RacksConfig struct {
	// Nodes is the number of nodes in each rack, at most 200; 0 means 2.
	Nodes int
	// MTU of the underlay in bytes; 0 means 1500.
	MTU int
}

// Racks are two rows of nodes, each on a network of its own, and a router between them and to the world outside. The nodes are
// numbered through: with two in each rack, node3 is the first of the second. Each has a link eth0 and a default route to the
// router, and is otherwise as in a [Fabric].
type Racks struct {
	Racks [][]*Node
	// Router has the racks' switches rack1 and rack2, each with its address in that network (192.0.2.254, 198.51.100.254) and a port
	// for each node, which bears the node's name. It forwards, and knows nothing but these networks.
	Router *Node
	// Outside is a machine beyond the router, with the addresses OutsideV4 and OutsideV6. It knows the way to the nodes and to
	// nobody else.
	Outside *Node
}

// NewRacks builds racks for a test. They end with the test, which then fails if it left anything behind in a node.
func NewRacks(t TB, cfg RacksConfig) *Racks {
	t.Helper()
	Require(t)
	r, err := BuildRacks(cfg)
	if err != nil {
		t.Fatalf("testnet: %v", err)
	}
	cleanUp(t, r.Close, r.all()...)
	return r
}

// BuildRacks builds racks for a program, which must Close them. It needs the privileges that [Enter] gives. A bad field is a
// [*podweft.FieldError].
func BuildRacks(cfg RacksConfig) (*Racks, error) {
	if cfg.Nodes == 0 {
		cfg.Nodes = defaultNodes
	}
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if cfg.Nodes < 0 || cfg.Nodes > 200 {
		return nil, &podweft.FieldError{Field: "Nodes", Value: cfg.Nodes, Problem: "is not a number of nodes that a rack takes", Remedy: "use 1 to 200"}
	}
	if cfg.MTU < 1280 || cfg.MTU > 65535 {
		return nil, &podweft.FieldError{Field: "MTU", Value: cfg.MTU, Problem: "is not an MTU for this underlay", Remedy: "use 1280 to 65535"}
	}
	r := &Racks{}
	if err := r.build(cfg); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Nodes are those of all racks, by their numbers.
func (r *Racks) Nodes() []*Node {
	var all []*Node
	for _, rack := range r.Racks {
		all = append(all, rack...)
	}
	return all
}

// Close lets go of all its namespaces; see [Node.Close].
func (r *Racks) Close() error {
	var errs []error
	for _, n := range r.all() {
		errs = append(errs, n.Close())
	}
	return errors.Join(errs...)
}

func (r *Racks) all() []*Node {
	all := r.Nodes()
	for _, n := range []*Node{r.Outside, r.Router} {
		if n != nil {
			all = append(all, n)
		}
	}
	return all
}

// row is what is on one of the router's bridges.
type row struct {
	bridge  string
	v4, v6  netip.Prefix
	members []*member
}

// rows numbers the machines: every MAC is of its machine alone.
func rows(cfg RacksConfig) []*row {
	var all []*row
	number := 0
	for i, network := range rackNetworks {
		one := &row{bridge: fmt.Sprintf("rack%d", i+1), v4: netip.MustParsePrefix(network.v4), v6: netip.MustParsePrefix(network.v6)}
		for j := range cfg.Nodes {
			number++
			one.members = append(one.members, one.member(fmt.Sprintf("node%d", number), number, j+1))
		}
		all = append(all, one)
	}
	out := &row{
		bridge: wan, v4: netip.PrefixFrom(netip.MustParseAddr(OutsideV4), 24).Masked(), v6: netip.PrefixFrom(netip.MustParseAddr(OutsideV6), 64).Masked(),
	}
	out.members = []*member{out.member("outside", number+1, 1)}
	return append(all, out)
}

// member is number i of all machines and number at of the row.
func (r *row) member(name string, i, at int) *member {
	return &member{
		name: name, mac: podweft.MAC{0x02, 4: byte(i >> 8), 5: byte(i)},
		v4: host(r.v4, at), v6: host(r.v6, at), local: host(netip.MustParsePrefix("fe80::/64"), at),
	}
}

func (r *Racks) build(cfg RacksConfig) (err error) {
	if r.Router, err = BuildNode("router"); err != nil {
		return err
	}
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := sysctl.Ensure(r.Router.path, key, "1"); err != nil {
			return err
		}
	}
	h, err := r.Router.dial()
	if err != nil {
		return err
	}
	defer h.Close()
	all := rows(cfg)
	ports := 0
	for _, one := range all {
		err := one.build(h, cfg.MTU)
		var nodes []*Node
		for _, m := range one.members { // those that were built must be closed even if others could not be
			if m.node != nil {
				nodes = append(nodes, m.node)
			}
		}
		if one.bridge != wan {
			r.Racks = append(r.Racks, nodes)
		} else if len(nodes) > 0 {
			r.Outside = nodes[0]
		}
		if err != nil {
			return err
		}
		ports += len(one.members)
	}
	if err := awaitPorts(h, ports); err != nil {
		return err
	}
	for _, one := range all {
		if err := inParallel(one.members, (*member).awaitUplink); err != nil {
			return err
		}
	}
	return nil
}

// build makes the row's switch, with the router's addresses, and the machines on it.
func (r *row) build(router *netlink.Handle, mtu int) error {
	bridge, err := addBridge(router, r.bridge, mtu)
	if err != nil {
		return err
	}
	for _, a := range []netip.Prefix{host(r.v4, routerHost), host(r.v6, routerHost), host(netip.MustParsePrefix("fe80::/64"), routerHost)} {
		if err := addAddress(router, linkAt(bridge), a); err != nil {
			return opError("configure", "bridge "+r.bridge, err)
		}
	}
	if err := inParallel(r.members, func(m *member) error { return m.plug(router, bridge, mtu) }); err != nil {
		return err
	}
	return inParallel(r.members, func(m *member) error {
		return m.node.configure(func(h *netlink.Handle) error {
			eth0, err := h.LinkByName(uplinkName)
			if err != nil {
				return m.opError("configure", err)
			}
			return m.opError("configure", firstError(
				func() error { return m.address(h, eth0) },
				func() error { return h.LinkSetUp(eth0) },
				func() error { return m.meet(h, eth0, r.members) },
				func() error { return r.lead(h, eth0) },
			))
		})
	})
}

// lead makes the router the way to the other rows: for nodes by a default route, and from outside to the racks alone.
func (r *row) lead(h *netlink.Handle, eth0 netlink.Link) error {
	for _, gateway := range []netip.Addr{host(r.v4, routerHost).Addr(), host(r.v6, routerHost).Addr()} {
		beyond := []netip.Prefix{netip.PrefixFrom(gateway, 0).Masked()}
		if r.bridge == wan {
			beyond = nil
			for _, network := range rackNetworks {
				beyond = append(beyond, netip.MustParsePrefix(network.v4), netip.MustParsePrefix(network.v6))
			}
		}
		for _, to := range beyond {
			if to.Addr().Is4() != gateway.Is4() {
				continue
			}
			route := &netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: ipNet(to), Gw: gateway.AsSlice()}
			if err := h.RouteAdd(route); err != nil {
				return fmt.Errorf("route %s via %s: %w", to, gateway, err)
			}
		}
	}
	return nil
}
