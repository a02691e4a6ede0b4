package adopt

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/fib"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/subnet"
)

// found is what flannel left in the kernel's tables.
type found struct {
	links   []nl.Link
	names   map[int]string // of all links
	present []nl.Route     // routes that are in force
	aside   []nl.Route     // routes that have stepped back
	others  []nl.Route     // everybody else's
}

// v6Metric is what the kernel makes of a metric that nobody gave, IP6_RT_PRIO_USER in linux/ipv6_route.h. In IPv4 it stays 0.
const v6Metric = 1024

// asideMetric and those above it are the metrics of routes that have stepped back. Each route has its own: the kernel is slow with
// thousands of one metric. They bear a protocol of ours besides.
const asideMetric = 1 << 20

// look reads what there is. flannel's routes say no protocol, which the kernel calls boot, and have no metric. So do those that an
// administrator types: over flannel's links they are taken for flannel's, over others only what a lease says is.
func (f *Flannel) look(ctx context.Context, snap *subnet.Snapshot) (found, error) {
	all := found{names: map[int]string{}}
	links, err := f.conn.Links()
	if err != nil {
		return all, err
	}
	addresses, err := f.conn.Addresses(0)
	if err != nil {
		return all, err
	}
	var routes []nl.Route
	err = f.conn.Routes(ctx, func() { routes = nil }, func(r nl.Route) {
		if r.Table == nl.TableMain && r.Type == unix.RTN_UNICAST {
			routes = append(routes, r)
		}
	})
	if err != nil {
		return all, err
	}
	used := map[int]bool{} // links that concern the network
	for _, a := range addresses {
		used[a.Link] = used[a.Link] || inside(snap.Network, a.Prefix.Addr(), a.Prefix.Addr().BitLen())
	}
	for _, r := range routes {
		used[r.Link] = used[r.Link] || inside(snap.Network, r.Prefix.Addr(), r.Prefix.Bits())
	}
	theirs := map[int]bool{}
	for _, l := range links {
		all.names[l.Index] = l.Name
		if f.isFlannels(l) && used[l.Index] {
			all.links = append(all.links, l)
			theirs[l.Index] = true
		}
	}
	leads := gateways(snap)
	for _, r := range routes {
		switch {
		case f.steppedBack(r):
			all.aside = append(all.aside, r)
		case r.Protocol == unix.RTPROT_BOOT && r.Nexthop == 0 && !r.Multipath && inside(snap.Network, r.Prefix.Addr(), r.Prefix.Bits()) &&
			(r.Metric == 0 || r.Prefix.Addr().Is6() && r.Metric == v6Metric) &&
			(theirs[r.Link] || r.Gateway.IsValid() && slices.Contains(leads[r.Prefix], r.Gateway)):
			all.present = append(all.present, r)
		default:
			all.others = append(all.others, r)
		}
	}
	for _, list := range [][]nl.Route{all.present, all.aside} {
		slices.SortFunc(list, func(a, b nl.Route) int { return nl.CompareRouteKeys(a.RouteKey, b.RouteKey) })
	}
	return all, nil
}

// protocol is that of routes that have stepped back.
func (f *Flannel) protocol() uint8 { return fib.MarkOf("adopt " + f.owner).Protocol }

func (f *Flannel) steppedBack(r nl.Route) bool {
	return r.Protocol == f.protocol() && r.Metric >= asideMetric && r.Nexthop == 0
}

// gateways are the addresses that each subnet's packets are sent to where they need no tunnel.
func gateways(snap *subnet.Snapshot) map[netip.Prefix][]netip.Addr {
	leads := map[netip.Prefix][]netip.Addr{}
	for _, l := range snap.Leases {
		for p := range l.Prefixes.All() {
			leads[p] = slices.AppendSeq(leads[p], l.Underlay.All())
		}
	}
	return leads
}

// kinds are those of flannel's links, by how their names begin.
var kinds = []struct{ prefix, kind string }{{"flannel.ipip", "ipip"}, {"flannel.", "vxlan"}, {"flannel-v6.", "vxlan"}}

// isFlannels reports whether flannel made the link, for whichever network, or it has our mark already.
func (f *Flannel) isFlannels(l nl.Link) bool {
	return (l.Alias == "" || l.Alias == f.alias()) && slices.ContainsFunc(kinds, func(k struct{ prefix, kind string }) bool {
		return strings.HasPrefix(l.Name, k.prefix) && l.Kind == k.kind
	})
}

func (f *Flannel) alias() string { return "podweft:" + f.owner }

// marks gives the links our mark.
func (f *Flannel) marks(all found) (steps []step) {
	for _, l := range all.links {
		if l.Alias != "" {
			continue
		}
		l.Alias = f.alias()
		o := podweft.Named("link " + l.Name + " alias " + l.Alias)
		steps = append(steps, f.request(podweft.Update, o, "flannel's", func(b *nl.Batch) { b.Mark(l) }))
	}
	return steps
}

// stepBack gives each route a double that loses to the driver's, and then removes the route.
func (f *Flannel) stepBack(all found) (steps []step) {
	next := uint32(asideMetric)
	for _, r := range all.aside {
		next = max(next, r.Metric+1)
	}
	for i, r := range all.present {
		aside := r
		aside.Metric, aside.Protocol = next+uint32(i), f.protocol()
		o := podweft.Named(aside.Format(all.names[r.Link]))
		steps = append(steps, step{podweft.Change{Op: podweft.Update, Object: o, Note: "flannel's"}, func(ctx context.Context) error {
			var b nl.Batch
			b.AddRoute(aside)
			if err := errors.Join(f.conn.Do(ctx, &b)...); err != nil {
				return err
			}
			return f.delete(ctx, r)
		}})
	}
	return steps
}

// errAlone: nothing but a route that has stepped back leads to a node's subnet.
var errAlone = errors.New("no other route leads there yet")

// forget removes the routes that have stepped back, but not the last one to the subnet of a lease: the driver's may still come.
func (f *Flannel) forget(all found, snap *subnet.Snapshot) (steps []step) {
	stands := map[netip.Prefix]bool{}
	for _, r := range all.others {
		if r.Protocol != unix.RTPROT_KERNEL { // what an address of a link brings leads to no node
			stands[r.Prefix] = true
		}
	}
	leased := gateways(snap)
	for _, r := range all.aside {
		s := f.forgetting(r, all.names)
		if leased[r.Prefix] != nil && !covered(snap.Network, r.Prefix, stands) {
			s.do = func(context.Context) error { return errAlone }
		}
		steps = append(steps, s)
	}
	return steps
}

func (f *Flannel) forgetting(r nl.Route, names map[int]string) step {
	o := podweft.Named(r.Format(names[r.Link]))
	return step{podweft.Change{Op: podweft.Delete, Object: o, Note: "flannel's"}, func(ctx context.Context) error { return f.delete(ctx, r) }}
}

// covered reports whether a route stands for p or for a part of the network with p in it, as udp's for all of it.
func covered(network *subnet.Network, p netip.Prefix, stands map[netip.Prefix]bool) bool {
	whole := network.V4.Network
	if p.Addr().Is6() {
		whole = network.V6.Network
	}
	for bits := p.Bits(); whole.IsValid() && bits >= whole.Bits(); bits-- {
		if stands[netip.PrefixFrom(p.Addr(), bits).Masked()] {
			return true
		}
	}
	return false
}

func (f *Flannel) delete(ctx context.Context, r nl.Route) error {
	var b nl.Batch
	b.DeleteRoute(r)
	err := errors.Join(f.conn.Do(ctx, &b)...)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
