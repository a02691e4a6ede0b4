package bgp

import (
	"fmt"
	"net/netip"
	"slices"
)

// Filter decides about paths as they come from a peer or go to it. The first Rule that matches a path decides; a path that none
// matches passes. A last Rule{Reject: true} makes a list of what may pass.
type Filter []Rule

// Rule is what a Filter does with the paths that match all its conditions.
type Rule struct {
	Within      []netip.Prefix // matches these prefixes and everything in them; none: any prefix
	Communities []Community    // matches a path with one of them; none: any path

	Reject         bool        // the path does not pass
	AddCommunities []Community // to a path that passes
	LocalPref      uint32      // of a path that passes, if not zero: among several paths the highest wins; 100 is usual
}

func (f Filter) equal(o Filter) bool { return slices.EqualFunc(f, o, Rule.equal) }

func (r Rule) equal(o Rule) bool {
	return r.Reject == o.Reject && r.LocalPref == o.LocalPref && slices.Equal(r.Within, o.Within) &&
		slices.Equal(r.Communities, o.Communities) && slices.Equal(r.AddCommunities, o.AddCommunities)
}

func (f Filter) validate(p *problems, at string) {
	for i, r := range f {
		field := fmt.Sprintf("%s[%d].", at, i)
		for _, prefix := range r.Within {
			if !prefix.IsValid() || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
				p.add(field+"Within", prefix, "is not a subnet", "leave no host bits set")
			}
		}
		if r.Reject && (len(r.AddCommunities) > 0 || r.LocalPref != 0) {
			p.add(field+"Reject", nil, "leaves no path to change", "drop AddCommunities and LocalPref, or Reject")
		}
	}
}
