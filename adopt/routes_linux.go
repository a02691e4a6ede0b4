package adopt

import (
	"context"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/subnet"
)

// found is what flannel left in the kernel's tables.
type found struct {
	links   []nl.Link
	names   map[int]string // of all links
	present []nl.Route     // routes that are in force
	aside   []nl.Route     // routes that have stepped back
}

// v6Metric is what the kernel makes of a metric that nobody gave, IP6_RT_PRIO_USER in linux/ipv6_route.h. In IPv4 it stays 0.
const v6Metric = 1024

// asideMetric and those above it are the metrics of routes that have stepped back. Each route has its own: the kernel is slow with
// thousands of one metric.
const asideMetric = 1 << 20

// look reads what there is. flannel's routes say no protocol, which the kernel calls boot, and have no metric. Those over its links
// are its own in any case, the others if they lead to a gateway.
func (f *Flannel) look(ctx context.Context, network *subnet.Network) (found, error) {
	all := found{names: map[int]string{}}
	links, err := f.conn.Links()
	if err != nil {
		return all, err
	}
	theirs := map[int]bool{}
	for _, l := range links {
		all.names[l.Index] = l.Name
		if f.isFlannels(l) {
			all.links = append(all.links, l)
			theirs[l.Index] = true
		}
	}
	err = f.conn.Routes(ctx, func() { all.present, all.aside = nil, nil }, func(r nl.Route) {
		if r.Table != nl.TableMain || r.Protocol != unix.RTPROT_BOOT || r.Nexthop != 0 || r.Multipath || r.Type != unix.RTN_UNICAST ||
			!inside(network, r.Prefix) || !theirs[r.Link] && !r.Gateway.IsValid() {
			return
		}
		switch {
		case r.Metric >= asideMetric:
			all.aside = append(all.aside, r)
		case r.Metric == 0 || r.Prefix.Addr().Is6() && r.Metric == v6Metric:
			all.present = append(all.present, r)
		}
	})
	for _, list := range [][]nl.Route{all.present, all.aside} {
		slices.SortFunc(list, func(a, b nl.Route) int { return nl.CompareRouteKeys(a.RouteKey, b.RouteKey) })
	}
	return all, err
}

// kinds are those of flannel's links, by how their names begin.
var kinds = []struct{ prefix, kind string }{{"flannel.ipip", "ipip"}, {"flannel.", "vxlan"}, {"flannel-v6.", "vxlan"}}

// isFlannels reports whether flannel made the link, or it has our mark already.
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
		aside.Metric = next + uint32(i)
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

// forget removes the routes that have stepped back.
func (f *Flannel) forget(all found) (steps []step) {
	for _, r := range all.aside {
		o := podweft.Named(r.Format(all.names[r.Link]))
		steps = append(steps, step{podweft.Change{Op: podweft.Delete, Object: o, Note: "flannel's"}, func(ctx context.Context) error { return f.delete(ctx, r) }})
	}
	return steps
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
