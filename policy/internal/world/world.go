package world

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
	"github.com/podweft/podweft/testnet"
)

// Patience is how long a busy machine may take for what is certain to come.
const Patience = 20 * time.Second

// World is a cluster with real packets: two nodes or more, a machine for each pod, and one for everybody else, all of them routers or
// behind one, so that every packet between two of them passes the nodes of its pods. Each node enforces its own pods' policies.
//
//	pods ── node ── node ── pods
//	          └─ outside ─┘
type World struct {
	T        testing.TB // the test that is at work
	Nodes    map[string]*Node
	whole    testing.TB // machines last as long as it
	outside  *Machine
	machines map[string]*Machine // of pods, by name and node
	owners   map[netip.Addr]*Machine
	sent     uint32
	flying   map[uint32]scenario.Cell // packets that have not arrived, by their numbers
}

// Node is a node and who keeps its policies.
type Node struct {
	*Machine
	Keeper Keeper
}

// Keeper enforces the policies of one node's pods.
type Keeper interface {
	// Enforce makes the node's filter what rules says, and sees to it that this is what one finds who reads it.
	Enforce(t testing.TB, rules *policy.Ruleset)
	// Denied is how many packets it has dropped since it was made.
	Denied(t testing.TB) uint64
}

const linkTo = "169.254.0.1" // whoever is at the other end of a link, in both families
const linkTo6 = "fe80::1"

// New makes a world of nodes of these names.
func New(t testing.TB, keep func(testing.TB, *testnet.Node) Keeper, names ...string) *World {
	t.Helper()
	w := &World{T: t, Nodes: map[string]*Node{}, whole: t, machines: map[string]*Machine{}, owners: map[netip.Addr]*Machine{}}
	w.outside = newMachine(t, "outside", true)
	for _, name := range names {
		n := &Node{Machine: newMachine(t, name, true)}
		n.Keeper = keep(t, n.Node)
		for _, other := range w.Nodes {
			w.link(n.Machine, other.Machine)
		}
		w.link(n.Machine, w.outside)
		n.toward(t, "0.0.0.0/0", w.outside)
		n.toward(t, "::/0", w.outside)
		w.Nodes[name] = n
	}
	return w
}

// Enforce makes every node's filter what the model says.
func (w *World) Enforce(m policy.Model) {
	w.T.Helper()
	for name, n := range w.Nodes {
		rules, _ := policy.NewCompiler(name).Update(m) // two pods on one address are reported, and a scenario nonetheless
		n.Keeper.Enforce(w.T, rules)
	}
}

// link joins two machines. Each knows the other by one address of each family that never needs to be asked for.
func (w *World) link(a, b *Machine) {
	w.T.Helper()
	inside, err := os.Open(b.NetNS())
	must(w.T, err)
	defer inside.Close()
	nameA, nameB := fmt.Sprintf("to%d", len(a.links)), fmt.Sprintf("to%d", len(b.links))
	must(w.T, a.handle.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: nameA, TxQLen: -1}, PeerName: nameB, PeerNamespace: netlink.NsFd(int(inside.Fd())),
	}))
	endA, err := a.handle.LinkByName(nameA)
	must(w.T, err)
	endB, err := b.handle.LinkByName(nameB)
	must(w.T, err)
	for _, end := range []struct {
		m        *Machine
		own, far netlink.Link
		neighbor *Machine
	}{{a, endA, endB, b}, {b, endB, endA, a}} {
		must(w.T, end.m.handle.LinkSetUp(end.own))
		end.m.links[end.neighbor] = end.own.Attrs().Index
		for _, address := range []string{linkTo, linkTo6} {
			must(w.T, end.m.handle.NeighAdd(&netlink.Neigh{
				LinkIndex: end.own.Attrs().Index, IP: net.ParseIP(address), HardwareAddr: end.far.Attrs().HardwareAddr, State: netlink.NUD_PERMANENT,
			}))
		}
	}
}

// Settle puts every address that the cells of a step need where the model has it.
func (w *World) Settle(m policy.Model, cells []scenario.Cell) {
	w.T.Helper()
	rules, _ := policy.Compile(m)
	wanted := map[netip.Addr]*Machine{}
	for _, c := range cells {
		for _, a := range []netip.Addr{c.Packet.Src, c.Packet.Dst} {
			if wanted[a] == nil {
				wanted[a] = w.placeOf(m, rules, a)
			}
		}
	}
	for a, owner := range w.owners {
		if wanted[a] != owner {
			w.remove(a, owner)
		}
	}
	for a, owner := range wanted {
		if w.owners[a] != owner {
			w.add(a, owner)
		}
	}
}

func (w *World) placeOf(m policy.Model, rules *policy.Ruleset, a netip.Addr) *Machine {
	w.T.Helper()
	for e := range rules.Endpoints.All() {
		if e.Addr == a {
			return w.podAt(e.Pod.ID().String()+" on "+e.Pod.Node, e.Pod.Node)
		}
	}
	for _, n := range m.Nodes {
		if slices.Contains(n.Addresses, a) {
			return w.node(n.Name).Machine
		}
	}
	return w.outside
}

func (w *World) node(name string) *Node {
	w.T.Helper()
	if w.Nodes[name] == nil {
		w.T.Fatalf("the world has no node %q", name)
	}
	return w.Nodes[name]
}

func (w *World) podAt(name, node string) *Machine {
	w.T.Helper()
	if w.machines[name] == nil {
		at := w.node(node).Machine
		m := newMachine(w.whole, name, false)
		m.behind = node
		w.link(at, m)
		m.toward(w.T, "0.0.0.0/0", at)
		m.toward(w.T, "::/0", at)
		w.machines[name] = m
	}
	return w.machines[name]
}

func (w *World) add(a netip.Addr, owner *Machine) {
	w.T.Helper()
	w.owners[a] = owner
	must(w.T, owner.handle.AddrReplace(owner.lo(), &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}))
	w.eachRoute(owner, func(m, via *Machine) { m.toward(w.T, ipNet(a).String(), via) })
}

func (w *World) remove(a netip.Addr, owner *Machine) {
	w.T.Helper()
	delete(w.owners, a)
	must(w.T, owner.handle.AddrDel(owner.lo(), &netlink.Addr{IPNet: ipNet(a)}))
	w.eachRoute(owner, func(m, via *Machine) { must(w.T, m.handle.RouteDel(m.route(w.T, ipNet(a).String(), via))) })
}

// eachRoute calls do for every machine that needs a route of its own for an address of owner's.
func (w *World) eachRoute(owner *Machine, do func(m, via *Machine)) {
	if owner == w.outside {
		return // that is where the default route leads
	}
	at := owner
	if owner.behind != "" {
		at = w.Nodes[owner.behind].Machine
		do(at, owner)
	}
	for _, n := range w.Nodes {
		if n.Machine != at {
			do(n.Machine, at)
		}
	}
	do(w.outside, at)
}

func ipNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
