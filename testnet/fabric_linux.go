package testnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
)

// The underlay of a [Fabric] that asks for none: addresses that are kept for documentation (RFC 5737, RFC 3849).
const (
	DefaultV4 = "192.0.2.0/24"
	DefaultV6 = "2001:db8::/64"
)

// The addresses of [Fabric.Outside], beyond every underlay.
const (
	OutsideV4 = "203.0.113.1"
	OutsideV6 = "2001:db8:ffff::1"
)

const (
	defaultNodes = 2
	defaultMTU   = 1500
	maxPorts     = 1023 // BR_MAX_PORTS (net/bridge/br_private.h), less port 0
)

// FabricConfig says what a [Fabric] looks like. Its zero value is two nodes on an underlay of both families.
type FabricConfig struct {
	// Nodes is the number of nodes, at most 1,022; 0 means 2.
	Nodes int
	// V4 and V6 are the underlay's networks; node 1 has the first address of each. When neither is set they are
	// DefaultV4 and DefaultV6; when one is set the underlay has that family only.
	V4, V6 netip.Prefix
	// MTU of the underlay in bytes; 0 means 1500.
	MTU int
	// Outside adds a machine beyond the underlay, which each node reaches by a default route.
	Outside bool
}

// Fabric is a row of nodes on one Ethernet switch. The nodes are named node1, node2 and so on; each has a link eth0, whose
// other end is a port of the switch's bridge br0 and bears the node's name. Node 3 has the third address of each network
// (192.0.2.3, 2001:db8::3), fe80::3, and the MAC 02:00:00:00:00:03; the nodes know each other's by permanent neighbour
// entries. All of it works from the moment that Build returns.
type Fabric struct {
	Nodes []*Node
	// Switch is the namespace of the bridge; it has no addresses. Take a port down to pull a node's cable.
	Switch *Node
	// Outside is the machine beyond the underlay, nil unless asked for. Its V4 and V6 are OutsideV4 and OutsideV6; it
	// knows the way back to the underlay's addresses and to no other, so pods reach it through masquerade only.
	Outside *Node
}

// NewFabric builds a fabric for a test. It ends with the test, which then fails if it left anything behind in a node.
func NewFabric(t TB, cfg FabricConfig) *Fabric {
	t.Helper()
	Require(t)
	f, err := Build(cfg)
	if err != nil {
		t.Fatalf("testnet: %v", err)
	}
	cleanUp(t, f.Close, f.all()...)
	return f
}

// Build builds a fabric for a program, which must Close it. It needs the privileges that [Enter] gives. A bad field is a
// [*podweft.FieldError].
func Build(cfg FabricConfig) (*Fabric, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	f := &Fabric{}
	if err := f.build(cfg); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close lets go of all its namespaces; see [Node.Close].
func (f *Fabric) Close() error {
	var errs []error
	for _, n := range f.all() {
		errs = append(errs, n.Close())
	}
	return errors.Join(errs...)
}

func (f *Fabric) all() []*Node {
	all := slices.Concat(f.Nodes, []*Node{f.Outside, f.Switch})
	return slices.DeleteFunc(all, func(n *Node) bool { return n == nil })
}

func (cfg FabricConfig) withDefaults() FabricConfig {
	if cfg.Nodes == 0 {
		cfg.Nodes = defaultNodes
	}
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if !cfg.V4.IsValid() && !cfg.V6.IsValid() {
		cfg.V4, cfg.V6 = netip.MustParsePrefix(DefaultV4), netip.MustParsePrefix(DefaultV6)
	}
	return cfg
}

func (cfg FabricConfig) validate() error {
	var errs []error
	bad := func(field string, value any, problem, remedy string) {
		errs = append(errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
	}
	if cfg.Nodes < 0 || cfg.members() > maxPorts {
		bad("Nodes", cfg.Nodes, "is not a number of nodes that a switch takes", fmt.Sprintf("use 1 to %d", maxPorts-1))
	}
	if cfg.V4.IsValid() && !cfg.V4.Addr().Is4() {
		bad("V4", cfg.V4, "is not an IPv4 network", "use one like "+DefaultV4)
	}
	if cfg.V6.IsValid() && (!cfg.V6.Addr().Is6() || cfg.V6.Addr().Is4In6()) {
		bad("V6", cfg.V6, "is not an IPv6 network", "use one like "+DefaultV6)
	}
	if least := cfg.leastMTU(); cfg.MTU < least || cfg.MTU > 65535 {
		bad("MTU", cfg.MTU, "is not an MTU for this underlay", fmt.Sprintf("use %d to 65535", least))
	}
	for _, network := range []struct {
		field  string
		prefix netip.Prefix
	}{{"V4", cfg.V4}, {"V6", cfg.V6}} {
		if network.prefix.IsValid() && !fits(network.prefix, cfg.members()) {
			bad(network.field, network.prefix, fmt.Sprintf("has no room for %d machines", cfg.members()), "use a shorter prefix")
		}
	}
	return errors.Join(errs...)
}

// leastMTU: RFC 791 and RFC 8200, section 5. Below, the kernel takes the family off the link.
func (cfg FabricConfig) leastMTU() int {
	if cfg.V6.IsValid() {
		return 1280
	}
	return 68
}

// members counts the machines on the underlay.
func (cfg FabricConfig) members() int {
	if cfg.Outside {
		return cfg.Nodes + 1
	}
	return cfg.Nodes
}

// fits reports whether network has n addresses besides its first and, for a v4 broadcast, its last.
func fits(network netip.Prefix, n int) bool {
	hostBits := network.Addr().BitLen() - network.Bits()
	return hostBits > 30 || n <= 1<<hostBits-2
}

// host is the network's address number n; the zero Prefix where there is no network.
func host(network netip.Prefix, n int) netip.Prefix {
	if !network.IsValid() {
		return netip.Prefix{}
	}
	raw := network.Masked().Addr().As16()
	low := raw[8:]
	binary.BigEndian.PutUint64(low, binary.BigEndian.Uint64(low)+uint64(n)) // fits saw to it that nothing is carried
	addr := netip.AddrFrom16(raw)
	if network.Addr().Is4() {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, network.Bits())
}
