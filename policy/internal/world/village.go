package world

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
	"github.com/podweft/podweft/testnet"
)

// Village is two pods of node-1, and a third elsewhere: web may be called by clients, on port 80.
func Village() policy.Model {
	pod := func(name, node string, last byte) policy.Pod {
		return policy.Pod{Namespace: "default", Name: name, Node: node, Labels: map[string]string{"app": name}, Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 244, 1, last}), netip.AddrFrom16([16]byte{0: 0xfd, 15: last})}}
	}
	addr := netip.MustParseAddr
	return policy.Model{
		Nodes: []policy.Node{
			{Name: "node-1", Addresses: []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}},
			{Name: "node-2", Addresses: []netip.Addr{addr("192.0.2.2"), addr("2001:db8::2")}},
		},
		Namespaces: []policy.Namespace{{Name: "default"}},
		Pods:       []policy.Pod{pod("web", "node-1", 10), pod("client", "node-1", 11), pod("other", "node-2", 12)},
		Policies: []policy.Policy{{
			Namespace: "default", Name: "web", Pods: App("web"),
			Ingress: []policy.Rule{{Peers: []policy.Peer{{Pods: new(App("client"))}}, Ports: []policy.Port{{Number: 80}, {Number: 8000, End: 8010}}}},
		}},
	}
}

// App selects the Village's pod of that name.
func App(name string) policy.Selector {
	return policy.Selector{MatchLabels: map[string]string{"app": name}}
}

// Cells are connections in the model, written as scenarios write them.
func Cells(t testing.TB, m policy.Model, allow, deny string) []scenario.Cell {
	t.Helper()
	list, err := scenario.Step{Allow: allow, Deny: deny}.Cells(m)
	must(t, err)
	return list
}

// Updates sends packets in the Village while its policies and pods change so many times: what is always denied never arrives and what
// is always allowed always does. apply makes node-1's filter what the rules say.
func Updates(t *testing.T, keep func(testing.TB, *testnet.Node) Keeper, updates int, apply func(context.Context, Keeper, *policy.Ruleset) error) {
	UpdatesAmid(t, policy.Model{}, keep, updates, apply)
}

// UpdatesAmid is Updates in a Village that is part of a larger cluster.
func UpdatesAmid(t *testing.T, others policy.Model, keep func(testing.TB, *testnet.Node) Keeper, updates int, apply func(context.Context, Keeper, *policy.Ruleset) error) {
	w := New(t, keep, "node-1", "node-2")
	m := Village()
	m.Namespaces, m.Pods, m.Policies = append(m.Namespaces, others.Namespaces...), append(m.Pods, others.Pods...), append(m.Policies, others.Policies...)
	w.Enforce(m)
	list := Cells(t, m, "client > web", "other > web")
	w.Settle(m, list)
	w.Try(list)
	ctx, cancel := context.WithCancel(t.Context())
	var updating sync.WaitGroup
	defer updating.Wait() // also when a round fails
	defer cancel()
	updating.Go(func() {
		defer cancel()
		err := disturb(m, updates, func(rules *policy.Ruleset) error { return apply(ctx, w.Nodes["node-1"].Keeper, rules) })
		if err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	})
	rounds := 0
	for ; ctx.Err() == nil && !t.Failed(); rounds++ { // one round after the other: a socket that overflows loses packets too
		w.Round(list)
	}
	t.Logf("%d packets of each kind", rounds*len(list)/2)
}

// disturb changes policies and pods of the Village, which m begins with, in all ways that leave two connections alone: one allowed, one
// denied.
func disturb(m policy.Model, updates int, apply func(*policy.Ruleset) error) error {
	compiler := policy.NewCompiler("node-1")
	if _, err := compiler.Update(m); err != nil {
		return err
	}
	for i := range updates {
		rules, err := compiler.Update(disturbance(m, i))
		if err != nil {
			return err
		}
		if err := apply(rules); err != nil {
			return err
		}
	}
	return nil
}

// disturbance is the update of that number.
func disturbance(m policy.Model, i int) (put policy.Model) {
	second, client, other := m.Policies[0], m.Pods[1], m.Pods[2]
	second.Name = "second"
	switch i % 7 {
	case 0: // the rule is in another policy too
		put.Policies = append(put.Policies, second)
	case 1: // the other policy has other ports
		second.Ingress = []policy.Rule{{Ports: []policy.Port{{Number: 443}}}}
		put.Policies = append(put.Policies, second)
	case 2: // web's class is another's
		second.Pods = App("nobody")
		put.Policies = append(put.Policies, second)
	case 3: // somebody else comes into the set of clients
		client.Name, client.Addresses = "more", []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 2, byte(i)})}
		put.Pods = append(put.Pods, client)
	case 4: // the policy itself is written anew
		first := m.Policies[0]
		first.Ingress = append(first.Ingress[:1:1], policy.Rule{Ports: []policy.Port{{Number: uint16(1000 + i)}}})
		put.Policies = append(put.Policies, first)
	case 5: // another comes and is isolated as web is, while one leaves the clients
		web := m.Pods[0]
		web.Name, web.Addresses = "web-2", []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 3, byte(i)})}
		client.Name, client.Addresses, client.Labels = "more", []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 2, byte(i)})}, nil
		put.Pods = append(put.Pods, web, client)
	case 6: // the denied one has other labels, which nobody asks for
		other.Labels = map[string]string{"app": "other", "round": "odd"}
		put.Pods = append(put.Pods, other)
	}
	return put
}
