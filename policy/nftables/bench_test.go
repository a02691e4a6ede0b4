package nftables_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/world"
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

// BenchmarkChange is one change in a loop, from the compiled Ruleset until the kernel has it, on nodes that have 100, 250 and all
// 10,000 of the pods. The bar is 0.5 ms for a label and for a pod that comes or goes as the replica of another; the first pod of its
// policies on a node, and the last, come and go with chains.
func BenchmarkChange(b *testing.B) {
	pod := crowdPod(0, 2, 0, 1) // role=db, in a set of all namespaces
	relabelled := pod
	relabelled.Labels = map[string]string{"app": "2", "role": "client"}
	replica := crowdPod(0, 2, 20, 1)
	other := crowdPolicy(0, 2)
	other.Ingress = nil
	changes := []struct {
		name   string
		models [2]policy.Model
		gone   [2][]policy.ID
	}{
		{"label", [2]policy.Model{{Pods: []policy.Pod{relabelled}}, {Pods: []policy.Pod{pod}}}, [2][]policy.ID{}},
		{"replica", [2]policy.Model{{Pods: []policy.Pod{replica}}, {}}, [2][]policy.ID{nil, {replica.ID()}}},
		{"first", [2]policy.Model{{}, {Pods: []policy.Pod{pod}}}, [2][]policy.ID{{pod.ID()}, nil}},
		{"policy", [2]policy.Model{{Policies: []policy.Policy{other}}, {Policies: []policy.Policy{crowdPolicy(0, 2)}}}, [2][]policy.ID{}},
	}
	for _, nodes := range []int{100, 40, 1} {
		for _, change := range changes {
			if change.name == "first" && nodes != 100 {
				continue // others of its kind are there
			}
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
				var all []time.Duration
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					rules, err := compiler.Update(change.models[i%2], change.gone[i%2]...)
					require.NoError(b, err)
					b.StartTimer()
					begin := time.Now()
					if err := loop.Wait(context.Background(), loop.Set(nftables.Spec{Rules: rules})); err != nil {
						b.Fatal(err)
					}
					all = append(all, time.Since(begin))
				}
				slices.Sort(all)
				b.ReportMetric(float64(all[len(all)/2].Microseconds()), "median-us")
			})
		}
	}
}

// BenchmarkPacket is what policies add to what a packet costs that a node forwards. Each round sends with the table awake and with it
// asleep, which leaves connection tracking on, by the same way through the same memory; "x" is the median of the rounds' ratios,
// and half of these lie within "spread" of each other.
//
//   - established: a datagram of a connection under way. The bar is 1.05, whatever is in the table.
//   - first: the first datagram of a connection.
//   - connect: a TCP connection, opened and reset. The bar is 1.15 with up to 10 policies on the pod that is called.
//
// Beside the two pods that talk are none, or the 10,000 pods and 1,000 policies of everybody else. Of the policies on the very pod,
// only the last allows the packet: "policies=100" against "policies=10" is what 90 further ones cost; the bar is 80 ns each.
func BenchmarkPacket(b *testing.B) {
	cases := []struct {
		name     string
		others   bool
		policies int
	}{{"pods=2,policies=0", false, 0}, {"pods=2,policies=1", false, 1}, {"pods=10000,policies=0", true, 0},
		{"pods=10000,policies=1", true, 1}, {"pods=10000,policies=10", true, 10}, {"pods=10000,policies=100", true, 100}}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			r := newRoad(b, c.others, c.policies)
			b.Run("established", func(b *testing.B) { r.compare(b, func(*testing.B) {}, r.underWay) })
			b.Run("first", func(b *testing.B) { r.compare(b, r.forget, r.first) })
			b.Run("connect", func(b *testing.B) { r.compare(b, r.forget, r.connect) })
		})
	}
}

// road is a way from one pod to another through a node whose table of policies can be put to sleep.
type road struct {
	node    *world.Node
	someone *nft.Conn
	send    int // raw
	client  int // TCP
	server  int
	to      *unix.SockaddrInet4
	packets [][]byte // of different connections; the first one's is under way
	next    int
}

var benchTable = nft.Table{Family: nft.INet, Name: "podweft-bench-policy"}

func newRoad(b *testing.B, others bool, policies int) *road {
	w := world.New(b, keep(nftables.Config{}), "node-0", "node-x")
	m := policy.Model{Namespaces: []policy.Namespace{{Name: "default"}}}
	if others {
		m = crowd(1)
		m.Namespaces = append(m.Namespaces, policy.Namespace{Name: "default"})
	}
	client, web := world.Village().Pods[1], world.Village().Pods[0]
	client.Node, web.Node = "node-0", "node-0"
	m.Pods = append(m.Pods, client, web)
	for i := range policies {
		p := world.Village().Policies[0]
		p.Name = fmt.Sprintf("web-%03d", i)
		p.Ingress = []policy.Rule{{Peers: []policy.Peer{{Pods: labels("number", fmt.Sprint(i))}}, Ports: []policy.Port{{Number: 80}, {Protocol: policy.UDP, Number: 80}}}}
		if i == policies-1 {
			p.Ingress[0].Peers = []policy.Peer{{Pods: labels("app", "client")}}
		}
		m.Policies = append(m.Policies, p)
	}
	n := w.Nodes["node-0"]
	apply(b, newDriver(b, nftables.Config{NetNS: n.NetNS(), Owner: "bench"}), nftables.Spec{Rules: compiled(b, m, "node-0")})
	list := world.Cells(b, m, "client > web udp/80 v4, web > client udp/80 v4", "")
	w.Settle(m, list)
	w.Send(list[:1]) // routes and neighbours are there
	p := list[0].Packet
	from, to := w.Owner(p.Src), w.Owner(p.Dst)
	r := &road{node: n, someone: someone(b, n.Node), send: socket(b, from, unix.SOCK_RAW, unix.IPPROTO_RAW), to: &unix.SockaddrInet4{Addr: p.Dst.As4(), Port: 80}}
	for i := range 1 << 14 {
		r.packets = append(r.packets, world.Datagram(p, uint32(i)))
	}
	establish(b, w, r.packets[0])
	for _, m := range w.Machines() {
		m.Deaf() // what it would have to read is not what is measured
	}
	from.Loud(b)
	to.Loud(b)
	r.client, r.server = socket(b, from, unix.SOCK_STREAM, 0), socket(b, to, unix.SOCK_STREAM, 0)
	require.NoError(b, unix.Bind(r.server, r.to))
	require.NoError(b, unix.Listen(r.server, 128))
	return r
}

// sleep puts the table to sleep, or wakes it.
func (r *road) sleep(b *testing.B, asleep bool) {
	b.Helper()
	var flags nft.TableFlags
	if asleep {
		flags = nft.Dormant
	}
	commit(b, r.someone, func(batch *nft.Batch) { batch.AddTable(benchTable, flags) })
}

// chunks and warm are how many times a trial is made in one go, those that count and those that do not.
const chunks, warm = 11, 2

// compare reports what a trial costs with the table and without, from as many rounds as b asks for. A trial returns how many packets,
// or connections, it has sent.
func (r *road) compare(b *testing.B, prepare func(b *testing.B), trial func(b *testing.B) int) {
	runtime.LockOSThread() // for good: the thread stays on one processor, and ends with this benchmark
	var here unix.CPUSet
	require.NoError(b, unix.SchedGetaffinity(0, &here))
	for cpu := range runtime.NumCPU() - 1 {
		here.Clear(cpu)
	}
	require.NoError(b, unix.SchedSetaffinity(0, &here))
	var with, without, ratios []float64
	measure := func(asleep bool) float64 {
		r.sleep(b, asleep)
		prepare(b)
		var costs []float64
		for i := range warm + chunks {
			begin := time.Now()
			n := trial(b)
			if cost := float64(time.Since(begin)) / float64(n); i >= warm {
				costs = append(costs, cost)
			}
		}
		return median(costs)
	}
	for b.Loop() {
		off1, on1, on2, off2 := measure(true), measure(false), measure(false), measure(true)
		with, without = append(with, (on1+on2)/2), append(without, (off1+off2)/2)
		ratios = append(ratios, (on1+on2)/(off1+off2))
	}
	x := median(ratios) // sorts
	b.ReportMetric(median(without), "ns/none")
	b.ReportMetric(median(with), "ns/policy")
	b.ReportMetric(x, "x")
	b.ReportMetric(ratios[len(ratios)*3/4]-ratios[len(ratios)/4], "spread")
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// forget makes the kernel forget all connections.
func (r *road) forget(b *testing.B) { r.node.Forget(b) }

func (r *road) underWay(b *testing.B) int {
	const n = 100
	for range n {
		r.transmit(b, r.packets[0])
	}
	return n
}

func (r *road) first(b *testing.B) int {
	const n = 100
	for range n {
		r.next = max(1, (r.next+1)%len(r.packets))
		r.transmit(b, r.packets[r.next])
	}
	return n
}

// connect opens connections and resets them, all of it on this thread: whatever the kernel does for one is done when the call that
// sends returns.
func (r *road) connect(b *testing.B) int {
	const n = 20
	for range n {
		if err := unix.Connect(r.client, r.to); err != nil {
			b.Fatal(err)
		}
		unspecified := [16]byte{} // AF_UNSPEC: the socket is as new
		if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(r.client), uintptr(unsafe.Pointer(&unspecified)), 16); errno != 0 {
			b.Fatal(errno)
		}
		accepted, _, err := unix.Accept(r.server)
		if err != nil {
			b.Fatal(err)
		}
		unix.Close(accepted)
	}
	return n
}

func (r *road) transmit(b *testing.B, packet []byte) {
	if err := unix.Sendto(r.send, packet, 0, r.to); err != nil && err != unix.ENOBUFS {
		b.Fatal(err)
	}
}

// establish answers a packet, so that its connection is one.
func establish(b *testing.B, w *world.World, packet []byte) {
	b.Helper()
	p := policy.Packet{Src: netip.AddrFrom4([4]byte(packet[12:16])), Dst: netip.AddrFrom4([4]byte(packet[16:20])), Protocol: policy.UDP}
	answer := world.Datagram(policy.Packet{Src: p.Dst, Dst: p.Src, Protocol: policy.UDP, Port: binary.BigEndian.Uint16(packet[20:])}, 0)
	binary.BigEndian.PutUint16(answer[20:], 80)
	binary.BigEndian.PutUint16(answer[26:], 0) // no checksum: the port has changed
	w.Owner(p.Src).Transmit(b, packet)
	w.Owner(p.Dst).Transmit(b, answer)
	w.Owner(p.Src).Transmit(b, packet)
}

func socket(b *testing.B, m *world.Machine, kind, protocol int) (fd int) {
	b.Helper()
	require.NoError(b, m.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, protocol)
		return err
	}))
	b.Cleanup(func() { unix.Close(fd) })
	return fd
}
