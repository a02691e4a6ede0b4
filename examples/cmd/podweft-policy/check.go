package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/podweft/podweft/policy"
)

// check validates, and warns of what cannot work as it was meant.
func (p *program) check(args []string) error {
	m, err := p.model(args)
	if errors.Is(err, errUsage) {
		return err
	}
	_, invalid := policy.Compile(m)
	problems := lines(errors.Join(err, invalid))
	for _, line := range problems {
		p.printf("error: %s\n", line)
	}
	warnings := warnings(m)
	for _, w := range warnings {
		p.printf("warning: %s\n", w)
	}
	p.printf("%s, %s, %s: %s, %s\n", count(len(m.Policies)+len(m.ClusterPolicies), "policy", "policies"),
		count(len(m.Pods), "pod", "pods"), count(len(m.Namespaces), "namespace", "namespaces"),
		count(len(problems), "error", "errors"), count(len(warnings), "warning", "warnings"))
	if len(problems) > 0 {
		return errProblem
	}
	return nil
}

// lines are the errors of a joined one.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// warnings are about what is valid and does not do what its author is likely to expect. A Ruleset has only what some pod is judged by,
// and says of each set what is in it.
func warnings(m policy.Model) (list []string) {
	list = withoutEffect(m)
	if len(m.Pods) == 0 {
		return append(list, "there are no pods in these files: whom policies select cannot be told")
	}
	m = placed(m)
	rules, _ := policy.Compile(m) // what it says has been said
	selecting := map[policy.ID]bool{}
	for _, c := range rules.Chains {
		selecting[c.Policy] = true
	}
	for _, np := range m.Policies {
		if !selecting[np.ID()] {
			list = append(list, fmt.Sprintf("%s selects no pod of these files%s", np.ID(), onHosts(m, np)))
		}
	}
	for _, cnp := range m.ClusterPolicies {
		if !selecting[cnp.ID()] {
			list = append(list, fmt.Sprintf("%s selects no pod of these files, or has no rules", cnp.ID()))
		}
	}
	has := familiesOf(rules)
	for _, c := range rules.Chains {
		for _, match := range c.Matches {
			if why := pointless(match, rules, has[c.Name]); why != "" {
				list = append(list, fmt.Sprintf("%s, %s[%d]: %s", c.Policy, c.Direction, match.Rule, why))
			}
		}
	}
	list = append(list, nameless(rules)...)
	slices.Sort(list)
	return slices.Compact(list)
}

// withoutEffect warns of rules for a direction that is not among the policy's types.
func withoutEffect(m policy.Model) (list []string) {
	for _, np := range m.Policies {
		for d, rules := range map[policy.Direction][]policy.Rule{policy.Ingress: np.Ingress, policy.Egress: np.Egress} {
			if len(rules) > 0 && len(np.Types) > 0 && !slices.Contains(np.Types, d) {
				list = append(list, fmt.Sprintf("%s has rules for %s without effect: its policyTypes do not name it", np.ID(), d))
			}
		}
	}
	slices.Sort(list)
	return list
}

// placed gives pods addresses that have none, as in files that are yet to be applied: of both families, from where no packets come
// from (RFC 1112, section 4, and RFC 6666).
func placed(m policy.Model) policy.Model {
	m.Pods = slices.Clone(m.Pods)
	v4, v6 := netip.MustParseAddr("240.0.0.1"), netip.MustParseAddr("100::1")
	for i := range m.Pods {
		if p := &m.Pods[i]; len(p.Addresses) == 0 && !p.HostNetwork {
			p.Addresses = []netip.Addr{v4, v6}
			v4, v6 = v4.Next(), v6.Next()
		}
	}
	return m
}

// onHosts says so if a pod that the policy would select is on its host's network.
func onHosts(m policy.Model, np policy.Policy) string {
	for _, p := range m.Pods {
		if p.Namespace == np.Namespace && p.HostNetwork && np.Pods.Matches(p.Labels) {
			return fmt.Sprintf(": %s is on its host's network, where policies do not reach", p.ID())
		}
	}
	return ""
}

// families are those that pods have.
type families struct{ v4, v6 bool }

func (f *families) add(a netip.Addr) {
	f.v4 = f.v4 || a.Is4()
	f.v6 = f.v6 || a.Is6()
}

// familiesOf returns those of the pods that each chain judges.
func familiesOf(rules *policy.Ruleset) map[string]families {
	classes := map[string]families{}
	for e := range rules.Endpoints.All() {
		for _, name := range []string{e.Pod.Ingress, e.Pod.Egress} {
			of := classes[name]
			of.add(e.Addr)
			classes[name] = of
		}
	}
	chains := map[string]families{}
	for _, c := range rules.Classes {
		for _, name := range slices.Concat(c.Admin, c.Policies, c.Baseline) {
			of := chains[name]
			of.v4, of.v6 = of.v4 || classes[c.Name].v4, of.v6 || classes[c.Name].v6
			chains[name] = of
		}
	}
	return chains
}

// pointless says why a match can never match for pods of these families.
func pointless(match policy.Match, rules *policy.Ruleset, pods families) string {
	for _, s := range rules.PeerSets {
		if s.Name == match.Peers && s.Addrs.Len() == 0 {
			return s.Text + " are none"
		}
	}
	for _, s := range rules.BlockSets {
		if s.Name != match.Blocks {
			continue
		}
		var blocks families
		loopback := true
		for _, r := range s.Ranges {
			blocks.add(r.From)
			loopback = loopback && r.From.IsLoopback() && r.To.IsLoopback()
		}
		switch {
		case len(s.Ranges) == 0:
			return "its blocks are all excepted: nothing is left of them"
		case loopback:
			return "its blocks are loopback, which is never seen on a network"
		case !blocks.v4 && !pods.v6:
			return "its blocks are IPv6, and the pods that it speaks of have no such address"
		case !blocks.v6 && !pods.v4:
			return "its blocks are IPv4, and the pods that it speaks of have no such address"
		}
	}
	for _, s := range rules.PortSets {
		if s.Name == match.PortNames && s.Elements.Len() == 0 {
			return fmt.Sprintf("no pod calls a %s port %q", s.Protocol, s.Port)
		}
	}
	return ""
}

// nameless warns of pods that may send something, and nothing to a DNS server. Those that may send nothing at all are meant to.
func nameless(rules *policy.Ruleset) (list []string) {
	for _, c := range rules.Classes {
		if c.Direction != policy.Egress || len(c.Policies) == 0 {
			continue
		}
		var who []string
		some, dns := false, false
		for _, chain := range rules.Chains {
			if !slices.Contains(slices.Concat(c.Admin, c.Policies), chain.Name) {
				continue
			}
			if slices.Contains(c.Policies, chain.Name) {
				who = append(who, chain.Policy.String())
			}
			for _, match := range chain.Matches {
				some = some || match.Action == policy.Accept
				dns = dns || match.Action == policy.Accept && reachesDNS(match)
			}
		}
		if some && !dns {
			slices.Sort(who)
			list = append(list, fmt.Sprintf("%s: nothing allows egress on UDP port 53, so that names cannot be looked up", strings.Join(who, " and ")))
		}
	}
	return list
}

// reachesDNS reports whether a match may be for port 53; one that goes by name may.
func reachesDNS(match policy.Match) bool {
	switch {
	case match.Protocol == 0:
		return true
	case match.Protocol != policy.UDP:
		return false
	case match.PortNames != "" || len(match.Ports) == 0:
		return true
	}
	return slices.ContainsFunc(match.Ports, func(r policy.PortRange) bool { return r.From <= 53 && 53 <= r.To })
}
