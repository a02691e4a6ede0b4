package bgp

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/api"
)

// The engine has one list of policies for all its sessions; a set of neighbours in a statement's conditions makes it one
// peer's. Both lists are always assigned, and only their content changes.
const (
	importPolicy = "import"
	exportPolicy = "export"
	globalTable  = "global" // the engine's name for what is not a VRF or a route server's
)

func (e *engine) assignPolicies(ctx context.Context) error {
	if err := e.setFilters(ctx, nil); err != nil {
		return err
	}
	for name, direction := range map[string]api.PolicyDirection{
		importPolicy: api.PolicyDirection_POLICY_DIRECTION_IMPORT,
		exportPolicy: api.PolicyDirection_POLICY_DIRECTION_EXPORT,
	} {
		err := e.server.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name: globalTable, Direction: direction, DefaultAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
			Policies: []*api.Policy{{Name: name}},
		}})
		if err != nil {
			return fmt.Errorf("assign filters: %w", err)
		}
	}
	return nil
}

// setFilters replaces all filters by those of the peers.
func (e *engine) setFilters(ctx context.Context, peers []Peer) error {
	if err := e.server.SetPolicies(ctx, policies(peers, e.cfg.NextHop.V6)); err != nil {
		return fmt.Errorf("set filters: %w", err)
	}
	return nil
}

// policies turns the peers' filters into the engine's terms. The speaker has that next hop for IPv6.
func policies(peers []Peer, hop netip.Addr) *api.SetPoliciesRequest {
	var sets sets
	imports := sets.statements(importPolicy, peers, func(p Peer) Filter { return p.Import })
	exports := append(sets.transit(peers, hop), sets.statements(exportPolicy, peers, func(p Peer) Filter { return p.Export })...)
	return &api.SetPoliciesRequest{
		Policies:    []*api.Policy{{Name: importPolicy, Statements: imports}, {Name: exportPolicy, Statements: exports}},
		DefinedSets: sets.all,
	}
}

// sets are the named lists that statements refer to.
type sets struct{ all []*api.DefinedSet }

func (s *sets) add(set *api.DefinedSet) *api.MatchSet {
	s.all = append(s.all, set)
	return &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: set.Name}
}

// neighbors are those of the peers; nil if there are none.
func (s *sets) neighbors(name string, peers []Peer, of func(Peer) bool) *api.MatchSet {
	set := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: name}
	for _, p := range peers {
		if of(p) {
			set.List = append(set.List, netip.PrefixFrom(p.Addr, p.Addr.BitLen()).String())
		}
	}
	if len(set.List) == 0 {
		return nil
	}
	return s.add(set)
}

// statements are the filters, each once for all the peers that have it: the nodes of a mesh have the same.
func (s *sets) statements(policy string, peers []Peer, filter func(Peer) Filter) []*api.Statement {
	var statements []*api.Statement
	var done []Filter
	for _, p := range peers {
		f := filter(p)
		if len(f) == 0 || slices.ContainsFunc(done, f.equal) {
			continue
		}
		done = append(done, f)
		name := fmt.Sprintf("%s-%d", policy, len(done))
		match := s.neighbors(name, peers, func(o Peer) bool { return filter(o).equal(f) })
		for i, r := range f {
			statements = append(statements, s.rule(fmt.Sprintf("%s-%d", name, i+1), r, match)...)
		}
	}
	return statements
}

// rule is one rule: a statement for each family it speaks of, since a set of prefixes has only one.
func (s *sets) rule(name string, r Rule, neighbors *api.MatchSet) []*api.Statement {
	var communities *api.MatchSet
	if len(r.Communities) > 0 {
		communities = s.add(&api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_COMMUNITY, Name: name, List: exactly(r.Communities)})
	}
	statement := func(name string, prefixes *api.MatchSet) *api.Statement {
		return &api.Statement{
			Name:       name,
			Conditions: &api.Conditions{NeighborSet: neighbors, CommunitySet: communities, PrefixSet: prefixes},
			Actions:    r.actions(),
		}
	}
	if len(r.Within) == 0 {
		return []*api.Statement{statement(name, nil)}
	}
	var all []*api.Statement
	for _, f := range families {
		set := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_PREFIX, Name: fmt.Sprintf("%s-afi%d", name, f.api.Afi)}
		for _, p := range r.Within {
			if p.Addr().Is4() == f.v4 {
				set.Prefixes = append(set.Prefixes, &api.Prefix{
					IpPrefix:      p.String(),
					MaskLengthMin: uint32(max(r.MinLength, p.Bits())), MaskLengthMax: uint32(cmp.Or(r.MaxLength, p.Addr().BitLen())),
				})
			}
		}
		if len(set.Prefixes) == 0 {
			continue
		}
		match := s.add(set)
		if r.Outside {
			match.Type = api.MatchSet_TYPE_INVERT // never of the other family (PrefixCondition.Evaluate in GoBGP's table/policy.go)
		}
		all = append(all, statement(set.Name, match))
	}
	return all
}

func (r Rule) actions() *api.Actions {
	if r.Reject {
		return &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT}
	}
	a := &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT}
	if len(r.AddCommunities) > 0 {
		a.Community = &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD}
		for _, c := range r.AddCommunities {
			a.Community.Communities = append(a.Community.Communities, c.String())
		}
	}
	if r.LocalPref != 0 {
		a.LocalPref = &api.LocalPrefAction{Value: r.LocalPref}
	}
	return a
}

// exactly are regular expressions, which is how the engine matches communities.
func exactly(list []Community) []string {
	var all []string
	for _, c := range list {
		all = append(all, "^"+c.String()+"$")
	}
	return all
}
