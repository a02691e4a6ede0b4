package calico

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bgp"
)

// bgpFilter is a BGPFilter's spec: rules for what comes from a peer and for what goes to it, of each family. The first that matches a
// path decides; a path that none matches passes.
type bgpFilter struct {
	ImportV4, ImportV6, ExportV4, ExportV6 []filterRule
}

// filterRule is one of a BGPFilter's rules. Without a cidr it matches everything.
type filterRule struct {
	Action        string
	CIDR          string
	MatchOperator string
	PrefixLength  *struct{ Min, Max *int } // of what In and NotIn match; Calico has it in bits
}

// everything is the prefix of all addresses of a family.
func everything(v4 bool) netip.Prefix {
	if v4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// rule is r, of a list of one family, as package bgp says it.
func (r filterRule) rule(at string, v4 bool) (rule bgp.Rule, err error) {
	bad := func(field string, value any, problem, remedy string) (bgp.Rule, error) {
		return rule, &podweft.FieldError{Field: at + field, Value: value, Problem: problem, Remedy: remedy}
	}
	switch r.Action {
	case "Accept":
	case "Reject":
		rule.Reject = true
	default:
		return bad("action", fmt.Sprintf("%q", r.Action), "is no action", "write Accept or Reject")
	}
	within := everything(v4)
	if r.CIDR != "" {
		if within, err = netip.ParsePrefix(r.CIDR); err != nil || within.Addr().Is4() != v4 {
			return bad("cidr", fmt.Sprintf("%q", r.CIDR), "is not a network of "+familyName(v4), "")
		}
	}
	rule.Within = []netip.Prefix{within.Masked()}
	lowest, highest := within.Bits(), within.Addr().BitLen()
	switch equal := r.MatchOperator == "Equal" || r.MatchOperator == "NotEqual"; {
	case (r.CIDR == "") != (r.MatchOperator == ""):
		return bad("matchOperator", fmt.Sprintf("%q", r.MatchOperator), "goes with a cidr", "give both or neither")
	case !slices.Contains([]string{"", "In", "NotIn", "Equal", "NotEqual"}, r.MatchOperator):
		return bad("matchOperator", fmt.Sprintf("%q", r.MatchOperator), "is no way to match", "write In, NotIn, Equal or NotEqual")
	case r.PrefixLength != nil && (equal || r.CIDR == ""):
		return bad("prefixLength", nil, "goes with In and NotIn, and a cidr", "leave it out")
	case equal:
		highest = lowest
	case r.PrefixLength != nil:
		least, most := lowest, highest
		if r.PrefixLength.Min != nil {
			least = *r.PrefixLength.Min
		}
		if r.PrefixLength.Max != nil {
			most = *r.PrefixLength.Max
		}
		if least < lowest || most > highest || most < least {
			return bad("prefixLength", fmt.Sprintf("%d to %d", least, most), "is no length of what is in "+within.String(),
				fmt.Sprintf("use %d to %d", lowest, highest))
		}
		lowest, highest = least, most
	}
	rule.Outside = strings.HasPrefix(r.MatchOperator, "Not")
	if highest == 0 { // which would be no bound: the default route is what is no longer than it
		rule.MinLength, rule.Outside = 1, !rule.Outside
		return rule, nil
	}
	if lowest > within.Bits() {
		rule.MinLength = lowest
	}
	if highest < within.Addr().BitLen() {
		rule.MaxLength = highest
	}
	return rule, nil
}

// filters are what BGPFilters with these names let in and out, one after the other.
func (l *loader) filters(names []string) (in, out bgp.Filter, err error) {
	for i, name := range names {
		raw, ok := l.filterSpecs[name]
		if !ok {
			return nil, nil, &podweft.FieldError{
				Field: fmt.Sprintf("spec.filters[%d]", i), Value: fmt.Sprintf("%q", name), Problem: "is no BGPFilter that we know of",
				Remedy: "give it in a file of --config",
			}
		}
		var of bgpFilter
		err := readSpec(raw, &of)
		for _, list := range []struct {
			name  string
			v4    bool
			rules []filterRule
			to    *bgp.Filter
		}{
			{"importV4", true, of.ImportV4, &in}, {"importV6", false, of.ImportV6, &in},
			{"exportV4", true, of.ExportV4, &out}, {"exportV6", false, of.ExportV6, &out},
		} {
			for i, r := range list.rules {
				rule, ruleErr := r.rule(fmt.Sprintf("spec.%s[%d].", list.name, i), list.v4)
				err = errors.Join(err, ruleErr)
				*list.to = append(*list.to, rule)
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("BGPFilter %s: %w", name, err)
		}
	}
	return in, out, nil
}
