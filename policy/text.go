package policy

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// String is the Ruleset for people, from the sets to the addresses of pods, one object a line and its parts below it.
func (r *Ruleset) String() string {
	var b strings.Builder
	for _, s := range r.PeerSets {
		fmt.Fprintf(&b, "set %s: %s\n", s.Name, s.Text)
		writeAll(&b, s.Addrs.All())
	}
	for _, s := range r.BlockSets {
		fmt.Fprintf(&b, "set %s: blocks\n", s.Name)
		writeAll(&b, slices.Values(s.Ranges))
	}
	for _, s := range r.PortSets {
		fmt.Fprintf(&b, "set %s: %s\n", s.Name, Port{Protocol: s.Protocol, Name: s.Port})
		writeAll(&b, s.Elements.All())
	}
	for _, c := range r.Chains {
		fmt.Fprintf(&b, "chain %s: %s, %s\n", c.Name, c.Policy, c.Direction)
		for _, m := range c.Matches {
			fmt.Fprintf(&b, "  %s  # %s\n", m, c.ruleName(m.Rule))
		}
	}
	for _, c := range r.Classes {
		fmt.Fprintf(&b, "class %s: %s\n", c.Name, c.Direction)
		for _, tier := range []struct {
			Tier
			chains []string
		}{{Admin, c.Admin}, {Namespaced, c.Policies}, {Baseline, c.Baseline}} {
			for _, chain := range tier.chains {
				fmt.Fprintf(&b, "  %s: %s  # %s\n", tier.Tier, chain, r.chain(chain).Policy)
			}
		}
	}
	b.WriteString("nodes\n")
	writeAll(&b, slices.Values(r.Locals))
	b.WriteString("pods\n")
	writeAll(&b, r.Endpoints.All())
	return b.String()
}

func writeAll[T any](b *strings.Builder, list iter.Seq[T]) {
	for item := range list {
		fmt.Fprintf(b, "  %v\n", item)
	}
}

// String is the match for people: "p-7zv2ooa2jvyrwhg5ahkn5b TCP 80-81: Accept".
func (m Match) String() string {
	parts := []string{"any"}
	if set := m.Peers + m.Blocks; set != "" {
		parts[0] = set
	}
	if m.Protocol != 0 {
		parts = append(parts, m.Protocol.String())
	}
	for _, p := range m.Ports {
		parts = append(parts, p.String())
	}
	if m.PortNames != "" {
		parts = append(parts, m.PortNames)
	}
	return strings.Join(parts, " ") + ": " + m.Action.String()
}

// String is the range for people: "80" or "80-81".
func (r PortRange) String() string {
	if r.From == r.To {
		return fmt.Sprint(r.From)
	}
	return fmt.Sprintf("%d-%d", r.From, r.To)
}

// String is the range for people: "10.0.0.0-10.0.0.63".
func (r Range) String() string { return r.From.String() + "-" + r.To.String() }

// String is the element for people: "10.244.1.10 80".
func (a AddrPort) String() string { return fmt.Sprintf("%s %d", a.Addr, a.Port) }

// String is the address for people: "192.0.2.1 is node-1's".
func (l Local) String() string { return fmt.Sprintf("%s is %s's", l.Addr, l.Node) }

// String is the address for people: "10.244.1.10 is pod default/web's, ingress k-dg6rs2qv7zxgd6lu64yqbm".
func (e Endpoint) String() string {
	s := fmt.Sprintf("%s is %s's", e.Addr, e.Pod.ID())
	for _, d := range directions {
		if class := e.Pod.class(d); class != "" {
			s += fmt.Sprintf(", %s %s", d, class)
		}
	}
	return s
}
