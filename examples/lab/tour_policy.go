package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/podweft/podweft/policy"
)

// The steps of the chapter, as --json calls them.
const (
	before   = "before"
	after    = "after"
	labelled = "labelled"
)

// policies is the chapter about policies, for whoever brings some.
func (t *tour) policies(ctx context.Context) error {
	if t.o.policies == nil {
		return nil
	}
	t.begin("Policies: who may call whom")
	k, err := t.c.castOf(t.o.policies)
	if err != nil {
		return err
	}
	p, err := newPolicing(ctx, t.c, k)
	if err != nil {
		return err
	}
	t.c.policing = p
	t.say("There is %s.\nThe lab's pods play those that policies speak of:", t.spokenOf())
	t.print(p.cast.table())
	open := policy.Ruleset{} // allows everything
	t.say("Each pod opens a connection to every other, TCP %d, with no policy in force:", p.port)
	if err := t.calls(ctx, before, &open); err != nil {
		return err
	}
	if err := p.enforce(ctx); err != nil {
		return err
	}
	t.say("\nNow the policies are compiled, and each node keeps those of its own pods in an nftables table:")
	if err := t.inForce(ctx, after); err != nil {
		return err
	}
	if len(p.cast.later) == 0 {
		return nil
	}
	t.say("\nThen peers get the labels that the policies ask for:\n\n")
	for _, l := range p.cast.later {
		t.say("  %s", t.out.paint(cyan, fmt.Sprintf("lab label %s %s=%s", l.target(), l.key, l.value)))
	}
	if err := p.label(ctx, p.cast.later...); err != nil {
		return err
	}
	return t.inForce(ctx, labelled)
}

func (t *tour) spokenOf() string {
	m := t.o.policies
	var names []string
	for _, np := range m.Policies {
		names = append(names, np.ID().String())
	}
	for _, cnp := range m.ClusterPolicies {
		names = append(names, cnp.ID().String())
	}
	return strings.Join(names, " and ")
}

// inForce tries all connections under the policies, and explains one that they deny, or one that they speak for.
func (t *tour) inForce(ctx context.Context, step string) error {
	rules, err := t.c.policing.rules()
	if err != nil {
		return err
	}
	if err := t.calls(ctx, step, rules); err != nil {
		return err
	}
	calls := t.policyReports[len(t.policyReports)-1].calls
	telling := func(one call) bool { return one.due == policy.Denied }
	if step == labelled {
		telling = func(one call) bool {
			verdict, why := rules.Evaluate(one.packet)
			return verdict == policy.Allowed && (why.Ingress.Reason == policy.ByRule || why.Egress.Reason == policy.ByRule)
		}
	}
	if i := slices.IndexFunc(calls, telling); i >= 0 {
		one := calls[i]
		t.say("\nWhy? %s", t.out.paint(cyan, fmt.Sprintf("lab why %s %s", one.from.name, one.to.name)))
		t.say("%s", rules.Explain(one.packet))
	}
	return nil
}

// calls tries all connections and draws them.
func (t *tour) calls(ctx context.Context, step string, rules *policy.Ruleset) error {
	calls, err := t.c.policing.calls(ctx, rules)
	if err != nil {
		return err
	}
	t.policyReports = append(t.policyReports, newPolicyReport(step, t.c.policing.port, calls))
	t.out.printf("\n")
	printCalls(t.out, "   ", calls)
	if err := disputed(calls); err != nil {
		t.say("\n%s the kernel does otherwise than the policies say: %s", t.out.paint(red, "✗"), oneLine(err))
		t.broken = errors.Join(t.broken, fmt.Errorf("policies, %s: %w", step, err))
	}
	return nil
}
