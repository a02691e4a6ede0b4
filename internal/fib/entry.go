package fib

import (
	"net/netip"

	"github.com/podweft/podweft/internal/nl"
)

// Entry is what one peer or many need in the kernel. No two peers of one Spec need the same neighbour, forwarding entry or route; they
// may share a gateway.
type Entry struct {
	Neighbors []nl.Neighbor
	Forwards  []nl.Forward
	Routes    []Route
}

// Route says by which gateway a prefix is reached.
type Route struct {
	Table   uint32 // 0 is the main table
	Prefix  netip.Prefix
	Metric  uint32
	Gateway netip.Addr // the unspecified address of the family when there is none: everybody is on the link
	Link    int
	Onlink  bool
	Source  netip.Addr // as in nl.Nexthop: where valid, the route itself wraps packets, from here to Gateway
}

func (r Route) key() nl.RouteKey {
	table := r.Table
	if table == 0 {
		table = nl.TableMain
	}
	return nl.RouteKey{Table: table, Prefix: r.Prefix.Masked(), Metric: kernelMetric(r.Prefix, r.Metric)}
}

func (r Route) via() via { return via{r.Link, r.Gateway, r.Onlink, r.Source} }

// via is what a nexthop object stands for. Routes with the same via share one.
type via struct {
	link    int
	gateway netip.Addr
	onlink  bool
	source  netip.Addr
}

func asVia(nh nl.Nexthop) via { return via{nh.Link, nh.Gateway, nh.Onlink, nh.Source} }

// place is where a route stands for the purpose of conflicts: whatever its metric.
type place struct {
	table  uint32
	prefix netip.Prefix
}

func placeOf(k nl.RouteKey) place { return place{k.Table, k.Prefix} }
