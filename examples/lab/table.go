package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/vxlan"
)

// mostRows of a table are shown on a tour.
const mostRows = 12

// leaseTable is who has which subnet, and what it says to its peers.
func (c *cluster) leaseTable() table {
	var t table
	t.head("node", "pod subnets", "peers send to", "vtep")
	if c.network.Backend.Type != vxlan.Type {
		t.rows[0] = t.rows[0][:3]
	}
	for _, m := range c.members {
		l := m.agent.Status().Lease
		t.row(cell{l.Node, plain}, cell{l.Prefixes.String(), cyan}, cell{l.Underlay.String(), plain}, cell{vteps(l.Data), dim})
	}
	return t
}

// vteps are the MACs that a lease publishes, if it does.
func vteps(published subnet.Data) string {
	var macs []string
	for _, raw := range []json.RawMessage{published.V4, published.V6} {
		var data vxlan.LeaseData
		if json.Unmarshal(raw, &data) == nil && !data.VtepMAC.IsZero() {
			macs = append(macs, data.VtepMAC.String())
		}
	}
	return strings.Join(macs, ", ")
}

// podTable is the whole cluster: nodes, leases, pods and addresses.
func (c *cluster) podTable() table {
	if c.racked != nil {
		return c.racked.table()
	}
	var t table
	t.head("node", "lease", "pod", "addresses")
	for _, m := range c.members {
		name, lease := m.machine.Name, m.agent.Status().Lease.Prefixes.String()
		for _, p := range m.pods {
			t.row(cell{name, plain}, cell{lease, dim}, cell{p.name, bold}, cell{join(p.addresses), cyan})
			name, lease = "", "" // said once
		}
	}
	return t
}

// abridge keeps a table's first rows and its last.
func abridge(t table, most int) table {
	if len(t.rows) <= most+2 { // the heading, and a row that would only say that one row is missing
		return t
	}
	left := len(t.rows) - most - 1
	rows := append([][]cell{}, t.rows[:most]...)
	rows = append(rows, []cell{{fmt.Sprintf("... %d more", left), dim}}, t.rows[len(t.rows)-1])
	return table{rows}
}

// join lists things, with commas.
func join[T fmt.Stringer](all []T) string {
	texts := make([]string, len(all))
	for i, x := range all {
		texts[i] = x.String()
	}
	return strings.Join(texts, ", ")
}
