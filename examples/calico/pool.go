package calico

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/policy"
)

// Mode is when packets are wrapped up.
type Mode string

// The modes. The zero Mode is Never.
const (
	Never       Mode = "Never"
	CrossSubnet Mode = "CrossSubnet" // to nodes that are behind a router
	Always      Mode = "Always"
)

// ParseMode reads a mode as Calico writes it.
func ParseMode(text string) (Mode, error) {
	switch m := Mode(text); m {
	case "", "Off":
		return Never, nil
	case Never, CrossSubnet, Always:
		return m, nil
	}
	return "", &podweft.FieldError{Field: "mode", Value: fmt.Sprintf("%q", text), Problem: "is no mode", Remedy: "write Never, CrossSubnet or Always"}
}

// Pool is a part of the pods' addresses, and how packets to them travel.
type Pool struct {
	Name   string
	Prefix netip.Prefix
	// BlockBits is the prefix length of the blocks that nodes claim; zero means 26 for IPv4 and 122 for IPv6.
	BlockBits int
	// VXLAN and IPIP say when packets are wrapped up; at most one of them ever does.
	VXLAN, IPIP Mode
	// NAT gives pods the node's address when they talk to the world outside all pools.
	NAT bool
	// Nodes are those that claim blocks of the pool; its zero value means all.
	Nodes policy.Selector
	// Namespaces are those whose pods may have addresses of the pool; its zero value means all. A pod that several pools may serve gets
	// an address of any of them. What a pod has it keeps when labels change.
	Namespaces policy.Selector
	// Disabled keeps nodes from claiming more, and pods from getting addresses of what the nodes have. Those that have one keep it.
	Disabled bool
}

// is4 reports whether the pool is of IPv4.
func (p Pool) is4() bool { return p.Prefix.Addr().Is4() }

// way is how packets travel.
type way string

const (
	direct   way = "direct"
	byVXLAN  way = "vxlan"
	byIPIP   way = "ipip"
	noWay    way = "none"
	ownBlock way = "local"
)

// way is how packets of the pool get to a node; near says that it is on the link.
func (p Pool) way(near bool) way {
	for _, w := range []struct {
		when Mode
		way  way
	}{{p.VXLAN, byVXLAN}, {p.IPIP, byIPIP}} {
		if w.when == Always || w.when == CrossSubnet && !near {
			return w.way
		}
	}
	return direct
}

// serves reports whether a node with these labels claims blocks of the pool, and its pods get addresses of them.
func (p Pool) serves(labels map[string]string) bool { return !p.Disabled && p.Nodes.Matches(labels) }

// chooses reports whether the pool is not for the pods of all namespaces.
func (p Pool) chooses() bool {
	return len(p.Namespaces.MatchLabels)+len(p.Namespaces.MatchExpressions) > 0
}

// wraps reports whether packets of the pool are ever wrapped up that way.
func (p Pool) wraps(w way) bool {
	when := map[way]Mode{byVXLAN: p.VXLAN, byIPIP: p.IPIP}[w]
	return when == CrossSubnet || when == Always
}

func (p Pool) validate(field string) error {
	var errs []error
	bad := func(name string, value any, problem, remedy string) {
		errs = append(errs, &podweft.FieldError{Field: field + "." + name, Value: value, Problem: problem, Remedy: remedy})
	}
	switch {
	case !p.Prefix.IsValid() || p.Prefix != p.Prefix.Masked() || p.Prefix.Addr().Is4In6():
		bad("Prefix", p.Prefix, "is not a network", "write one like 10.244.0.0/16")
	case p.BlockBits != 0 && (p.BlockBits < p.Prefix.Bits() || p.BlockBits > p.Prefix.Addr().BitLen()):
		bad("BlockBits", p.BlockBits, "is not the length of a part of "+p.Prefix.String(),
			fmt.Sprintf("use %d to %d", p.Prefix.Bits(), p.Prefix.Addr().BitLen()))
	}
	for name, m := range map[string]Mode{"VXLAN": p.VXLAN, "IPIP": p.IPIP} {
		if _, err := ParseMode(string(m)); err != nil {
			bad(name, m, "is no mode", "use Never, CrossSubnet or Always")
		}
	}
	if p.wraps(byVXLAN) && p.wraps(byIPIP) {
		bad("IPIP", p.IPIP, "and VXLAN both want the packets", "make one of them Never")
	}
	return errors.Join(errs...)
}

// validatePools reports what is wrong with pools, alone and together.
func validatePools(pools []Pool) error {
	var errs []error
	if len(pools) == 0 {
		errs = append(errs, &podweft.FieldError{Field: "Pools", Problem: "are missing", Remedy: "give CALICO_IPV4POOL_CIDR, say"})
	}
	for i, p := range pools {
		field := fmt.Sprintf("Pools[%d]", i)
		errs = append(errs, p.validate(field))
		j := slices.IndexFunc(pools[:i], func(q Pool) bool { return q.Prefix.IsValid() && p.Prefix.IsValid() && q.Prefix.Overlaps(p.Prefix) })
		if j >= 0 {
			errs = append(errs, &podweft.FieldError{Field: field + ".Prefix", Value: p.Prefix, Problem: "overlaps " + pools[j].Prefix.String()})
		}
	}
	return errors.Join(errs...)
}

// poolOf finds the pool that has all of p.
func poolOf(pools []Pool, p netip.Prefix) (Pool, bool) {
	i := slices.IndexFunc(pools, func(q Pool) bool { return q.Prefix.Contains(p.Addr()) && q.Prefix.Bits() <= p.Bits() })
	if i < 0 {
		return Pool{}, false
	}
	return pools[i], true
}

// blocksOf are the pools of a family as a Claimer has them: also those that do not serve the node, or not any more. It may have blocks of
// them; who asks for an address says of which pools.
func blocksOf(pools []Pool, v4 bool) (all []block.Pool) {
	for _, p := range poolsOf(pools, v4) {
		all = append(all, block.Pool{Prefix: p.Prefix, BlockBits: p.BlockBits})
	}
	return all
}

// serving are those of pools that serve a node with these labels.
func serving(pools []Pool, labels map[string]string) []Pool {
	return slices.DeleteFunc(slices.Clone(pools), func(p Pool) bool { return !p.serves(labels) })
}

// prefixes are those of all pools.
func prefixes(pools []Pool) []netip.Prefix {
	all := make([]netip.Prefix, len(pools))
	for i, p := range pools {
		all[i] = p.Prefix
	}
	return all
}
