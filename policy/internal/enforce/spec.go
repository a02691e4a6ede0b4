// Package enforce has what all drivers of policies share, whatever the kernel's rules are written with.
package enforce

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy"
)

// Validate reports everything that makes no sense in the fields Rules, Closed and Bridges of a driver's Spec, each as a
// [*podweft.FieldError].
func Validate(rules *policy.Ruleset, closed []netip.Prefix, bridges []string) error {
	var errs []error
	for i, p := range closed {
		field := fmt.Sprintf("Closed[%d]", i)
		switch {
		case !p.IsValid():
			errs = append(errs, &podweft.FieldError{Field: field, Problem: "is not a prefix", Remedy: "write one like 10.244.1.0/24"})
		case p.Addr().Is4In6():
			errs = append(errs, &podweft.FieldError{
				Field: field, Value: p, Problem: "is IPv4 written as IPv6", Remedy: "write it as IPv4: that is how its packets travel",
			})
		}
	}
	for i, name := range bridges {
		if name == "" || len(name) > 15 {
			errs = append(errs, &podweft.FieldError{
				Field: fmt.Sprintf("Bridges[%d]", i), Value: fmt.Sprintf("%q", name), Problem: "is not a link's name", Remedy: "write one like cni0",
			})
		}
	}
	if rules != nil {
		errs = append(errs, OneNode(rules, rules.Endpoints.All()))
	}
	return errors.Join(errs...)
}

// OneNode reports those of list that are not of the node that rules are for: whether a source is its pod's own node is asked of
// the kernel, which knows of one.
func OneNode(rules *policy.Ruleset, list iter.Seq[policy.Endpoint]) error {
	name := nodeOf(rules)
	for e := range list {
		if e.Pod.Node != name {
			return &podweft.FieldError{
				Field: "Rules", Problem: fmt.Sprintf("are for pods of %s and %s", name, e.Pod.Node),
				Remedy: "compile them for this node: NewCompiler(name)",
			}
		}
	}
	return nil
}

// nodeOf is the node of the first pod, and so of all.
func nodeOf(rules *policy.Ruleset) string {
	for e := range rules.Endpoints.All() {
		return e.Pod.Node
	}
	return ""
}

// Disjoint sorts prefixes and leaves out those that another one contains: ranges of an nftables set must not overlap, and what
// is in an ipset twice would go with the first that goes.
func Disjoint(prefixes []netip.Prefix) []netip.Prefix {
	masked := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		masked = append(masked, p.Masked())
	}
	slices.SortFunc(masked, netip.Prefix.Compare) // the wider first, at the same address
	var kept []netip.Prefix
	for _, p := range masked {
		if len(kept) == 0 || !kept[len(kept)-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return kept
}
