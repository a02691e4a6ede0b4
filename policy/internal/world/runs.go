package world

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
	"github.com/podweft/podweft/testnet"
)

// Scenarios sends the packets of the table: what arrives is what must come about, which is what Evaluate says. Each step is a change
// to the filters that were there. Of every so many scenarios it takes one, the first of them being number first.
func Scenarios(t *testing.T, keep func(testing.TB, *testnet.Node) Keeper, first, every int) (connections int) {
	w := New(t, keep, "node-1", "node-2")
	for i, s := range scenario.All() {
		if i%every != first {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			w.T = t
			m := scenario.Cluster()
			for _, step := range s.Steps() {
				m = scenario.Change(m, step.Put, step.Gone)
				connections += w.step(m, step)
			}
		})
	}
	w.T = t
	t.Logf("%d connections", connections)
	return connections
}

// step sends the packets of one step and returns their number.
func (w *World) step(m policy.Model, step scenario.Step) int {
	w.T.Helper()
	cells, err := step.Cells(m)
	must(w.T, err)
	if slices.ContainsFunc(m.Pods, func(p policy.Pod) bool { return p.Node == "" }) {
		return 0 // nobody judges a pod that is on no node
	}
	cells = slices.DeleteFunc(cells, func(c scenario.Cell) bool { return !travels(c.Packet.Src) || !travels(c.Packet.Dst) })
	w.Enforce(m)
	w.Settle(m, cells)
	w.Try(cells)
	whole, _ := policy.Compile(m)
	for _, c := range cells {
		if got, why := whole.Evaluate(c.Packet); got != c.Want {
			w.T.Errorf("%s: must be %s\n%s", c.Text, c.Want, why)
		}
	}
	return len(cells)
}

// travels reports whether packets of an address can come from elsewhere: the table has some that no machine lets in.
func travels(a netip.Addr) bool { return !a.IsLoopback() && !a.IsMulticast() && !a.IsUnspecified() }

// RandomClusters sends a packet between every two addresses of clusters that nobody has thought of, and compares what arrives with an
// evaluator that reads the model. Half of the clusters are changes to the one before. seed 0 is another one each time.
func RandomClusters(t *testing.T, keep func(testing.TB, *testnet.Node) Keeper, clusters int, seed uint64) {
	if seed == 0 {
		seed = rand.Uint64()
	}
	i := 0
	defer func() {
		if t.Failed() {
			t.Logf("cluster %d of -seed=%d", i, seed)
		}
	}()
	r := scenario.Random{Choose: rand.New(rand.NewPCG(seed, 0)).IntN}
	w := New(t, keep, "n0", "n1")
	m := r.Model()
	for ; i < clusters; i++ {
		if i%2 == 0 {
			m = r.Model()
		} else {
			put, gone := r.Update()
			m = scenario.Change(m, put, gone)
		}
		var cells []scenario.Cell
		for _, p := range r.Packets() {
			if p.Protocol == unix.IPPROTO_ICMP && p.Src.Is6() {
				p.Protocol = unix.IPPROTO_ICMPV6
			}
			cells = append(cells, scenario.Cell{Text: "random", Packet: p, Want: scenario.Judge(m, p)})
		}
		w.Enforce(m)
		w.Settle(m, cells)
		w.Try(cells)
		if t.Failed() {
			return
		}
	}
}
