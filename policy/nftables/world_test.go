package nftables_test

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/scenario"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/testnet"
)

// world is a cluster with real packets: two nodes, a machine for each pod, and one for everybody else, all of them routers or
// behind one, so that every packet between two of them passes the nodes of its pods. Each node enforces its own pods' policies.
//
//	pods ── node ── node ── pods
//	          └─ outside ─┘
type world struct {
	whole    testing.TB // machines last as long as it
	t        testing.TB // the test that is at work
	nodes    map[string]*node
	outside  *machine
	machines map[string]*machine // of pods, by name and node
	owners   map[netip.Addr]*machine
	sent     uint32
	flying   map[uint32]scenario.Cell // packets that have not arrived, by their numbers
}

// node is a node and who keeps its policies.
type node struct {
	*machine
	driver *nftables.Driver
	loop   *podweft.Loop[nftables.Spec]
	spec   nftables.Spec
}

// machine is a namespace that sends and receives.
type machine struct {
	*testnet.Node
	handle  *netlink.Handle
	links   map[*machine]int // to its neighbours
	send    [2]int           // sockets: IPv4, IPv6
	receive int
	behind  string // the node of a pod
}

const linkTo = "169.254.0.1" // whoever is at the other end of a link, in both families
const linkTo6 = "fe80::1"

func newWorld(t testing.TB, names ...string) *world {
	t.Helper()
	w := &world{whole: t, t: t, nodes: map[string]*node{}, machines: map[string]*machine{}, owners: map[netip.Addr]*machine{}}
	w.outside = w.machine("outside", true)
	for _, name := range names {
		n := &node{machine: w.machine(name, true)}
		n.driver = newDriver(t, nftables.Config{NetNS: n.NetNS()})
		n.loop = running(t, n.driver)
		for _, other := range w.nodes {
			w.link(n.machine, other.machine)
		}
		w.link(n.machine, w.outside)
		n.toward(t, "0.0.0.0/0", w.outside)
		n.toward(t, "::/0", w.outside)
		w.nodes[name] = n
	}
	return w
}

func (w *world) machine(name string, router bool) *machine {
	w.t.Helper()
	m := &machine{Node: testnet.NewNode(w.whole, name), links: map[*machine]int{}}
	settings := []string{"net/ipv6/conf/default/accept_dad=0", "net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/default/rp_filter=0"}
	if router {
		settings = append(settings, "net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
	}
	require.NoError(w.t, m.Do(func() (err error) {
		for _, s := range settings {
			key, value, _ := cut(s)
			if err := sysctl.EnsureHere(key, value); err != nil {
				return err
			}
		}
		if m.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
			return err
		}
		if m.send[0], err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return err
		}
		if m.send[1], err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return err
		}
		m.receive, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0x0300) // ETH_P_ALL
		return err
	}))
	// What has arrived is answered by nobody: an answer that comes when its connection is forgotten would look like a packet of ours.
	commit(w.t, someone(w.whole, m.Node), func(b *nft.Batch) {
		table := nft.Table{Family: nft.INet, Name: "silence"}
		b.AddTable(table, 0)
		b.AddChain(nft.Chain{Table: table, Name: "input", Base: nft.Base{Type: "filter", Hook: nft.Input, Priority: -300, Policy: nft.Drop}})
	})
	_ = unix.SetsockoptInt(m.receive, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	w.whole.Cleanup(func() {
		m.handle.Close()
		for _, fd := range []int{m.send[0], m.send[1], m.receive} {
			unix.Close(fd)
		}
	})
	return m
}

func cut(s string) (key, value string, ok bool) {
	for i := range s {
		if s[i] == '=' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// link joins two machines. Each knows the other by one address of each family that never needs to be asked for.
func (w *world) link(a, b *machine) {
	w.t.Helper()
	inside, err := os.Open(b.NetNS())
	require.NoError(w.t, err)
	defer inside.Close()
	nameA, nameB := fmt.Sprintf("to%d", len(a.links)), fmt.Sprintf("to%d", len(b.links))
	require.NoError(w.t, a.handle.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: nameA, TxQLen: -1}, PeerName: nameB, PeerNamespace: netlink.NsFd(int(inside.Fd())),
	}))
	endA, err := a.handle.LinkByName(nameA)
	require.NoError(w.t, err)
	endB, err := b.handle.LinkByName(nameB)
	require.NoError(w.t, err)
	for _, end := range []struct {
		m        *machine
		own, far netlink.Link
		neighbor *machine
	}{{a, endA, endB, b}, {b, endB, endA, a}} {
		require.NoError(w.t, end.m.handle.LinkSetUp(end.own))
		end.m.links[end.neighbor] = end.own.Attrs().Index
		for _, address := range []string{linkTo, linkTo6} {
			require.NoError(w.t, end.m.handle.NeighAdd(&netlink.Neigh{
				LinkIndex: end.own.Attrs().Index, IP: net.ParseIP(address), HardwareAddr: end.far.Attrs().HardwareAddr, State: netlink.NUD_PERMANENT,
			}))
		}
	}
}

// toward makes m send what goes to a prefix to its neighbour.
func (m *machine) toward(t testing.TB, prefix string, neighbor *machine) {
	t.Helper()
	require.NoError(t, m.handle.RouteReplace(m.route(t, prefix, neighbor)), "%s: route %s", m.Name, prefix)
}

func (m *machine) route(t testing.TB, prefix string, neighbor *machine) *netlink.Route {
	t.Helper()
	_, to, err := net.ParseCIDR(prefix)
	require.NoError(t, err)
	via := linkTo
	if to.IP.To4() == nil {
		via = linkTo6
	}
	return &netlink.Route{Dst: to, Gw: net.ParseIP(via), LinkIndex: m.links[neighbor], Flags: int(netlink.FLAG_ONLINK)}
}

// settle puts every address that the cells of a step need where the model has it.
func (w *world) settle(m policy.Model, cells []scenario.Cell) {
	w.t.Helper()
	rules, _ := policy.Compile(m)
	wanted := map[netip.Addr]*machine{}
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

func (w *world) placeOf(m policy.Model, rules *policy.Ruleset, a netip.Addr) *machine {
	w.t.Helper()
	for e := range rules.Endpoints.All() {
		if e.Addr == a {
			return w.podAt(e.Pod.ID().String()+" on "+e.Pod.Node, e.Pod.Node)
		}
	}
	for _, n := range m.Nodes {
		if slices.Contains(n.Addresses, a) {
			require.Contains(w.t, w.nodes, n.Name)
			return w.nodes[n.Name].machine
		}
	}
	return w.outside
}

func (w *world) podAt(name, node string) *machine {
	w.t.Helper()
	if w.machines[name] == nil {
		require.Contains(w.t, w.nodes, node, name)
		m := w.machine(name, false)
		m.behind = node
		w.link(w.nodes[node].machine, m)
		m.toward(w.t, "0.0.0.0/0", w.nodes[node].machine)
		m.toward(w.t, "::/0", w.nodes[node].machine)
		w.machines[name] = m
	}
	return w.machines[name]
}

func (w *world) add(a netip.Addr, owner *machine) {
	w.t.Helper()
	w.owners[a] = owner
	address := &netlink.Addr{IPNet: ipNet(a), Flags: unix.IFA_F_NODAD}
	require.NoError(w.t, owner.handle.AddrReplace(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}, address))
	w.eachRoute(a, owner, func(m, via *machine) { m.toward(w.t, ipNet(a).String(), via) })
}

func (w *world) remove(a netip.Addr, owner *machine) {
	w.t.Helper()
	delete(w.owners, a)
	require.NoError(w.t, owner.handle.AddrDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}, &netlink.Addr{IPNet: ipNet(a)}), "%s of %s", a, owner.Name)
	w.eachRoute(a, owner, func(m, via *machine) { require.NoError(w.t, m.handle.RouteDel(m.route(w.t, ipNet(a).String(), via))) })
}

// eachRoute calls do for every machine that needs a route of its own for a.
func (w *world) eachRoute(a netip.Addr, owner *machine, do func(m, via *machine)) {
	if owner == w.outside {
		return // that is where the default route leads
	}
	at := owner
	if owner.behind != "" {
		at = w.nodes[owner.behind].machine
		do(at, owner)
	}
	for _, n := range w.nodes {
		if n.machine != at {
			do(n.machine, at)
		}
	}
	do(w.outside, at)
}

func ipNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// try sends every cell's packet and requires that those which must come about arrive, and that of the others each has been counted
// where it was dropped. A packet may get lost before any rule sees it (a link that is new, a full backlog on a busy machine), so
// all are sent again while the count is short.
func (w *world) try(cells []scenario.Cell) {
	w.t.Helper()
	before, want := w.denied(), uint64(0)
	for _, c := range cells {
		if c.Want == policy.Denied {
			want++
		}
	}
	begin := time.Now()
	for sent := uint64(1); ; sent++ {
		w.send(cells)
		for again := time.Now(); w.denied()-before < want && time.Since(again) < time.Second; {
			time.Sleep(time.Millisecond)
		}
		counted := w.denied() - before
		w.arrive()
		if counted >= want {
			assert.LessOrEqual(w.t, counted, sent*want, "packets that were dropped, of %d sent %d times", want, sent)
			return
		}
		require.Less(w.t, time.Since(begin), patience, "%d of %d packets were dropped where that is counted", counted, want)
	}
}

// send sends every cell's packet and waits for those that must arrive.
func (w *world) send(cells []scenario.Cell) {
	w.t.Helper()
	w.flying = map[uint32]scenario.Cell{}
	for _, m := range w.all() {
		m.drain(func([]byte) {})
	}
	for _, n := range w.nodes {
		require.NoError(w.t, n.handle.ConntrackTableFlush(netlink.ConntrackTable))
	}
	for _, c := range cells {
		w.sent++
		w.flying[w.sent] = c
		w.owners[c.Packet.Src].transmit(w.t, datagram(c.Packet, w.sent))
	}
	begin := time.Now()
	for again := begin; ; time.Sleep(time.Millisecond) {
		missing := w.arrive()
		if len(missing) == 0 {
			return
		}
		if time.Since(begin) > patience {
			for _, c := range missing {
				assert.Fail(w.t, "did not arrive", "%s (%s)", c.Text, c.Packet)
			}
			return
		}
		if time.Since(again) > 50*time.Millisecond { // a link that is new may lose what comes first
			again = time.Now()
			for id, c := range missing {
				w.owners[c.Packet.Src].transmit(w.t, datagram(c.Packet, id))
			}
		}
	}
}

// arrive reads what has come in and returns what must still come.
func (w *world) arrive() (missing map[uint32]scenario.Cell) {
	w.t.Helper()
	for _, m := range w.all() {
		m.drain(func(b []byte) {
			id, dst, ok := received(b)
			c, known := w.flying[id]
			if !ok || !known || w.owners[dst] != m {
				return // forwarded, or not ours
			}
			delete(w.flying, id)
			if c.Want == policy.Denied {
				assert.Fail(w.t, "arrived, and must not", "%s (%s)", c.Text, c.Packet)
			}
		})
	}
	missing = maps.Clone(w.flying)
	maps.DeleteFunc(missing, func(_ uint32, c scenario.Cell) bool { return c.Want == policy.Denied })
	return missing
}

func (w *world) all() (list []*machine) {
	for _, n := range w.nodes {
		list = append(list, n.machine)
	}
	for _, m := range w.machines {
		list = append(list, m)
	}
	return append(list, w.outside)
}

// denied is what all nodes have dropped.
func (w *world) denied() (packets uint64) {
	w.t.Helper()
	for _, n := range w.nodes {
		stats, err := n.driver.Stats(w.t.Context(), n.spec)
		require.NoError(w.t, err)
		packets += stats.Denied().Packets
	}
	return packets
}

func (m *machine) transmit(t testing.TB, b []byte) {
	t.Helper()
	fd, to := m.send[0], unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(b[16:20])})
	if b[0]>>4 == 6 {
		fd, to = m.send[1], &unix.SockaddrInet6{Addr: [16]byte(b[24:40])}
	}
	if err := unix.Sendto(fd, b, 0, to); err != nil && err != unix.EPERM { // EPERM is a drop on the way out
		require.NoError(t, err)
	}
}

// drain reads what has come in.
func (m *machine) drain(each func(b []byte)) {
	buf := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(m.receive, buf, 0)
		if err != nil {
			return
		}
		if at, ok := from.(*unix.SockaddrLinklayer); ok && at.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		each(buf[:n])
	}
}

// heard reports whether the packet of that number is among what has come in.
func (m *machine) heard(id uint32) (yes bool) {
	m.drain(func(b []byte) {
		got, _, ok := received(b)
		yes = yes || ok && got == id
	})
	return yes
}
