package fib

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

const vx, eth0 = 4, 2

var testScope = Scope{Own: map[int]string{vx: "vx"}, Others: map[int]string{eth0: "eth0"}}

// entryOf is a peer as a VXLAN driver needs it: behind a MAC and an underlay address, with prefixes of either family.
func entryOf(mac byte, underlay string, prefixes ...string) Entry {
	var e Entry
	m := podweft.MAC{0x0e, 0, 0, 0, 0, mac}
	for _, text := range prefixes {
		p := netip.MustParsePrefix(text)
		r := Route{Prefix: p, Gateway: p.Addr(), Link: vx, Onlink: true}
		e.Routes = append(e.Routes, r)
		e.Neighbors = append(e.Neighbors, nl.Neighbor{NeighborKey: nl.NeighborKey{Link: vx, Addr: r.Gateway}, MAC: m})
	}
	e.Forwards = []nl.Forward{{ForwardKey: nl.ForwardKey{Link: vx, MAC: m}, To: netip.MustParseAddr(underlay)}}
	return e
}

// holding is the kernel when entries have been applied to an empty one.
func holding(x *ids, entries ...Entry) *state {
	w := newWant(x, entries)
	s := nothing()
	for _, c := range w.compare(true, testMark, testScope, s) {
		c.Object.(item).record(s, c.Op)
	}
	return s
}

func lines(text ...string) string { return strings.Join(text, "\n") + "\n" }

// TestCompare holds the plans: their text, and the order in which traffic needs the changes. Everything that a route needs comes
// before it, and is deleted after it.
func TestCompare(t *testing.T) {
	two := entryOf(2, "192.0.2.2", "10.244.2.0/24", "fd00:2::/64")
	three := entryOf(3, "192.0.2.3", "10.244.3.0/24")
	moved := entryOf(3, "192.0.2.33", "10.244.3.0/24")
	otherMAC := entryOf(9, "192.0.2.3", "10.244.3.0/24")
	direct := Entry{Routes: []Route{{Prefix: three.Routes[0].Prefix, Gateway: netip.MustParseAddr("192.0.2.3"), Link: eth0}}}
	shared := Entry{Routes: []Route{
		{Prefix: netip.MustParsePrefix("10.1.0.0/24"), Gateway: netip.MustParseAddr("192.0.2.3"), Link: eth0},
		{Prefix: netip.MustParsePrefix("10.2.0.0/24"), Gateway: netip.MustParseAddr("192.0.2.3"), Link: eth0, Metric: 50, Table: 1000},
	}}
	foreign := nl.Route{
		RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: three.Routes[0].Prefix}, Protocol: 4, Gateway: netip.MustParseAddr("192.0.2.254"), Link: eth0,
	}
	tests := []struct {
		name       string
		have, want []Entry
		besides    func(s *state)
		plan       string
	}{
		{
			name: "from nothing", want: []Entry{three, two},
			plan: lines(
				"+ neighbour 10.244.2.0 lladdr 0e:00:00:00:00:02 dev vx permanent",
				"+ neighbour 10.244.3.0 lladdr 0e:00:00:00:00:03 dev vx permanent",
				"+ neighbour fd00:2:: lladdr 0e:00:00:00:00:02 dev vx permanent",
				"+ fdb 0e:00:00:00:00:02 dev vx dst 192.0.2.2 self permanent",
				"+ fdb 0e:00:00:00:00:03 dev vx dst 192.0.2.3 self permanent",
				"+ nexthop 1073741824 via 10.244.2.0 dev vx onlink",
				"+ nexthop 1073741825 via 10.244.3.0 dev vx onlink",
				"+ nexthop 1073741826 via fd00:2:: dev vx onlink",
				"+ route 10.244.2.0/24 via 10.244.2.0 dev vx onlink nhid 1073741824",
				"+ route 10.244.3.0/24 via 10.244.3.0 dev vx onlink nhid 1073741825",
				"+ route fd00:2::/64 via fd00:2:: dev vx onlink nhid 1073741826 metric 1024",
			),
		},
		{name: "in sync", have: []Entry{two, three}, want: []Entry{three, two}},
		{
			name: "to nothing, in reverse", have: []Entry{two},
			plan: lines(
				"- route fd00:2::/64 via fd00:2:: dev vx onlink nhid 1073741825 metric 1024",
				"- route 10.244.2.0/24 via 10.244.2.0 dev vx onlink nhid 1073741824",
				"- nexthop 1073741825 via fd00:2:: dev vx onlink",
				"- nexthop 1073741824 via 10.244.2.0 dev vx onlink",
				"- fdb 0e:00:00:00:00:02 dev vx dst 192.0.2.2 self permanent",
				"- neighbour fd00:2:: lladdr 0e:00:00:00:00:02 dev vx permanent",
				"- neighbour 10.244.2.0 lladdr 0e:00:00:00:00:02 dev vx permanent",
			),
		},
		{
			name: "one for another: first the new", have: []Entry{two}, want: []Entry{three},
			plan: lines(
				"+ neighbour 10.244.3.0 lladdr 0e:00:00:00:00:03 dev vx permanent",
				"+ fdb 0e:00:00:00:00:03 dev vx dst 192.0.2.3 self permanent",
				"+ nexthop 1073741826 via 10.244.3.0 dev vx onlink",
				"+ route 10.244.3.0/24 via 10.244.3.0 dev vx onlink nhid 1073741826",
				"- route fd00:2::/64 via fd00:2:: dev vx onlink nhid 1073741825 metric 1024",
				"- route 10.244.2.0/24 via 10.244.2.0 dev vx onlink nhid 1073741824",
				"- nexthop 1073741825 via fd00:2:: dev vx onlink",
				"- nexthop 1073741824 via 10.244.2.0 dev vx onlink",
				"- fdb 0e:00:00:00:00:02 dev vx dst 192.0.2.2 self permanent",
				"- neighbour fd00:2:: lladdr 0e:00:00:00:00:02 dev vx permanent",
				"- neighbour 10.244.2.0 lladdr 0e:00:00:00:00:02 dev vx permanent",
			),
		},
		{
			name: "another underlay address", have: []Entry{three}, want: []Entry{moved},
			plan: lines("~ fdb 0e:00:00:00:00:03 dev vx dst 192.0.2.33 self permanent"),
		},
		{
			name: "another MAC", have: []Entry{three}, want: []Entry{otherMAC},
			plan: lines(
				"~ neighbour 10.244.3.0 lladdr 0e:00:00:00:00:09 dev vx permanent",
				"+ fdb 0e:00:00:00:00:09 dev vx dst 192.0.2.3 self permanent",
				"- fdb 0e:00:00:00:00:03 dev vx dst 192.0.2.3 self permanent",
			),
		},
		{
			name: "from the tunnel to the link: the route is replaced in place", have: []Entry{three}, want: []Entry{direct},
			plan: lines(
				"+ nexthop 1073741825 via 192.0.2.3 dev eth0",
				"~ route 10.244.3.0/24 via 192.0.2.3 dev eth0 nhid 1073741825",
				"- nexthop 1073741824 via 10.244.3.0 dev vx onlink",
				"- fdb 0e:00:00:00:00:03 dev vx dst 192.0.2.3 self permanent",
				"- neighbour 10.244.3.0 lladdr 0e:00:00:00:00:03 dev vx permanent",
			),
		},
		{
			name: "a gateway that two routes share", want: []Entry{shared},
			plan: lines(
				"+ nexthop 1073741824 via 192.0.2.3 dev eth0",
				"+ route 10.1.0.0/24 via 192.0.2.3 dev eth0 nhid 1073741824",
				"+ route 10.2.0.0/24 via 192.0.2.3 dev eth0 nhid 1073741824 metric 50 table 1000",
			),
		},
		{
			name: "what nobody wants", have: []Entry{three}, want: []Entry{three},
			besides: func(s *state) {
				f := three.Forwards[0]
				f.To = netip.MustParseAddr("192.0.2.99")
				s.spare[f] = struct{}{}
				s.doubles[testMark.First+9] = nl.Nexthop{ID: testMark.First + 9, Gateway: netip.MustParseAddr("10.244.3.0"), Link: vx, Onlink: true}
			},
			plan: lines(
				"- nexthop 1073741833 via 10.244.3.0 dev vx onlink",
				"- fdb 0e:00:00:00:00:03 dev vx dst 192.0.2.99 self permanent",
			),
		},
		{
			name: "another program's route in the way", want: []Entry{direct},
			besides: func(s *state) { s.foreign[placeOf(foreign.RouteKey)] = foreign },
			plan: lines(
				"+ nexthop 1073741824 via 192.0.2.3 dev eth0",
				"+ route 10.244.3.0/24 via 192.0.2.3 dev eth0 nhid 1073741824  ! create route 10.244.3.0/24 via 192.0.2.3 dev eth0 nhid 1073741824: "+
					"another program's object is in the way: route 10.244.3.0/24 via 192.0.2.254 dev eth0 proto static",
			),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := newIDs(testMark)
			have := holding(x, tt.have...)
			if tt.besides != nil {
				tt.besides(have)
			}
			w := newWant(x, tt.want)
			x.learn(have, w.users)
			plan := w.compare(true, testMark, testScope, have)
			assert.Equal(t, tt.plan, plan.String())
			ids := map[string]bool{}
			for _, c := range plan {
				assert.False(t, ids[c.Object.ID()], "two objects with the ID %s", c.Object.ID())
				ids[c.Object.ID()] = true
			}
		})
	}
}

// TestConflictNamesTheOther: by the name of its protocol and link where they have one.
func TestConflictNamesTheOther(t *testing.T) {
	r := nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: netip.MustParsePrefix("10.1.0.0/24")}}
	tests := []struct {
		name     string
		protocol uint8
		link     int
		want     string
	}{
		{"known", 186, eth0, "route 10.1.0.0/24 dev eth0 proto bgp"},
		{"unknown protocol", 99, vx, "route 10.1.0.0/24 dev vx proto 99"},
		{"a link that is no concern of ours", 4, 77, "route 10.1.0.0/24 dev link 77 proto static"},
		{"no link at all, as a blackhole", 4, 0, "route 10.1.0.0/24 proto static"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := r
			f.Protocol, f.Link = tt.protocol, tt.link
			err := conflict(testScope, f)
			assert.ErrorIs(t, err, podweft.ErrConflict)
			assert.EqualError(t, err, "another program's object is in the way: "+tt.want)
		})
	}
}
