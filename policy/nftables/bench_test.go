package nftables_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/testnet"
)

// crowd is a cluster of 100 namespaces with 10 deployments of 10 pods and 10 policies each, spread over so many nodes: 10,000 pods
// of both families, 1,000 policies.
func crowd(nodes int) policy.Model {
	var m policy.Model
	for ns := range 100 {
		namespace := fmt.Sprintf("ns-%d", ns)
		m.Namespaces = append(m.Namespaces, policy.Namespace{Name: namespace, Labels: map[string]string{"team": fmt.Sprint(ns % 10)}})
		for app := range 10 {
			for replica := range 10 {
				m.Pods = append(m.Pods, crowdPod(ns, app, replica, nodes))
			}
			m.Policies = append(m.Policies, crowdPolicy(ns, app))
		}
	}
	return m
}

func crowdPod(ns, app, replica, nodes int) policy.Pod {
	return policy.Pod{
		Namespace: fmt.Sprintf("ns-%d", ns), Name: fmt.Sprintf("app-%d-%d", app, replica), Node: fmt.Sprintf("node-%d", (ns+app*10+replica)%nodes),
		Labels: map[string]string{"app": fmt.Sprint(app), "role": [...]string{"client", "server", "db"}[app%3]},
		Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{10, byte(ns), byte(app), byte(10 + replica)}),
			netip.AddrFrom16([16]byte{0: 0xfd, 12: 1, 13: byte(ns), 14: byte(app), 15: byte(10 + replica)}),
		},
		Ports: []policy.NamedPort{{Name: "http", Protocol: policy.TCP, Number: uint16(8000 + app)}},
	}
}

func labels(pairs ...string) *policy.Selector {
	s := &policy.Selector{MatchLabels: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		s.MatchLabels[pairs[i]] = pairs[i+1]
	}
	return s
}

func crowdPolicy(ns, app int) policy.Policy {
	neighbour := labels("app", fmt.Sprint((app+1)%10))
	return policy.Policy{
		Namespace: fmt.Sprintf("ns-%d", ns), Name: fmt.Sprintf("app-%d", app), Pods: *labels("app", fmt.Sprint(app)),
		Types: []policy.Direction{policy.Ingress, policy.Egress},
		Ingress: []policy.Rule{{
			Peers: []policy.Peer{
				{Pods: neighbour},
				{Namespaces: labels("team", fmt.Sprint((ns+app)%10)), Pods: labels("role", "client")},
				{Block: &policy.Block{CIDR: netip.MustParsePrefix("203.0.0.0/16"), Except: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}},
			},
			Ports: []policy.Port{{Number: uint16(8000 + app)}, {Protocol: policy.UDP, Number: 9000, End: 9010}},
		}},
		Egress: []policy.Rule{
			{Peers: []policy.Peer{{Pods: neighbour}}, Ports: []policy.Port{{Name: "http"}}},
			{Peers: []policy.Peer{{Namespaces: &policy.Selector{}, Pods: labels("role", "db")}}, Ports: []policy.Port{{Number: 5432}}},
		},
	}
}

// BenchmarkLoad is the whole of a Ruleset into a namespace that has none: that of all 10,000 pods as if they were one node's (the
// bar is 1 s), and that of one node among a hundred. "again" is the reading and comparing of a restart.
func BenchmarkLoad(b *testing.B) {
	for _, nodes := range []int{1, 100} {
		rules := compiled(b, crowd(nodes), "node-0")
		d := newDriver(b, nftables.Config{NetNS: testnet.NewNode(b, "node").NetNS()})
		spec := nftables.Spec{Rules: rules}
		b.Run(fmt.Sprintf("pods=%d", rules.Endpoints.Len()/2), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				apply(b, d, nftables.Spec{})
				b.StartTimer()
				apply(b, d, spec)
			}
		})
		b.Run(fmt.Sprintf("pods=%d/again", rules.Endpoints.Len()/2), func(b *testing.B) {
			apply(b, d, spec)
			for b.Loop() {
				apply(b, d, spec)
			}
		})
	}
}

// BenchmarkChange is one change in a loop, from the compiled Ruleset until the kernel has it: on a node of a hundred, and on one that
// has all 10,000 pods. The bar is 0.5 ms for a label or a pod.
func BenchmarkChange(b *testing.B) {
	pod := crowdPod(0, 2, 0, 1) // role=db, in a set of all namespaces
	relabelled := pod
	relabelled.Labels = map[string]string{"app": "2", "role": "client"}
	other := crowdPolicy(0, 2)
	other.Ingress = nil
	changes := []struct {
		name   string
		models [2]policy.Model
		gone   [2][]policy.ID
	}{
		{"label", [2]policy.Model{{Pods: []policy.Pod{relabelled}}, {Pods: []policy.Pod{pod}}}, [2][]policy.ID{}},
		{"pod", [2]policy.Model{{}, {Pods: []policy.Pod{pod}}}, [2][]policy.ID{{pod.ID()}, nil}},
		{"policy", [2]policy.Model{{Policies: []policy.Policy{other}}, {Policies: []policy.Policy{crowdPolicy(0, 2)}}}, [2][]policy.ID{}},
	}
	for _, nodes := range []int{100, 1} {
		for _, change := range changes {
			b.Run(fmt.Sprintf("pods=%d/%s", 10_000/nodes, change.name), func(b *testing.B) {
				d := newDriver(b, nftables.Config{NetNS: testnet.NewNode(b, "node").NetNS()})
				loop := running(b, d)
				home := crowdPod(0, 2, 0, nodes).Node
				compiler := policy.NewCompiler(home)
				rules, err := compiler.Update(crowd(nodes))
				require.NoError(b, err)
				set(b, loop, nftables.Spec{Rules: rules})
				for _, m := range change.models {
					for i := range m.Pods {
						m.Pods[i].Node = home
					}
				}
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					rules, err := compiler.Update(change.models[i%2], change.gone[i%2]...)
					require.NoError(b, err)
					b.StartTimer()
					if err := loop.Wait(context.Background(), loop.Set(nftables.Spec{Rules: rules})); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkPacket is what a packet costs that a node forwards: on a connection under way, and as the first of one. "none" is
// connection tracking alone; beside it are the 10,000 pods and 1,000 policies of everybody else, and policies on the very pod, none
// of which but the last allows the packet.
func BenchmarkPacket(b *testing.B) {
	cases := []struct {
		name     string
		others   bool
		policies int
	}{{"none", false, -1}, {"pods=2,policies=0", false, 0}, {"pods=10000,policies=0", true, 0}, {"pods=10000,policies=1", true, 1},
		{"pods=10000,policies=10", true, 10}, {"pods=10000,policies=100", true, 100}}
	for _, kind := range []string{"established", "new"} {
		for _, c := range cases {
			b.Run(kind+"/"+c.name, func(b *testing.B) { benchmarkPacket(b, kind == "new", c.others, c.policies) })
		}
	}
}

func benchmarkPacket(b *testing.B, fresh, others bool, policies int) {
	w := newWorld(b, "node-0", "node-x")
	m := policy.Model{Namespaces: []policy.Namespace{{Name: "default"}}}
	if others {
		m = crowd(1)
		m.Namespaces = append(m.Namespaces, policy.Namespace{Name: "default"})
	}
	client, web := village().Pods[1], village().Pods[0]
	client.Node, web.Node = "node-0", "node-0"
	m.Pods = append(m.Pods, client, web)
	for i := range policies {
		p := village().Policies[0]
		p.Name = fmt.Sprintf("web-%03d", i)
		p.Ingress = []policy.Rule{{Peers: []policy.Peer{{Pods: labels("number", fmt.Sprint(i))}}, Ports: []policy.Port{{Protocol: policy.UDP, Number: 80}}}}
		if i == policies-1 {
			p.Ingress[0].Peers = []policy.Peer{{Pods: labels("app", "client")}}
		}
		m.Policies = append(m.Policies, p)
	}
	n := w.nodes["node-0"]
	if policies >= 0 {
		n.spec.Rules = compiled(b, m, "node-0")
		set(b, n.loop, n.spec)
	} else {
		conntrackOnly(b, n)
	}
	list := cells(b, m, "client > web udp/80 v4, web > client udp/80 v4", "")
	w.settle(m, list)
	if !fresh { // two that answer each other are established
		w.send(list[:1])
	}
	p := list[0].Packet
	fd := w.owners[p.Src].send[0]
	to := &unix.SockaddrInet4{Addr: p.Dst.As4()}
	var packets [][]byte
	for i := range 1 << 15 {
		if !fresh {
			i = 0
		}
		packets = append(packets, datagram(p, uint32(i)))
	}
	if !fresh {
		establish(b, w, packets[0])
	}
	for _, m := range w.all() {
		m.deaf()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		if fresh && i%len(packets) == 0 {
			b.StopTimer()
			require.NoError(b, n.handle.ConntrackTableFlush(1))
			b.StartTimer()
		}
		if err := unix.Sendto(fd, packets[i%len(packets)], 0, to); err != nil && !errors.Is(err, os.ErrPermission) && err != unix.ENOBUFS {
			b.Fatal(err)
		}
	}
}

// conntrackOnly is a node that follows connections and lets everything through.
func conntrackOnly(b *testing.B, n *node) {
	b.Helper()
	table := nft.Table{Family: nft.INet, Name: "conntrack"}
	chain := nft.Chain{Table: table, Name: "post", Base: nft.Base{Type: "filter", Hook: nft.Postrouting, Priority: 95, Policy: nft.Accept}}
	commit(b, someone(b, n.Node), func(batch *nft.Batch) {
		batch.AddTable(table, 0)
		batch.AddChain(chain)
		batch.AddRule(nft.Rule{Table: table, Chain: chain.Name, Text: "ct state invalid counter", Exprs: []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG_1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{1, 0, 0, 0}},
			&expr.Counter{},
		}})
	})
}

// establish answers a packet, so that its connection is one.
func establish(b *testing.B, w *world, packet []byte) {
	b.Helper()
	p := policy.Packet{Src: netip.AddrFrom4([4]byte(packet[12:16])), Dst: netip.AddrFrom4([4]byte(packet[16:20])), Protocol: policy.UDP}
	answer := datagram(policy.Packet{Src: p.Dst, Dst: p.Src, Protocol: policy.UDP, Port: binary.BigEndian.Uint16(packet[20:])}, 0)
	binary.BigEndian.PutUint16(answer[20:], 80)
	binary.BigEndian.PutUint16(answer[26:], 0) // no checksum: the port has changed
	w.owners[p.Src].transmit(b, packet)
	w.owners[p.Dst].transmit(b, answer)
	w.owners[p.Src].transmit(b, packet)
}

// deaf closes the ears of a machine: what it would have to read is not what is measured.
func (m *machine) deaf() { _ = unix.SetsockoptInt(m.receive, unix.SOL_SOCKET, unix.SO_RCVBUF, 1) }
