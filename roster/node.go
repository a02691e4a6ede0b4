package roster

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
)

// Node is one node, as it describes itself and as a [Store] finds it. Name alone is required.
type Node struct {
	Name     string       `json:"name"`               // unique in the cluster
	Underlay subnet.Addrs `json:"underlay,omitzero"`  // where its packets are sent
	Backend  string       `json:"backend,omitempty"`  // which backend its tunnels are: "vxlan"
	Data     subnet.Data  `json:"data,omitzero"`      // what that publishes
	AS       uint32       `json:"as,omitempty"`       // of its BGP speaker; zero: the cluster's
	Cluster  netip.Addr   `json:"clusterID,omitzero"` // of a route reflector (RFC 4456), in the form of an IPv4 address; zero: it reflects nothing
	// Labels are for whoever chooses among nodes: by rack, by zone.
	Labels map[string]string `json:"labels,omitempty"`

	// The rest is the Store's.

	// Alive: the node has joined or renewed that within the TTL that it gave.
	Alive bool `json:"-"`
	// Rank is the order in which the nodes that are alive came to life: it grows. Zero: the node is not alive.
	Rank uint64 `json:"-"`
	// Revision of the Store when the node last changed what it says of itself. No other node has the same.
	Revision uint64 `json:"-"`
	// Problem is why what stands in the Store makes no sense; then there is nothing but a Name. nil as a rule.
	Problem error `json:"-"`
}

// Validate reports everything that no Store should take, joined, each as a [*podweft.FieldError].
func (n Node) Validate() error {
	var errs []error
	bad := func(field string, value any, problem, remedy string) {
		errs = append(errs, &podweft.FieldError{Field: field, Value: value, Problem: problem, Remedy: remedy})
	}
	if n.Name == "" {
		bad("Name", nil, "is missing", "give the node's name, unique in the cluster")
	}
	if a := n.Underlay.V4; a != (netip.Addr{}) && !a.Is4() {
		bad("Underlay.V4", a, "is not an IPv4 address", "")
	}
	if a := n.Underlay.V6; a != (netip.Addr{}) && (!a.Is6() || a.Is4In6() || a.Zone() != "") {
		bad("Underlay.V6", a, "is not an IPv6 address", "")
	}
	if a := n.Cluster; a != (netip.Addr{}) && (!a.Is4() || a.IsUnspecified()) {
		bad("Cluster", a, "is not in the form of an IPv4 address", "write one such as 10.0.0.7; it need not be reachable")
	}
	for i, raw := range []json.RawMessage{n.Data.V4, n.Data.V6} {
		if len(raw) > 0 && !json.Valid(raw) {
			bad([]string{"Data.V4", "Data.V6"}[i], fmt.Sprintf("%q", raw), "is not JSON", "")
		}
	}
	return errors.Join(errs...)
}

// Says reports whether n and o describe the node in the same words, whatever the Store knows beside.
func (n Node) Says(o Node) bool {
	return n.Name == o.Name && n.Underlay == o.Underlay && n.Backend == o.Backend && n.Data.Equal(o.Data) &&
		n.AS == o.AS && n.Cluster == o.Cluster && maps.Equal(n.Labels, o.Labels)
}

// Clone returns a copy that shares nothing with n but the Data, which nobody may change.
func (n Node) Clone() Node {
	n.Labels = maps.Clone(n.Labels)
	return n
}

// Lease is a prefix of the node's in the form that drivers and BGP take: Compile of a subnet.Snapshot of these. A zero prefix is
// for those who want to know the node and no more.
func (n Node) Lease(p netip.Prefix) *subnet.Lease {
	l := &subnet.Lease{Key: n.Name, Node: n.Name, Underlay: n.Underlay, Backend: n.Backend, Data: n.Data, Revision: n.Revision}
	switch {
	case !p.IsValid():
		return l
	case p.Addr().Is4():
		l.Prefixes.V4 = p
	default:
		l.Prefixes.V6 = p
	}
	l.Key = p.String()
	return l
}
