package nftables

import (
	"net/netip"
	"slices"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/enforce"
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
func (s Spec) Validate() error { return enforce.Validate(s.Rules, s.Closed, s.Bridges) }

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
