package fib

import (
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// patience is how long tests wait for what takes milliseconds: the kernel has one lock for the links of all namespaces, which
// tests of other packages may hold for long.
const patience = 20 * time.Second

// someone is the protocol of another program's routes and nexthops.
const someone = unix.RTPROT_STATIC

// machine is a node with a VTEP that is wholly ours and a Table, beside a Conn by which somebody else interferes.
type machine struct {
	node  *testnet.Node
	table *Table
	mark  Mark
	scope Scope
	vx    int // the VTEP
	eth0  int
	other *nl.Conn
	log   journal // of table
}

// journal collects what is logged.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

// said returns what was logged since the last call.
func (j *journal) said() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.text.Reset()
	return j.text.String()
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{node: testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1}).Nodes[0], mark: MarkOf("test")}
	m.other = m.dial(t)
	m.eth0 = m.index(t, "eth0")
	m.must(t, func(b *nl.Batch) {
		b.AddVXLAN(nl.Link{Name: "vx", Alias: "test", MAC: podweft.MAC{0x0e, 1}, MTU: 1430, VXLAN: nl.VXLAN{
			VNI: 1, Port: 8472, Local: m.node.V4, Underlay: m.eth0,
		}})
	})
	m.vx = m.index(t, "vx")
	m.scope = Scope{Own: map[int]string{m.vx: "vx"}, Others: map[int]string{m.eth0: "eth0"}}
	m.table = New(m.dial(t), m.mark, slog.New(slog.NewTextHandler(&m.log, nil)))
	m.table.Follow([]string{"vx", "eth0"}, m.scope)
	return m
}

func (m *machine) dial(t testing.TB) *nl.Conn {
	t.Helper()
	c, err := nl.Dial(m.node.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func (m *machine) index(t testing.TB, name string) int {
	t.Helper()
	l, err := m.other.Link(name)
	require.NoError(t, err)
	return l.Index
}

// must does something behind the Table's back.
func (m *machine) must(t testing.TB, fill func(b *nl.Batch)) {
	t.Helper()
	require.Nil(t, m.try(t, fill))
}

func (m *machine) try(t testing.TB, fill func(b *nl.Batch)) []error {
	t.Helper()
	var b nl.Batch
	fill(&b)
	return m.other.Do(t.Context(), &b)
}

// apply requires that everything succeeds, and returns the plan as text.
func (m *machine) apply(t testing.TB, entries ...Entry) string {
	t.Helper()
	plan, err := m.table.Apply(t.Context(), m.scope, entries)
	require.NoError(t, err)
	require.NoError(t, plan.Err())
	return plan.String()
}

// plan is what a Table that remembers nothing would do.
func (m *machine) plan(t testing.TB, entries ...Entry) podweft.Plan {
	t.Helper()
	plan, err := New(m.other, m.mark, nil).Plan(t.Context(), m.scope, entries)
	require.NoError(t, err)
	return plan
}

func (m *machine) requireInSync(t testing.TB, entries ...Entry) {
	t.Helper()
	require.Empty(t, m.plan(t, entries...).String())
}

// nothing is a kernel that holds nothing of ours.
func nothing() *state {
	return &state{
		neighbors: newHeld[nl.NeighborKey, nl.Neighbor](0),
		forwards:  newHeld[nl.ForwardKey, nl.Forward](0),
		spare:     map[nl.Forward]struct{}{},
		nexthops:  newHeld[via, nl.Nexthop](0),
		doubles:   map[uint32]nl.Nexthop{},
		taken:     map[uint32]struct{}{},
		routes:    newHeld[nl.RouteKey, nl.Route](0),
		foreign:   map[place]nl.Route{},
		behind:    map[nl.RouteKey]nl.Route{},
	}
}

// kernel is what another program sees of what we make.
func (m *machine) kernel(t testing.TB) *state {
	t.Helper()
	w := newWant(newIDs(m.mark), nil)
	s, err := readState(t.Context(), m.other, m.mark, m.scope, &w, nil, func(place) {})
	require.NoError(t, err)
	return s
}

// peer number i needs a neighbour, a forwarding entry and a route through the VTEP, in IPv4 or IPv6.
func (m *machine) peer(i int, v6 bool) Entry {
	prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
	gateway := prefix.Addr()
	mac := podweft.MAC{0x0e, 4, 0, 0, byte(i >> 8), byte(i)}
	if v6 {
		mac[1] = 6
		prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 6: byte(i >> 8), 7: byte(i)}), 64)
		gateway = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 14: byte(i >> 8), 15: byte(i)})
	}
	return Entry{
		Neighbors: []nl.Neighbor{{NeighborKey: nl.NeighborKey{Link: m.vx, Addr: gateway}, MAC: mac}},
		Forwards:  []nl.Forward{{ForwardKey: nl.ForwardKey{Link: m.vx, MAC: mac}, To: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})}},
		Routes:    []Route{{Prefix: prefix, Gateway: gateway, Link: m.vx, Onlink: !v6}},
	}
}

func (m *machine) peers(n int) []Entry {
	var all []Entry
	for i := range n {
		all = append(all, m.peer(i+1, i%2 == 1))
	}
	return all
}

// direct is a peer that is reached over eth0 by its own address.
func (m *machine) direct(i int, v6 bool) Entry {
	r := m.peer(i, v6).Routes[0]
	r.Link, r.Onlink, r.Gateway = m.eth0, false, m.neighborOf(i, v6)
	return Entry{Routes: []Route{r}}
}

// neighborOf is an address on eth0's link.
func (m *machine) neighborOf(i int, v6 bool) netip.Addr {
	if v6 {
		a := m.node.V6.As16()
		a[14], a[15] = byte(1+i>>8), byte(i)
		return netip.AddrFrom16(a)
	}
	a := m.node.V4.As4()
	a[3] = byte(i)
	return netip.AddrFrom4(a)
}

// theirs is another program's route at the place of e's first, over eth0.
func (m *machine) theirs(e Entry, metric uint32) nl.Route {
	r := e.Routes[0]
	return nl.Route{RouteKey: nl.RouteKey{Table: nl.TableMain, Prefix: r.Prefix, Metric: metric}, Protocol: someone, Link: m.eth0}
}
