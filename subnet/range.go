package subnet

import (
	"fmt"
	"iter"
	"net/netip"

	"github.com/podweft/podweft"
)

// Range is one family's part of a [Network]: the subnets of SubnetLen from Min to Max. Network alone is required; what is
// zero has flannel's default, which [ParseNetwork] documents. The zero Range means that the family is off.
type Range struct {
	Network   netip.Prefix // the whole address space of the pods
	SubnetLen int          // prefix length of one node's subnet
	Min, Max  netip.Addr   // addresses of the first and the last subnet that is leased
}

// IsZero reports whether the family is off.
func (r Range) IsZero() bool { return r == Range{} }

// All yields every subnet that may be leased, in order. There can be very many of them in IPv6.
func (r Range) All() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		r := r.filled()
		if !r.valid() {
			return
		}
		step := uint128{lo: 1}.shiftLeft(r.Network.Addr().BitLen() - r.SubnetLen)
		last := toUint128(r.Max)
		for at := toUint128(r.Min); at.compare(last) <= 0; at = at.add(step) {
			if !yield(netip.PrefixFrom(at.addr(r.Min), r.SubnetLen)) || at == last {
				return
			}
		}
	}
}

// Contains reports whether p is one of the subnets that may be leased.
func (r Range) Contains(p netip.Prefix) bool {
	r = r.filled()
	return r.valid() && p.IsValid() && p.Bits() == r.SubnetLen && p == p.Masked() &&
		p.Addr().BitLen() == r.Min.BitLen() && p.Addr().Compare(r.Min) >= 0 && p.Addr().Compare(r.Max) <= 0
}

// valid reports whether the methods of r, filled, can calculate with it. [Network.Validate] says what is wrong.
func (r Range) valid() bool {
	f := r.family()
	if !r.Network.IsValid() || !f.has(r.Network.Addr()) || !f.has(r.Min) || !f.has(r.Max) || r.SubnetLen <= 0 {
		return false
	}
	first, err1 := r.Min.Prefix(r.SubnetLen)
	last, err2 := r.Max.Prefix(r.SubnetLen)
	return err1 == nil && err2 == nil && first.Addr() == r.Min && last.Addr() == r.Max && r.Min.Compare(r.Max) <= 0
}

func (r Range) family() family {
	if r.Network.Addr().Is4() {
		return v4
	}
	return v6
}

// filled returns r with the defaults in place of what is zero.
func (r Range) filled() Range {
	if !r.Network.IsValid() {
		return r
	}
	rules := r.family().lengths()
	if r.SubnetLen == 0 {
		r.SubnetLen = max(rules.usual, r.Network.Bits()+2)
	}
	if r.SubnetLen < 0 || r.SubnetLen > r.Network.Addr().BitLen() {
		return r
	}
	size := uint128{lo: 1}.shiftLeft(r.Network.Addr().BitLen() - r.SubnetLen)
	first := toUint128(r.Network.Masked().Addr())
	if !r.Min.IsValid() {
		// The first subnet is left out: its zero address is the network's own, which some hosts take for a broadcast.
		r.Min = first.add(size).addr(r.Network.Addr())
	}
	if !r.Max.IsValid() {
		all := uint128{lo: 1}.shiftLeft(r.Network.Addr().BitLen() - r.Network.Bits())
		r.Max = first.add(all).sub(size).addr(r.Network.Addr())
	}
	return r
}

// check returns r with its defaults, and every problem it has. The zero Range has none.
func (r Range) check(f family) (Range, []error) {
	if r.IsZero() {
		return r, nil
	}
	names, rules := f.fieldNames(), f.lengths()
	var errs []error
	fail := func(field string, value any, problem, remedy string) {
		errs = append(errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
	}
	switch {
	case !r.Network.IsValid() || !f.has(r.Network.Addr()):
		fail(names.network, r.Network, "is not an "+f.String()+" network", fmt.Sprintf("write %q", names.example))
		return r, errs
	case r.Network != r.Network.Masked():
		fail(names.network, r.Network, "has host bits set", "write "+r.Network.Masked().String())
		return r, errs
	case r.SubnetLen == 0 && r.Network.Bits() > rules.smallest:
		fail(names.network, r.Network, "is too small to be divided among nodes", fmt.Sprintf("use /%d or larger", rules.smallest))
		return r, errs
	case r.SubnetLen > rules.longest || r.SubnetLen < 0:
		fail(names.length, r.SubnetLen, "leaves a node no room for pods", fmt.Sprintf("use %d at most", rules.longest))
		return r, errs
	case r.SubnetLen != 0 && r.SubnetLen < r.Network.Bits()+2:
		fail(names.length, r.SubnetLen, fmt.Sprintf("makes fewer than four subnets of %s", r.Network), fmt.Sprintf("use %d at least", r.Network.Bits()+2))
		return r, errs
	}
	r = r.filled()
	for _, bound := range [...]struct {
		field string
		addr  netip.Addr
	}{{names.first, r.Min}, {names.last, r.Max}} {
		subnet, _ := bound.addr.Prefix(r.SubnetLen)
		switch {
		case !r.Network.Contains(bound.addr):
			fail(bound.field, bound.addr, "lies outside the network "+r.Network.String(), "")
		case subnet.Addr() != bound.addr:
			fail(bound.field, bound.addr, fmt.Sprintf("is not the address of a /%d subnet", r.SubnetLen), "write "+subnet.Addr().String())
		}
	}
	if len(errs) == 0 && r.Min.Compare(r.Max) > 0 {
		fail(names.first, r.Min, "comes after "+names.last+" "+r.Max.String(), "exchange them")
	}
	return r, errs
}

// lengthRules are flannel's rules for prefix lengths (its CheckNetworkConfig).
type lengthRules struct {
	usual    int // a subnet's length in a network that holds at least four of it
	longest  int // a subnet's: room for a gateway and a pod
	smallest int // the network's, when the subnet's length is left to us
}

func (f family) lengths() lengthRules {
	if f == v4 {
		return lengthRules{usual: 24, longest: 30, smallest: 28}
	}
	return lengthRules{usual: 64, longest: 126, smallest: 124}
}

// fieldNames are the names of a Range's fields in net-conf.json, for errors.
type fieldNames struct {
	network, length, first, last string
	example, exampleLength       string
}

func (f family) fieldNames() fieldNames {
	if f == v4 {
		return fieldNames{"Network", "SubnetLen", "SubnetMin", "SubnetMax", "10.244.0.0/16", "24"}
	}
	return fieldNames{"IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax", "fd00:244::/48", "64"}
}
