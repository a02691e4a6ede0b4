package bgp

import (
	"net/netip"

	"github.com/osrg/gobgp/v4/api"
)

// Transit says what a peer of another AS is told of what others have told us.
type Transit string

// The kinds of transit. The zero Transit is OwnOnly, but NextHopSelf in a speaker that is a route reflector.
const (
	// OwnOnly: nothing, just what we advertise ourselves. In a mesh every node tells the switch of its own blocks, and the switch
	// has one path to each of them. If all told it of all blocks, these paths would be as long as the right one, since the nodes
	// share an AS, and half of the packets would come to a node by way of another.
	OwnOnly Transit = "own"
	// NextHopKept: all of it, with the next hops of those who told us. The peer must be able to reach them.
	NextHopKept Transit = "keep"
	// NextHopSelf: all of it, with us as the next hop, who must then forward. Routers between ASes do this.
	NextHopSelf Transit = "self"
)

func (t Transit) valid() bool { return t == "" || t == OwnOnly || t == NextHopKept || t == NextHopSelf }

// transitOf is t for a peer, external or not, of a speaker that reflects or does not. Internal peers have none.
func transitOf(t Transit, external, reflects bool) Transit {
	switch {
	case !external:
		return ""
	case t != "":
		return t
	case reflects:
		return NextHopSelf
	default:
		return OwnOnly
	}
}

// transit is what comes before the export filters of a speaker with that next hop for IPv6.
func (s *sets) transit(peers []Peer, hop netip.Addr) []*api.Statement {
	all := s.ofOthers("own", &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT}, nil, peers, func(p Peer) bool {
		return p.Transit == OwnOnly
	})
	// Those that do not reject go on to the filters.
	all = append(all, s.ofOthers("keep", &api.Actions{Nexthop: &api.NexthopAction{Unchanged: true}}, nil, peers, func(p Peer) bool {
		return p.Transit == NextHopKept
	})...)
	if !hop.IsValid() {
		return all
	}
	// The engine takes its end of the session, which is no next hop of IPv6 if the session is over IPv4.
	v6 := []*api.Family{families[1].api}
	return append(all, s.ofOthers("self", &api.Actions{Nexthop: &api.NexthopAction{Address: hop.String()}}, v6, peers, func(p Peer) bool {
		return p.Transit == NextHopSelf && p.Addr.Is4()
	})...)
}

// ofOthers does that with what others have told us, on its way to those peers.
func (s *sets) ofOthers(name string, does *api.Actions, in []*api.Family, peers []Peer, to func(Peer) bool) []*api.Statement {
	name = "transit-" + name
	match := s.neighbors(name, peers, to)
	if match == nil {
		return nil
	}
	var statements []*api.Statement
	for _, from := range []api.Conditions_RouteType{api.Conditions_ROUTE_TYPE_INTERNAL, api.Conditions_ROUTE_TYPE_EXTERNAL} {
		statements = append(statements, &api.Statement{
			Name:       name + "-" + word(from.String(), "ROUTE_TYPE_"),
			Conditions: &api.Conditions{NeighborSet: match, RouteType: from, AfiSafiIn: in},
			Actions:    does,
		})
	}
	return statements
}
