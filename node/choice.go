package node

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// Choice says how the underlay interface is chosen. Its zero value chooses the interface of the default route. Each field that
// is set narrows the choice.
//
// Of several addresses of a family the node has the one that the choice names or matches, else the oldest that is there to stay: a
// virtual address that comes to the interface later, or a temporary one, does not move the node.
type Choice struct {
	// Name is the interface's name, or one of its addresses, which peers then send to.
	Name string
	// Public are the addresses that peers send to. One that an interface of the node has chooses that interface, and the address where
	// there are several. One that none has is that of a NAT before the node, as clouds have them: it is published as it is, and the
	// interface is chosen by the rest. Such a NAT has to lead to the node what is sent to the address, and to have that for a source
	// what the node sends.
	Public subnet.Addrs
	// Match is a pattern that its name or one of its addresses has to match.
	Match *regexp.Regexp
	// Reach is an address that packets leave by it for.
	Reach netip.Addr
	// Family is 4 or 6 for a node that has addresses of that family alone, whatever else is on its interfaces: other addresses and
	// default routes do not count. 0 is both.
	Family int
}

func (c Choice) validate() error {
	if c.Family != 0 && c.Family != 4 && c.Family != 6 {
		return &podweft.FieldError{Field: "Underlay.Family", Value: c.Family, Problem: "is no family of addresses", Remedy: "use 4, 6, or 0 for both"}
	}
	var errs []error
	for _, f := range families {
		a := f.of(c.Public)
		if a == (netip.Addr{}) {
			continue
		}
		bad := &podweft.FieldError{Field: "Underlay.Public." + f.field, Value: a, Remedy: "give the address that peers send to"}
		switch {
		case a.Is4() != f.v4 || a.Is4In6():
			bad.Problem = "is not an " + f.name + " address"
		case !a.IsGlobalUnicast() || a.Zone() != "":
			bad.Problem = "is not an address that peers could send to"
		case !c.admits(f.v4):
			bad.Problem = fmt.Sprintf("does not count on a node of IPv%d alone", c.Family)
		default:
			continue
		}
		errs = append(errs, bad)
	}
	return errors.Join(errs...)
}

// families are both families of addresses, to say of each what holds for either.
var families = []struct {
	v4          bool
	name, field string
	of          func(subnet.Addrs) netip.Addr
}{
	{true, "IPv4", "V4", func(a subnet.Addrs) netip.Addr { return a.V4 }},
	{false, "IPv6", "V6", func(a subnet.Addrs) netip.Addr { return a.V6 }},
}

// demands reports whether the choice says which interface; else it is that of the default route.
func (c Choice) demands() bool {
	return c.Name != "" || !c.Public.IsZero() || c.Match != nil || c.Reach.IsValid()
}

// admits reports whether addresses of the family count.
func (c Choice) admits(v4 bool) bool { return c.Family == 0 || v4 == (c.Family == 4) }

// Candidate is an interface that could be the underlay, or why it could not.
type Candidate struct {
	// Node is what the interface would make of the node: its device, MTU and addresses, also those of a NAT before it. Name is left
	// empty.
	Node subnet.Node
	// Reasons are what speaks for it: "default route of IPv4", "named eth1".
	Reasons []string
	// Excluded is what speaks against it; empty for one that can be chosen.
	Excluded string
}

// String is the candidate as a line for people.
func (c Candidate) String() string {
	s := c.Node.Device
	if !c.Node.Underlay.IsZero() {
		s += " (" + c.Node.Underlay.String() + ")"
	}
	if c.Excluded != "" {
		return s + ": " + c.Excluded
	}
	if len(c.Reasons) == 0 {
		return s
	}
	return s + ": " + strings.Join(c.Reasons, ", ")
}

// ChoiceError is what Choose returns when no interface is left, or more than one.
type ChoiceError struct {
	Choice     Choice
	Candidates []Candidate // all interfaces, those that can be chosen first
}

// Ambiguous reports whether there is more than one interface to choose from, rather than none.
func (e *ChoiceError) Ambiguous() bool {
	return len(e.Candidates) > 1 && e.Candidates[1].Excluded == ""
}

// Error lists the interfaces with what speaks for or against each, and says what to do.
func (e *ChoiceError) Error() string {
	problem, remedy := "no interface can be the underlay", "name one that has an address, or give one a default route"
	if e.Ambiguous() {
		problem, remedy = "several interfaces could be the underlay", "name one"
	}
	lines := make([]string, len(e.Candidates))
	for i, c := range e.Candidates {
		lines[i] = c.String()
	}
	return fmt.Sprintf("%s (%s): %s", problem, strings.Join(lines, "; "), remedy)
}
