package calico

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bgp"
)

// bgpFilter is a BGPFilter's spec: rules by the names of their lists.
type bgpFilter map[string][]map[string]any

// The lists of a BGPFilter: what comes from a peer and what goes to it, each of one family.
const (
	importV4, importV6 = "importV4", "importV6"
	exportV4, exportV6 = "exportV4", "exportV6"
)

// filterRule is one of a BGPFilter's rules. The first that matches a path decides; a path that none matches passes.
type filterRule struct {
	within  netip.Prefix
	outside bool // it matches what is not in within
	reject  bool
}

// filterOf makes a Filter of rules of one family. Package bgp's rules match only what is in a prefix. So that a rule for the rest can
// come true, the rules after it are asked before it, of what is in the prefix.
func filterOf(rules []filterRule) bgp.Filter {
	if len(rules) == 0 {
		return nil
	}
	first, rest := rules[0], filterOf(rules[1:])
	within := []netip.Prefix{first.within}
	if !first.outside {
		return append(bgp.Filter{{Within: within, Reject: first.reject}}, rest...)
	}
	var f bgp.Filter
	for _, r := range rest {
		if p := r.Within[0]; p.Overlaps(first.within) {
			if p.Bits() < first.within.Bits() {
				r.Within = within
			}
			f = append(f, r)
		}
	}
	return append(f, bgp.Rule{Within: within}, bgp.Rule{Within: []netip.Prefix{everything(first.within.Addr().Is4())}, Reject: first.reject})
}

// everything is the prefix of all addresses of a family.
func everything(v4 bool) netip.Prefix {
	if v4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// rules reads a list. What it says beyond our means is an error: a path that should have been rejected would pass.
func (f bgpFilter) rules(list string) (all []filterRule, err error) {
	for i, has := range f[list] {
		r, err := ruleOf(fmt.Sprintf("spec.%s[%d].", list, i), has, list == importV4 || list == exportV4)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func ruleOf(at string, has map[string]any, v4 bool) (r filterRule, err error) {
	for _, field := range slices.Sorted(maps.Keys(has)) {
		switch field {
		case "action", "cidr", "matchOperator":
		default:
			return r, &podweft.FieldError{
				Field: at + field, Value: fmt.Sprint(has[field]), Problem: "is a condition that we do not know",
				Remedy: "use action, cidr and matchOperator alone",
			}
		}
	}
	bad := func(field, problem, remedy string) (filterRule, error) {
		value := any(nil)
		if has[field] != nil {
			value = fmt.Sprintf("%q", has[field])
		}
		return r, &podweft.FieldError{Field: at + field, Value: value, Problem: problem, Remedy: remedy}
	}
	switch has["action"] {
	case "Accept":
	case "Reject":
		r.reject = true
	default:
		return bad("action", "is no action", "write Accept or Reject")
	}
	r.within = everything(v4)
	cidr, named := has["cidr"].(string)
	if named {
		if r.within, err = netip.ParsePrefix(cidr); err != nil || r.within.Addr().Is4() != v4 {
			return bad("cidr", "is not a network of "+familyName(v4), "")
		}
		r.within = r.within.Masked()
	}
	switch operator := has["matchOperator"]; {
	case operator == "In" && named, operator == nil && has["cidr"] == nil:
	case operator == "NotIn" && named:
		r.outside = true
	default:
		return bad("matchOperator", "is no way to match that we know", "write In or NotIn, and a cidr")
	}
	return r, nil
}

// filters are what BGPFilters with these names let in and out, one after the other.
func (l *loader) filters(names []string) (in, out bgp.Filter, err error) {
	rules := map[string][]filterRule{}
	for i, name := range names {
		raw, ok := l.filterSpecs[name]
		if !ok {
			return nil, nil, &podweft.FieldError{
				Field: fmt.Sprintf("spec.filters[%d]", i), Value: fmt.Sprintf("%q", name), Problem: "is no BGPFilter that we know of",
				Remedy: "give it in a file of --config",
			}
		}
		var of bgpFilter
		if err := json.Unmarshal(raw, &of); err != nil {
			return nil, nil, fmt.Errorf("BGPFilter %s: %w", name, err)
		}
		for _, list := range slices.Sorted(maps.Keys(of)) {
			switch list {
			case importV4, importV6, exportV4, exportV6:
			default:
				return nil, nil, fmt.Errorf("BGPFilter %s: %w", name, &podweft.FieldError{Field: "spec." + list, Problem: "is a list that we do not know"})
			}
			more, err := of.rules(list)
			if err != nil {
				return nil, nil, fmt.Errorf("BGPFilter %s: %w", name, err)
			}
			rules[list] = append(rules[list], more...)
		}
	}
	in = append(filterOf(rules[importV4]), filterOf(rules[importV6])...)
	out = append(filterOf(rules[exportV4]), filterOf(rules[exportV6])...)
	return in, out, nil
}
