package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Filter decides about paths as they come from a peer or go to it. The first Rule that matches a path decides; a path that none
// matches passes. A last Rule{Reject: true} makes a list of what may pass.
type Filter []Rule

// Rule is what a Filter does with the paths that match all its conditions.
type Rule struct {
	Within []netip.Prefix // matches these prefixes and everything in them; none: any prefix
	// MinLength and MaxLength bound the length of what matches in Within, in bits. Zero is no bound.
	MinLength, MaxLength int
	// Outside matches instead what those three would not, of the families that are in Within.
	Outside     bool
	Communities []Community // matches a path with one of them; none: any path

	Reject         bool        // the path does not pass
	AddCommunities []Community // to a path that passes
	LocalPref      uint32      // of a path that passes, if not zero: among several paths the highest wins; 100 is usual
}

func (f Filter) equal(o Filter) bool { return slices.EqualFunc(f, o, Rule.equal) }

func (r Rule) equal(o Rule) bool {
	return r.Reject == o.Reject && r.LocalPref == o.LocalPref && slices.Equal(r.Within, o.Within) &&
		r.MinLength == o.MinLength && r.MaxLength == o.MaxLength && r.Outside == o.Outside &&
		slices.Equal(r.Communities, o.Communities) && slices.Equal(r.AddCommunities, o.AddCommunities)
}

func (f Filter) validate(p *problems, at string) {
	for i, r := range f {
		field := fmt.Sprintf("%s[%d].", at, i)
		for _, prefix := range r.Within {
			if !prefix.IsValid() || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
				p.add(field+"Within", prefix, "is not a subnet", "leave no host bits set")
			}
			if most := cmp.Or(r.MaxLength, prefix.Addr().BitLen()); most < max(r.MinLength, prefix.Bits()) || most > prefix.Addr().BitLen() || r.MinLength < 0 {
				p.add(field+"MaxLength", r.MaxLength, "and MinLength leave nothing of "+prefix.String(), "")
			}
		}
		if len(r.Within) == 0 && (r.Outside || r.MinLength != 0 || r.MaxLength != 0) {
			p.add(field+"Within", nil, "is missing: of it Outside, MinLength and MaxLength speak", "give 0.0.0.0/0, say")
		}
		if r.Reject && (len(r.AddCommunities) > 0 || r.LocalPref != 0) {
			p.add(field+"Reject", nil, "leaves no path to change", "drop AddCommunities and LocalPref, or Reject")
		}
	}
}
