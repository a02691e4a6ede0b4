package main

import (
	"encoding/json"
	"io"
	"net/netip"
	"time"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/subnet"
)

// report is what --json prints.
type report struct {
	Network *subnet.Network `json:"network"` // net-conf.json with every default spelled out
	Nodes   []nodeReport    `json:"nodes"`
	Leases  []*subnet.Lease `json:"leases"`
	Pods    []podReport     `json:"pods"`
	Matrix  matrixReport    `json:"matrix"`
	Trace   []hop           `json:"trace"`
	Policy  []policyReport  `json:"policy,omitempty"`
	Tenants []tenantReport  `json:"tenants,omitempty"`
	Timings timings         `json:"timings"`
}

type nodeReport struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"` // on the underlay
	Peers     int          `json:"peers"`     // other nodes that it knows
	PodMTU    int          `json:"podMTU"`    // bytes
}

type podReport struct {
	Name      string       `json:"name"`
	Node      string       `json:"node"`
	Addresses []netip.Addr `json:"addresses"`
}

// policyReport is who could call whom at one step: "before" the policies of --policy, "after" they were in force, and "labelled"
// when their peers had the labels that they ask for.
type policyReport struct {
	Step   string       `json:"step"`
	Port   uint16       `json:"port"` // of TCP
	Calls  int          `json:"calls"`
	Denied []callReport `json:"denied"`

	calls []call
}

type callReport struct {
	From   string `json:"from"`
	To     string `json:"to"`
	Family string `json:"family"` // "IPv4" or "IPv6"
}

func newPolicyReport(step string, port uint16, calls []call) policyReport {
	r := policyReport{Step: step, Port: port, Calls: len(calls), Denied: []callReport{}, calls: calls}
	for _, one := range calls {
		if one.seen == policy.Denied {
			r.Denied = append(r.Denied, callReport{one.from.name, one.to.name, family(one.packet.Dst)})
		}
	}
	return r
}

// tenantReport is one tenant's network.
type tenantReport struct {
	Name   string       `json:"name"`
	VNI    uint32       `json:"vni"`
	Table  uint32       `json:"table"` // of its routes, on every node
	Pods   []podReport  `json:"pods"`
	Matrix matrixReport `json:"matrix"`
	// SeenBy are the tenants whose pods of that address saw a packet of this one: itself alone, if all is well.
	SeenBy []string `json:"seenBy"`
}

// matrixReport counts the pings between pods and those to the outside, in all families.
type matrixReport struct {
	Sent     int          `json:"sent"`
	Received int          `json:"received"`
	Failed   []pingReport `json:"failed"`
}

type pingReport struct {
	From   string `json:"from"`
	To     string `json:"to"`     // a pod, or "outside"
	Family string `json:"family"` // "IPv4" or "IPv6"
	Error  string `json:"error"`
}

// timings are how long the parts of the tour took.
type timings struct {
	Underlay milliseconds `json:"underlay"`
	Join     milliseconds `json:"join"`
	Pods     milliseconds `json:"pods"`
	Matrix   milliseconds `json:"matrix"`
	Trace    milliseconds `json:"trace"`
	Policy   milliseconds `json:"policy,omitempty"`
	Tenants  milliseconds `json:"tenants,omitempty"`
	Total    milliseconds `json:"total"`
}

type milliseconds float64

func since(began time.Time) milliseconds {
	return milliseconds(time.Since(began).Round(10*time.Microsecond).Microseconds()) / 1000
}

// report is the tour as data.
func (t *tour) report() report {
	r := report{Network: t.c.network, Matrix: t.matrix.report(), Trace: t.hops, Policy: t.policyReports, Tenants: t.tenantReports, Timings: t.timings}
	for _, m := range t.c.members {
		s := m.agent.Status()
		r.Nodes = append(r.Nodes, nodeReport{Name: m.machine.Name, Addresses: m.machine.Addrs(), Peers: s.Peers, PodMTU: s.MTU})
		r.Leases = append(r.Leases, s.Lease)
	}
	r.Pods = t.c.podReports()
	return r
}

func (c *cluster) podReports() (all []podReport) {
	for p := range c.pods() {
		all = append(all, podReport{Name: p.name, Node: p.on.machine.Name, Addresses: p.addresses})
	}
	return all
}

func (m *matrix) report() matrixReport {
	failed := m.failed()
	r := matrixReport{Sent: len(m.pings), Received: len(m.pings) - len(failed), Failed: []pingReport{}}
	for _, p := range failed {
		r.Failed = append(r.Failed, pingReport{From: p.from.name, To: p.target(), Family: family(p.addr), Error: p.err.Error()})
	}
	return r
}

func (r report) write(to io.Writer) error {
	if r.Trace == nil {
		r.Trace = []hop{} // a list for whoever expects one
	}
	e := json.NewEncoder(to)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
