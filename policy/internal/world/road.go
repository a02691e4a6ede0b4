package world

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/testnet"
)

// Load is what policies a packet may meet.
type Load struct {
	// Nodes is how many nodes share the pods of the Crowd, and this one with them; 0 is no Crowd.
	Nodes int
	// Policies are how many there are for the very pod that is called. Only the last one allows the packet.
	Policies int
}

func (l Load) String() string {
	pods := 0
	if l.Nodes > 0 {
		pods = 10_000 / l.Nodes
	}
	return fmt.Sprintf("pods=%d,policies=%d", 2+pods, l.Policies)
}

// Packets measures what policies add to what a packet costs that a node forwards. Each round sends with them awake and with them
// asleep, which leaves connection tracking on, by the same way through the same memory; "x" is the median of the rounds' ratios,
// and half of these lie within "spread" of each other. sleeper returns what wakes a node's policies or puts them to sleep.
//
//   - established: a datagram of a connection under way.
//   - first: the first datagram of a connection.
//   - connect: a TCP connection, opened and reset.
//
// "pods" are those of the node; where there are more than two, the cluster has 10,000 and 1,000 policies. "policies=100" against
// "policies=10" is what 90 further ones cost.
func Packets(b *testing.B, keep func(testing.TB, *testnet.Node) Keeper, loads []Load, sleeper func(testing.TB, *Node) func(asleep bool)) {
	for _, l := range loads {
		b.Run(l.String(), func(b *testing.B) {
			r := newRoad(b, keep, l, sleeper)
			b.Run("established", func(b *testing.B) { r.compare(b, func(*testing.B) {}, r.underWay) })
			b.Run("first", func(b *testing.B) { r.compare(b, r.forget, r.first) })
			b.Run("connect", func(b *testing.B) { r.compare(b, r.forget, r.connect) })
		})
	}
}

// road is a way from one pod to another through a node whose policies can be put to sleep.
type road struct {
	node    *Node
	sleep   func(asleep bool)
	send    int // raw
	client  int // TCP
	server  int
	to      *unix.SockaddrInet4
	packets [][]byte // of different connections; the first one's is under way
	next    int
}

func newRoad(b *testing.B, keep func(testing.TB, *testnet.Node) Keeper, l Load, sleeper func(testing.TB, *Node) func(asleep bool)) *road {
	w := New(b, keep, "node-0", "node-x")
	m := l.model()
	n := w.Nodes["node-0"]
	rules, err := policy.NewCompiler("node-0").Update(m)
	must(b, err)
	n.Keeper.Enforce(b, rules)
	list := Cells(b, m, "client > web udp/80 v4, web > client udp/80 v4", "")
	w.Settle(m, list)
	w.Send(list[:1]) // routes and neighbours are there
	p := list[0].Packet
	from, to := w.Owner(p.Src), w.Owner(p.Dst)
	r := &road{node: n, sleep: sleeper(b, n), send: socket(b, from, unix.SOCK_RAW, unix.IPPROTO_RAW), to: &unix.SockaddrInet4{Addr: p.Dst.As4(), Port: 80}}
	for i := range 1 << 14 {
		r.packets = append(r.packets, Datagram(p, uint32(i)))
	}
	establish(b, w, r.packets[0])
	for _, m := range w.Machines() {
		m.Deaf() // what it would have to read is not what is measured
	}
	from.Loud(b)
	to.Loud(b)
	r.client, r.server = socket(b, from, unix.SOCK_STREAM, 0), socket(b, to, unix.SOCK_STREAM, 0)
	must(b, unix.Bind(r.server, r.to))
	must(b, unix.Listen(r.server, 128))
	return r
}

// model is the client and the web of the Village beside others. Of the policies on web only the last allows what client sends.
func (l Load) model() policy.Model {
	var m policy.Model
	if l.Nodes > 0 {
		m = Crowd(l.Nodes)
	}
	m.Namespaces = append(m.Namespaces, policy.Namespace{Name: "default"})
	for _, p := range Village().Pods[:2] {
		p.Node = "node-0"
		m.Pods = append(m.Pods, p)
	}
	for i := range l.Policies {
		p := Village().Policies[0]
		p.Name = fmt.Sprintf("web-%03d", i)
		from := policy.Selector{MatchLabels: map[string]string{"number": fmt.Sprint(i)}}
		if i == l.Policies-1 {
			from = App("client")
		}
		p.Ingress = []policy.Rule{{Peers: []policy.Peer{{Pods: &from}}, Ports: []policy.Port{{Number: 80}, {Protocol: policy.UDP, Number: 80}}}}
		m.Policies = append(m.Policies, p)
	}
	return m
}

// chunks and warm are how many times a trial is made in one go, those that count and those that do not.
const chunks, warm = 11, 2

// compare reports what a trial costs with the table and without, from as many rounds as b asks for. A trial returns how many packets,
// or connections, it has sent.
func (r *road) compare(b *testing.B, prepare func(b *testing.B), trial func(b *testing.B) int) {
	runtime.LockOSThread() // for good: the thread stays on one processor, and ends with this benchmark
	var here unix.CPUSet
	must(b, unix.SchedGetaffinity(0, &here))
	for cpu := range runtime.NumCPU() - 1 {
		here.Clear(cpu)
	}
	must(b, unix.SchedSetaffinity(0, &here))
	var with, without, ratios []float64
	measure := func(asleep bool) float64 {
		r.sleep(asleep)
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
func establish(b *testing.B, w *World, packet []byte) {
	b.Helper()
	p := policy.Packet{Src: netip.AddrFrom4([4]byte(packet[12:16])), Dst: netip.AddrFrom4([4]byte(packet[16:20])), Protocol: policy.UDP}
	answer := Datagram(policy.Packet{Src: p.Dst, Dst: p.Src, Protocol: policy.UDP, Port: binary.BigEndian.Uint16(packet[20:])}, 0)
	binary.BigEndian.PutUint16(answer[20:], 80)
	binary.BigEndian.PutUint16(answer[26:], 0) // no checksum: the port has changed
	w.Owner(p.Src).Transmit(b, packet)
	w.Owner(p.Dst).Transmit(b, answer)
	w.Owner(p.Src).Transmit(b, packet)
}

func socket(b *testing.B, m *Machine, kind, protocol int) (fd int) {
	b.Helper()
	must(b, m.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, protocol)
		return err
	}))
	b.Cleanup(func() { unix.Close(fd) })
	return fd
}
