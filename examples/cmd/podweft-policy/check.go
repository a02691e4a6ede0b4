package main

import (
	"errors"
	"fmt"
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
	rules, invalid := policy.Compile(m)
	problems := lines(errors.Join(err, invalid))
	for _, line := range problems {
		p.printf("error: %s\n", line)
	}
	warnings := warnings(m, rules)
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

// warnings are about what is valid and has no effect. A Ruleset has only what some pod is judged by, and says of each set what is in it.
func warnings(m policy.Model, rules *policy.Ruleset) (list []string) {
	if len(m.Pods) == 0 {
		return []string{"there are no pods in these files: whom policies select cannot be told"}
	}
	selecting := map[policy.ID]bool{}
	for _, c := range rules.Chains {
		selecting[c.Policy] = true
	}
	for _, np := range m.Policies {
		if !selecting[np.ID()] {
			list = append(list, fmt.Sprintf("%s selects no pod of these files", np.ID()))
		}
	}
	for _, cnp := range m.ClusterPolicies {
		if !selecting[cnp.ID()] {
			list = append(list, fmt.Sprintf("%s selects no pod of these files, or has no rules", cnp.ID()))
		}
	}
	for _, c := range rules.Chains {
		for _, match := range c.Matches {
			if why := pointless(match, rules); why != "" {
				list = append(list, fmt.Sprintf("%s, %s[%d]: %s", c.Policy, c.Direction, match.Rule, why))
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// pointless says why a match can never match.
func pointless(match policy.Match, rules *policy.Ruleset) string {
	for _, s := range rules.PeerSets {
		if s.Name == match.Peers && s.Addrs.Len() == 0 {
			return s.Text + " are none"
		}
	}
	for _, s := range rules.BlockSets {
		if s.Name == match.Blocks && len(s.Ranges) == 0 {
			return "its blocks are all excepted: nothing is left of them"
		}
	}
	for _, s := range rules.PortSets {
		if s.Name == match.PortNames && s.Elements.Len() == 0 {
			return fmt.Sprintf("no pod calls a %s port %q", s.Protocol, s.Port)
		}
	}
	return ""
}
