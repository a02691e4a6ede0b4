package scenario

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/podweft/podweft/policy"
)

// Scenario is a cluster, which is [Cluster] with what Put has, and what of its connections must come about.
//
// Connections are written "client+other > web tcp/80+udp/53", and several of them with commas between. A name without namespace
// is a pod of default, a node, or one of the Hosts; an address stands for itself. What is after the destination is
// protocol/port, with "icmp" and "ip/47" for protocols without ports; without it, it is tcp/80. "v4" or "v6" at the end leaves
// out the other family, and so does an address.
type Scenario struct {
	Name        string
	Put         policy.Model
	Gone        []policy.ID
	Allow, Deny string
	// Then is what changes afterwards, one step after the other.
	Then []Step
}

// Step is a change, and what must come about after it.
type Step struct {
	Put         policy.Model
	Gone        []policy.ID
	Allow, Deny string
}

// Steps returns all steps, the first among them.
func (s Scenario) Steps() []Step {
	return append([]Step{{Put: s.Put, Gone: s.Gone, Allow: s.Allow, Deny: s.Deny}}, s.Then...)
}

// Cell is one connection in one family, and whether it comes about.
type Cell struct {
	Text     string // "client > web tcp/80 v4"
	From, To string // as in the scenario
	Packet   policy.Packet
	Want     policy.Verdict
}

// Cells returns the connections of the step in the cluster m, which is what the step left.
func (s Step) Cells(m policy.Model) ([]Cell, error) {
	allowed, err := cells(m, s.Allow, policy.Allowed)
	if err != nil {
		return nil, err
	}
	denied, err := cells(m, s.Deny, policy.Denied)
	return append(allowed, denied...), err
}

func cells(m policy.Model, text string, want policy.Verdict) (out []Cell, err error) {
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		sources, rest, ok := strings.Cut(part, ">")
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			return nil, fmt.Errorf("connection %q: is not written FROM > TO", part)
		}
		only := ""
		if last := fields[len(fields)-1]; last == "v4" || last == "v6" {
			only, fields = last, fields[:len(fields)-1]
		}
		ports := "tcp/80"
		if len(fields) > 1 {
			ports = fields[1]
		}
		for from := range strings.SplitSeq(strings.TrimSpace(sources), "+") {
			for to := range strings.SplitSeq(fields[0], "+") {
				for port := range strings.SplitSeq(ports, "+") {
					found, err := connection(m, from, to, port, only)
					if err != nil {
						return nil, fmt.Errorf("connection %q: %w", part, err)
					}
					for i := range found {
						found[i].Want = want
					}
					out = append(out, found...)
				}
			}
		}
	}
	return out, nil
}

// connection returns a Cell for each family that both ends have.
func connection(m policy.Model, from, to, port, only string) (out []Cell, err error) {
	sources, err := addresses(m, from)
	if err != nil {
		return nil, err
	}
	destinations, err := addresses(m, to)
	if err != nil {
		return nil, err
	}
	for family, name := range [...]string{"v4", "v6"} {
		src, dst := sources[family], destinations[family]
		if !src.IsValid() || !dst.IsValid() || only != "" && only != name {
			continue
		}
		protocol, number, err := parsePort(port, family)
		if err != nil {
			return nil, err
		}
		out = append(out, Cell{
			Text: fmt.Sprintf("%s > %s %s %s", from, to, port, name), From: from, To: to,
			Packet: policy.Packet{Src: src, Dst: dst, Protocol: protocol, Port: number},
		})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s and %s have no family in common", from, to)
	}
	return out, nil
}

// addresses returns the first of each family: of a pod, a node, a host, or of an address itself.
func addresses(m policy.Model, name string) (out [2]netip.Addr, err error) {
	list := []netip.Addr(nil)
	if a, err := netip.ParseAddr(name); err == nil {
		list = []netip.Addr{a}
	} else if host, ok := Hosts()[name]; ok {
		list = host
	} else {
		for _, n := range m.Nodes {
			if n.Name == name {
				list = n.Addresses
			}
		}
		for _, p := range m.Pods {
			if p.Namespace+"/"+p.Name == name || p.Namespace == "default" && p.Name == name {
				list = p.Addresses
			}
		}
	}
	if len(list) == 0 {
		return out, fmt.Errorf("nothing with an address is called %q", name)
	}
	for _, a := range list {
		family := 0
		if a.Is6() {
			family = 1
		}
		if !out[family].IsValid() {
			out[family] = a
		}
	}
	return out, nil
}

func parsePort(text string, family int) (policy.Protocol, uint16, error) {
	name, number, _ := strings.Cut(text, "/")
	if name == "icmp" {
		return [...]policy.Protocol{1, 58}[family], 0, nil
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return 0, 0, fmt.Errorf("%q is not a port: %w", text, err)
	}
	switch name {
	case "tcp":
		return policy.TCP, uint16(n), nil
	case "udp":
		return policy.UDP, uint16(n), nil
	case "sctp":
		return policy.SCTP, uint16(n), nil
	case "ip":
		return policy.Protocol(n), 0, nil
	}
	return 0, 0, fmt.Errorf("%q is not a protocol", name)
}

// Change returns m after put and gone, with what is in both put. Of objects that are in put twice the last counts.
func Change(m, put policy.Model, gone []policy.ID) policy.Model {
	away := map[policy.ID]bool{}
	for _, id := range gone {
		away[id] = true
	}
	return policy.Model{
		Nodes:           change(m.Nodes, put.Nodes, away),
		Namespaces:      change(m.Namespaces, put.Namespaces, away),
		Pods:            change(m.Pods, put.Pods, away),
		Policies:        change(m.Policies, put.Policies, away),
		ClusterPolicies: change(m.ClusterPolicies, put.ClusterPolicies, away),
	}
}

func change[T interface{ ID() policy.ID }](have, put []T, gone map[policy.ID]bool) []T {
	last := map[policy.ID]int{}
	for i, o := range put {
		last[o.ID()] = i
	}
	var out []T
	for _, o := range have {
		if _, replaced := last[o.ID()]; !replaced && !gone[o.ID()] {
			out = append(out, o)
		}
	}
	for i, o := range put {
		if last[o.ID()] == i {
			out = append(out, o)
		}
	}
	return out
}
