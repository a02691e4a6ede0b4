package node

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/subnet"
)

// Candidates returns all interfaces of the network namespace at netns (empty: the caller's) as seen by the choice: those that
// can be chosen first, each with its reasons.
//
// Never chosen are interfaces that are down, have no address that a peer could send to, are a port of a bridge, or were made
// by this SDK. A bridge or tunnel is chosen only when Choice.Name names it.
func Candidates(ctx context.Context, netns string, choice Choice) ([]Candidate, error) {
	if err := choice.validate(); err != nil {
		return nil, err
	}
	conn, err := nl.Dial(netns)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	links, err := conn.Links()
	if err != nil {
		return nil, err
	}
	addrs, err := conn.Addresses(0)
	if err != nil {
		return nil, err
	}
	routes, err := readRoutes(ctx, conn)
	if err != nil {
		return nil, err
	}
	choice, outside := choice.split(addrs)
	all := make([]Candidate, 0, len(links))
	for _, l := range links {
		c := assess(choice, l, addrs, routes)
		c.publish(outside)
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(min(len(a.Excluded), 1), min(len(b.Excluded), 1)), cmp.Compare(len(b.Reasons), len(a.Reasons)))
	})
	return all, nil
}

// Choose returns what the chosen interface makes of this node: device, MTU and addresses. The error is a [*ChoiceError] when
// none is left, or more than one.
func Choose(ctx context.Context, netns string, choice Choice) (subnet.Node, error) {
	all, err := Candidates(ctx, netns, choice)
	if err != nil {
		return subnet.Node{}, err
	}
	e := &ChoiceError{Choice: choice, Candidates: all}
	if len(all) == 0 || all[0].Excluded != "" || e.Ambiguous() {
		return subnet.Node{}, e
	}
	return all[0].Node, nil
}

// routes are those of the main table that a choice may rest on, best first for each family.
type routes []nl.Route

func readRoutes(ctx context.Context, conn *nl.Conn) (routes, error) {
	var all routes
	err := conn.Routes(ctx, func() { all = all[:0] }, func(r nl.Route) {
		if r.Table == nl.TableMain && r.Link != 0 {
			all = append(all, r)
		}
	})
	slices.SortStableFunc(all, func(a, b nl.Route) int {
		return cmp.Or(cmp.Compare(b.Prefix.Bits(), a.Prefix.Bits()), cmp.Compare(a.Metric, b.Metric))
	})
	return all, err
}

// to returns the index of the link by which the address is reached, by the longest prefix and then the lowest metric.
func (r routes) to(a netip.Addr) int {
	for _, route := range r {
		if route.Prefix.Contains(a) {
			return route.Link
		}
	}
	return 0
}

// defaultLink is the link of the family's default route.
func (r routes) defaultLink(v4 bool) int {
	for _, route := range r {
		if route.Prefix.Bits() == 0 && route.Prefix.Addr().Is4() == v4 {
			return route.Link
		}
	}
	return 0
}

// split takes out of the choice the public addresses that no interface has: they choose none.
func (c Choice) split(addrs []nl.Address) (inside Choice, outside subnet.Addrs) {
	has := func(public netip.Addr) bool {
		return slices.ContainsFunc(addrs, func(a nl.Address) bool { return a.Prefix.Addr() == public })
	}
	if !has(c.Public.V4) {
		c.Public.V4, outside.V4 = netip.Addr{}, c.Public.V4
	}
	if !has(c.Public.V6) {
		c.Public.V6, outside.V6 = netip.Addr{}, c.Public.V6
	}
	return c, outside
}

// publish has peers send to addresses that the interface does not have. It must have one of each's family, to send from.
func (c *Candidate) publish(outside subnet.Addrs) {
	for _, f := range families {
		if public := f.of(outside); public.IsValid() && !f.of(c.Node.Underlay).IsValid() && c.Excluded == "" {
			c.Reasons, c.Excluded = nil, fmt.Sprintf("has no %s address that %s could stand for", f.name, public)
		}
	}
	if !c.Node.Underlay.IsZero() {
		c.Node.Public = outside
	}
}

func assess(choice Choice, l nl.Link, addrs []nl.Address, routes routes) Candidate {
	c := Candidate{Node: subnet.Node{Device: l.Name, MTU: l.MTU}}
	names := []string{l.Name}
	for _, a := range addrs {
		if a.Link == l.Index {
			names = append(names, a.Prefix.Addr().String())
		}
	}
	c.Node.Underlay = choice.addresses(l, addrs)
	c.Excluded = unsuitable(choice, l, c.Node.Underlay)
	if c.Excluded == "" {
		c.Reasons, c.Excluded = judge(choice, l, names, routes)
	}
	return c
}

// addresses are those that peers send to: of each family the one with most to be said for it, and of several the oldest.
func (c Choice) addresses(l nl.Link, all []nl.Address) subnet.Addrs {
	best := map[bool]nl.Address{} // by whether it is IPv4
	for _, a := range all {
		v4 := a.Prefix.Addr().Is4()
		if a.Link != l.Index || a.LinkScope || !a.Prefix.Addr().IsGlobalUnicast() || !c.admits(v4) {
			continue
		}
		have, there := best[v4]
		order := cmp.Compare(c.favours(a), c.favours(have))
		if !there || order > 0 || order == 0 && !v4 { // the kernel lists IPv6's newest first: ipv6_link_dev_addr in net/ipv6/addrconf.c
			best[v4] = a
		}
	}
	return subnet.Addrs{V4: best[true].Prefix.Addr(), V6: best[false].Prefix.Addr()}
}

// favours says how much there is to be said for one of an interface's addresses.
func (c Choice) favours(a nl.Address) int {
	addr := a.Prefix.Addr()
	text := addr.String()
	switch {
	case c.Name == text, c.Public.V4 == addr, c.Public.V6 == addr:
		return 3
	case c.Match != nil && c.Match.MatchString(text):
		return 2
	case !a.Unsteady:
		return 1
	}
	return 0
}

// aliasMark begins the alias of every link that this SDK makes.
const aliasMark = "podweft:"

// virtual are the kinds of links that carry pods rather than nodes, as a rule.
var virtual = []string{"bridge", "vxlan", "geneve", "gre", "gretap", "ip6gre", "ip6gretap", "ipip", "sit", "ip6tnl", "tun", "wireguard"}

// unsuitable says why the interface cannot be an underlay, whatever is asked for.
func unsuitable(choice Choice, l nl.Link, addrs subnet.Addrs) string {
	switch {
	case strings.HasPrefix(l.Alias, aliasMark):
		return "made by podweft"
	case l.Name == "lo":
		return "loopback"
	case !l.Up:
		return "down"
	case l.Master != 0:
		return "a port of a bridge"
	case addrs.IsZero() && choice.Family != 0:
		return fmt.Sprintf("has no IPv%d address that peers could send to", choice.Family)
	case addrs.IsZero():
		return "has no address that peers could send to"
	case slices.Contains(virtual, l.Kind) && choice.Name == "" && choice.Public.IsZero():
		return "a " + l.Kind + ", which only its name chooses"
	}
	return ""
}

// judge says what speaks for the interface, or which part of the choice it does not meet.
func judge(choice Choice, l nl.Link, names []string, routes routes) (reasons []string, excluded string) {
	if choice.Name != "" {
		if !slices.Contains(names, choice.Name) {
			return nil, "not named " + choice.Name
		}
		reasons = append(reasons, "named "+choice.Name)
	}
	for a := range choice.Public.All() {
		if !slices.Contains(names, a.String()) {
			return nil, "does not have " + a.String()
		}
		reasons = append(reasons, "has "+a.String())
	}
	if choice.Match != nil {
		if !slices.ContainsFunc(names, choice.Match.MatchString) {
			return nil, "does not match " + choice.Match.String()
		}
		reasons = append(reasons, "matches "+choice.Match.String())
	}
	if choice.Reach.IsValid() {
		if routes.to(choice.Reach) != l.Index {
			return nil, fmt.Sprintf("does not lead to %s", choice.Reach)
		}
		reasons = append(reasons, fmt.Sprintf("leads to %s", choice.Reach))
	}
	isDefault := false
	for _, f := range families {
		if choice.admits(f.v4) && routes.defaultLink(f.v4) == l.Index {
			isDefault = true
			reasons = append(reasons, "default route of "+f.name)
		}
	}
	if !choice.demands() && !isDefault {
		return nil, "has no default route"
	}
	return reasons, ""
}
