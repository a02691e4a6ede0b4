package iptables

import (
	"net/netip"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/enforce"
)

// Spec says what is enforced. The zero Spec enforces nothing and needs neither chain nor set.
type Spec struct {
	// Rules are those of this node's pods, from a [policy.Compiler] of this node. nil is nothing at all.
	Rules *policy.Ruleset
	// Closed are this node's pod prefixes. In them an address that is no pod's in Rules, because nobody has told the compiler
	// yet, is cut off from everybody but its own node. Without them, a pod is open until its rules are there.
	Closed []netip.Prefix
	// Bridges are those that pods are ports of, so that their packets to one another do not come by the hooks of IP unless
	// br_netfilter takes them there. The driver turns it on for the namespace; where it cannot, it closes these bridges to IP
	// between their ports, with nf_tables, and Apply says so with [podweft.ErrNotSupported].
	Bridges []string
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
