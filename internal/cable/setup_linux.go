package cable

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
)

const (
	// loopback is lo's index in every namespace (LOOPBACK_IFINDEX, include/net/flow.h).
	loopback = 1
	// behind and a link's index are the metric of its routes that stand behind another link's: larger than that of any route made
	// without one, for each link another, and of several such links the oldest comes first.
	behind = 2000
)

// Setup is what belongs into a pod's namespace. It names the links there by their index.
type Setup struct {
	peer      nl.Link // the pod's end of the pair
	up        []nl.Link
	limit     Limit // of what leaves peer
	Addresses []nl.Address
	Neighbors []nl.Neighbor
	Routes    []nl.Route
}

// Setup returns one that has nothing but the links up.
func (p *Pair) Setup() Setup {
	return Setup{peer: p.Peer, up: []nl.Link{{Index: loopback, Name: "lo"}, p.Peer}, limit: p.Egress}
}

// Steps are in the order in which the kernel accepts them: a route needs its gateway's subnet, and that an address.
func (s Setup) Steps() (steps []Step) {
	steps = SetLimit(s.peer, s.limit)
	for _, l := range s.up {
		if l.Index == s.peer.Index { // the pod may have another in the same subnet
			steps = append(steps, setUpAlone(l))
		} else {
			steps = append(steps, SetUp(l))
		}
	}
	for _, a := range s.Addresses {
		steps = append(steps, AddAddress(s.peer.Name, a))
	}
	for _, n := range s.Neighbors {
		steps = append(steps, SetNeighbor(s.peer.Name, n))
	}
	for _, r := range s.Routes {
		steps = append(steps, AddRoute(s.peer.Name, r))
	}
	return steps
}

// Complete carries out lacking, which is what the pod lacks of s as far as anybody knows. Another who attaches the same port at this
// moment may be ahead with any part of it, and another link of the pod may have routes to the same prefixes. Usually neither is so,
// and to try is cheaper than to look.
func (p *Pod) Complete(ctx context.Context, s, lacking Setup) error {
	for {
		err := p.Do(ctx, lacking.Steps()...)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		rest, unlike := p.Lacking(ctx, s)
		if unlike != nil {
			return unlike
		}
		if len(rest.Steps()) >= len(lacking.Steps()) && slices.Equal(rest.Routes, lacking.Routes) {
			return err
		}
		lacking = rest
	}
}

// Lacking returns the part of s that the pod lacks. Something else in a part's place is [podweft.ErrConflict], but for a route by
// another of the pod's links: that one stays the way, and ours stands behind it, for when it goes.
func (p *Pod) Lacking(ctx context.Context, s Setup) (Setup, error) {
	for _, leave := range []func(context.Context, *Setup) error{p.addresses, p.links, p.limit, p.neighbors, p.routes} {
		if err := leave(ctx, &s); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (p *Pod) links(_ context.Context, s *Setup) error {
	var down []nl.Link
	for _, l := range s.up {
		have, err := p.Conn.LinkAt(l.Index)
		if err != nil {
			return err
		}
		if l.Index == s.peer.Index && (have.MAC != l.MAC || have.MTU != l.MTU) {
			return taken(linkText(l), linkText(have))
		}
		if !have.Up {
			down = append(down, l)
		}
	}
	s.up = down
	return nil
}

func (p *Pod) limit(ctx context.Context, s *Setup) error {
	limited, err := p.Limited(ctx, s.peer, s.limit)
	if limited {
		s.limit = Limit{}
	}
	return err
}

func linkText(l nl.Link) string {
	return fmt.Sprintf("link %s mtu %d address %s", l.Name, l.MTU, l.MAC)
}

func (p *Pod) addresses(_ context.Context, s *Setup) error {
	have, err := p.Conn.Addresses(s.peer.Index)
	if err != nil {
		return err
	}
	for _, h := range have {
		if !h.LinkScope && !slices.Contains(s.Addresses, nl.Address{Link: h.Link, Prefix: h.Prefix}) {
			return taken("addresses of "+s.peer.Name, AddressText(s.peer.Name, h))
		}
	}
	s.Addresses = without(s.Addresses, func(a nl.Address) bool {
		return slices.ContainsFunc(have, func(h nl.Address) bool { return h.Prefix == a.Prefix })
	})
	return nil
}

func (p *Pod) neighbors(ctx context.Context, s *Setup) error {
	have := map[nl.Neighbor]bool{}
	err := p.Conn.Neighbors(ctx, s.peer.Index, func() { clear(have) }, func(n nl.Neighbor) { have[n] = true })
	s.Neighbors = without(s.Neighbors, func(n nl.Neighbor) bool { return have[n] })
	return err
}

func (p *Pod) routes(ctx context.Context, s *Setup) error {
	have := map[netip.Prefix][]nl.Route{}
	err := p.Conn.Hops(ctx, func() { clear(have) }, func(r nl.Route) { // a route of another's, appended to ours, makes ours a nexthop
		if r.Table == nl.TableMain {
			have[r.Prefix] = append(have[r.Prefix], r)
		}
	})
	if err != nil {
		return err
	}
	same := func(a, b nl.Route) bool {
		return a.Gateway == b.Gateway && a.Link == b.Link && a.Nexthop == 0
	}
	lacking := without(s.Routes, func(w nl.Route) bool {
		return slices.ContainsFunc(have[w.Prefix], func(h nl.Route) bool { return same(h, w) })
	})
	for i, w := range lacking {
		for _, h := range have[w.Prefix] {
			if elsewhere := h.Type == unix.RTN_UNICAST && h.Link != 0 && h.Link != w.Link; !elsewhere {
				return taken(w.Format(s.peer.Name), h.Format(p.linkName(h.Link)))
			}
			if h.Metric == nl.UsualMetric(w.Prefix) {
				lacking[i].Metric = behind + uint32(w.Link)
			}
		}
	}
	s.Routes = lacking
	return nil
}

func (p *Pod) linkName(index int) string {
	l, err := p.Conn.LinkAt(index)
	if err != nil {
		return fmt.Sprintf("with index %d", index)
	}
	return l.Name
}

// taken says that have stands where want should be.
func taken(want, have string) error {
	return &podweft.OpError{
		Op: "create", Object: podweft.Named(want), Err: fmt.Errorf("%w: %s", podweft.ErrConflict, have),
	}
}

// without returns the elements that there does not accept; it leaves list as it is.
func without[T any](list []T, there func(T) bool) (rest []T) {
	for _, e := range list {
		if !there(e) {
			rest = append(rest, e)
		}
	}
	return rest
}
