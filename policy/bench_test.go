package policy_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/policy"
)

// city is a cluster of 100 namespaces with 10 deployments of 10 pods and 10 policies each: 10,000 pods of both families and 1,000
// policies. Each deployment has a policy: in from its neighbour, from the clients of a team's namespaces and from a block with
// holes; out to its neighbour's named port, to DNS, and to the databases of every namespace.
func city() policy.Model {
	var m policy.Model
	for ns := range 100 {
		namespace := fmt.Sprintf("ns-%02d", ns)
		m.Namespaces = append(m.Namespaces, policy.Namespace{Name: namespace, Labels: map[string]string{
			"kubernetes.io/metadata.name": namespace, "team": fmt.Sprintf("team-%d", ns%10)}})
		for app := range 10 {
			for replica := range 10 {
				m.Pods = append(m.Pods, citizen(ns, app, replica))
			}
			m.Policies = append(m.Policies, cityPolicy(ns, app))
		}
	}
	for node := range 100 {
		m.Nodes = append(m.Nodes, policy.Node{Name: fmt.Sprintf("node-%d", node), Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{192, 0, 2, byte(node)}), netip.AddrFrom4([4]byte{10, byte(100 + node), 0, 1})}})
	}
	return m
}

func citizen(ns, app, replica int) policy.Pod {
	return policy.Pod{
		Namespace: fmt.Sprintf("ns-%02d", ns), Name: fmt.Sprintf("app-%d-%d", app, replica), Node: fmt.Sprintf("node-%d", (ns+app*10+replica)%100),
		Labels: map[string]string{
			"app": fmt.Sprintf("app-%d", app), "role": [...]string{"client", "server", "db"}[app%3],
			"pod-template-hash": fmt.Sprintf("%x", ns*1000+app), "version": "v1",
		},
		Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{10, byte(ns), byte(app), byte(10 + replica)}),
			netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(ns), 14: byte(app), 15: byte(10 + replica)}),
		},
		Ports: []policy.NamedPort{{Name: "http", Protocol: policy.TCP, Number: uint16(8000 + app)}},
	}
}

func labelled(pairs ...string) *policy.Selector {
	s := &policy.Selector{MatchLabels: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		s.MatchLabels[pairs[i]] = pairs[i+1]
	}
	return s
}

func cityPolicy(ns, app int) policy.Policy {
	neighbour := labelled("app", fmt.Sprintf("app-%d", (app+1)%10))
	return policy.Policy{
		Namespace: fmt.Sprintf("ns-%02d", ns), Name: fmt.Sprintf("app-%d", app), Pods: *labelled("app", fmt.Sprintf("app-%d", app)),
		Types: []policy.Direction{policy.Ingress, policy.Egress},
		Ingress: []policy.Rule{{
			Peers: []policy.Peer{
				{Pods: neighbour},
				{Namespaces: labelled("team", fmt.Sprintf("team-%d", (ns+app)%10)), Pods: labelled("role", "client")},
				{Block: &policy.Block{CIDR: netip.MustParsePrefix("203.0.0.0/16"), Except: []netip.Prefix{
					netip.MustParsePrefix("203.0.113.0/24"), netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, byte(ns), byte(app)}), 32)}}},
			},
			Ports: []policy.Port{{Number: uint16(8000 + app)}, {Protocol: policy.UDP, Number: 9000, End: 9010}},
		}},
		Egress: []policy.Rule{
			{Peers: []policy.Peer{{Pods: neighbour}}, Ports: []policy.Port{{Name: "http"}}},
			{Peers: []policy.Peer{{Namespaces: labelled("kubernetes.io/metadata.name", "ns-00"), Pods: labelled("app", "app-0")}},
				Ports: []policy.Port{{Protocol: policy.UDP, Number: 53}, {Number: 53}}},
			{Peers: []policy.Peer{{Namespaces: &policy.Selector{}, Pods: labelled("role", "db")}}, Ports: []policy.Port{{Number: 5432}}},
		},
	}
}

// BenchmarkCompile is all of the city from nothing. The bar is 300 ms and 150 MB; live-MB is what the Compiler and its Ruleset
// keep, B/op what it takes to get there.
func BenchmarkCompile(b *testing.B) {
	m := city()
	b.ReportAllocs()
	for b.Loop() {
		_, err := policy.Compile(m)
		require.NoError(b, err)
	}
	b.StopTimer()
	before := heap()
	c := policy.NewCompiler("")
	rules, err := c.Update(m)
	require.NoError(b, err)
	b.ReportMetric(float64(heap()-before)/1e6, "live-MB")
	elements := 0
	for _, s := range rules.PeerSets {
		elements += s.Addrs.Len()
	}
	b.ReportMetric(float64(len(rules.PeerSets)), "peer-sets")
	b.ReportMetric(float64(elements), "set-elements")
	b.ReportMetric(float64(len(rules.Classes)), "classes")
	runtime.KeepAlive(c)
}

func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// BenchmarkCompileNode is the part of the city that one node's filter needs.
func BenchmarkCompileNode(b *testing.B) {
	m := city()
	for b.Loop() {
		_, err := policy.NewCompiler("node-7").Update(m)
		require.NoError(b, err)
	}
}

// BenchmarkUpdate is one change in the city. The bar is 1 ms for a label, and so for a pod.
func BenchmarkUpdate(b *testing.B) {
	for _, node := range []string{"", "node-7"} {
		which := map[string]string{"": "all", "node-7": "node"}[node]
		compiled := func(b *testing.B) *policy.Compiler {
			c := policy.NewCompiler(node)
			_, err := c.Update(city())
			require.NoError(b, err)
			return c
		}
		update := func(b *testing.B, c *policy.Compiler, m policy.Model, gone ...policy.ID) {
			_, err := c.Update(m, gone...)
			require.NoError(b, err)
		}
		b.Run(which+"/label", func(b *testing.B) {
			c, pod := compiled(b), citizen(0, 7, 0)
			pod.Labels["app"] = "app-0" // from one policy to another, which takes DNS with it
			list := [2]policy.Model{{Pods: []policy.Pod{pod}}, {Pods: []policy.Pod{citizen(0, 7, 0)}}}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				update(b, c, list[i%2])
			}
		})
		b.Run(which+"/label nobody asks for", func(b *testing.B) {
			c, pod := compiled(b), citizen(7, 0, 0)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				pod.Labels = map[string]string{"app": "app-0", "role": "client", "version": strconv.Itoa(i)}
				update(b, c, policy.Model{Pods: []policy.Pod{pod}})
			}
		})
		b.Run(which+"/pod comes or goes", func(b *testing.B) {
			c, pod := compiled(b), citizen(7, 2, 0) // role=db: in a set of all namespaces
			pod.Name, pod.Addresses = "new", []netip.Addr{netip.MustParseAddr("10.7.2.200"), netip.MustParseAddr("fd00::7:2c8")}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%2 == 0 {
					update(b, c, policy.Model{Pods: []policy.Pod{pod}})
				} else {
					update(b, c, policy.Model{}, pod.ID())
				}
			}
		})
		b.Run(which+"/namespace label", func(b *testing.B) {
			c := compiled(b)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				update(b, c, policy.Model{Namespaces: []policy.Namespace{{Name: "ns-07", Labels: map[string]string{
					"kubernetes.io/metadata.name": "ns-07", "team": fmt.Sprintf("team-%d", i%2)}}}})
			}
		})
		b.Run(which+"/policy", func(b *testing.B) {
			c, p := compiled(b), cityPolicy(7, 7)
			p.Ingress = p.Ingress[:0:0]
			list := [2]policy.Model{{Policies: []policy.Policy{p}}, {Policies: []policy.Policy{cityPolicy(7, 7)}}}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				update(b, c, list[i%2])
			}
		})
	}
}

// BenchmarkEvaluate is one question about the city.
func BenchmarkEvaluate(b *testing.B) {
	rules, err := policy.Compile(city())
	require.NoError(b, err)
	p := policy.Packet{Src: netip.MustParseAddr("10.7.1.10"), Dst: netip.MustParseAddr("10.7.0.10"), Protocol: policy.TCP, Port: 8000}
	for b.Loop() {
		rules.Evaluate(p)
	}
}
