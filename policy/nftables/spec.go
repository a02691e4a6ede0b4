package nftables

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy"
)

// Spec says what is enforced. The zero Spec enforces nothing and needs no table.
type Spec struct {
	// Rules are those of this node's pods, from a [policy.Compiler] of this node. nil is no table at all.
	Rules *policy.Ruleset
	// Closed are this node's pod prefixes. In them an address that is no pod's in Rules, because nobody has told the compiler
	// yet, is cut off from everybody but its own node. Without them, a pod is open until its rules are there.
	Closed []netip.Prefix
	// Bridges are those that pods are ports of, so that their packets to one another do not come by the hooks of IP unless
	// br_netfilter takes them there. The driver turns it on for the namespace; where it cannot, it closes these bridges to IP
	// between their ports, and Apply says so with [podweft.ErrNotSupported].
	Bridges []string
	// Strict asks the rules about each packet of a connection instead of its first: one that is no longer allowed ends at once,
	// both ways. Each packet then costs what otherwise the first one does, and packets that conntrack does not know, or has been
	// told to leave alone, are denied where anything isolates the pod. ICMP's errors about a connection still pass. Connections
	// that a helper of conntrack expects, such as those of FTP's data, need leave of their own.
	Strict bool
	// Audit lets everything pass. What would have been denied is counted as ever, and logged if the Config says so.
	Audit bool
}

// Validate reports everything in the Spec that makes no sense, each as a [*podweft.FieldError]. It does not look into what a
// Compiler vouches for.
func (s Spec) Validate() error {
	var errs []error
	for i, p := range s.Closed {
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
	for i, name := range s.Bridges {
		if name == "" || len(name) > 15 {
			errs = append(errs, &podweft.FieldError{
				Field: fmt.Sprintf("Bridges[%d]", i), Value: fmt.Sprintf("%q", name), Problem: "is not a link's name", Remedy: "write one like cni0",
			})
		}
	}
	if s.Rules != nil {
		errs = append(errs, oneNode(nodeOf(s.Rules), s.Rules.Endpoints.All()))
	}
	return errors.Join(errs...)
}

// oneNode reports pods that are not of that node: whether a source is its pod's own node is asked of the kernel, which knows of
// one.
func oneNode(name string, list iter.Seq[policy.Endpoint]) error {
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

// bridged are the bridges that policies must reach.
func (s Spec) bridged() []string {
	if s.Rules == nil {
		return nil
	}
	return s.Bridges
}

// equalButRules reports whether s and o differ in their Rules at most.
func (s Spec) equalButRules(o Spec) bool {
	return s.Audit == o.Audit && s.Strict == o.Strict && slices.Equal(s.Closed, o.Closed) && slices.Equal(s.Bridges, o.Bridges) &&
		(s.Rules == nil) == (o.Rules == nil)
}

// disjoint sorts prefixes and leaves out those that another one contains: ranges of a set must not overlap.
func disjoint(prefixes []netip.Prefix) []netip.Prefix {
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
