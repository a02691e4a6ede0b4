package ptp_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/ptp"
	"github.com/podweft/podweft/testnet"
)

// machine is a network namespace with a socket to look into it.
type machine struct {
	*testnet.Node
	nl *nl.Conn
}

func newMachine(t testing.TB, name string) *machine {
	t.Helper()
	n := testnet.NewNode(t, name)
	return &machine{n, sabotage.Dial(t, n)}
}

// change carries out requests, as somebody else does.
func (m *machine) change(t testing.TB, requests func(*nl.Batch)) {
	t.Helper()
	sabotage.Do(t, m.Node, requests)
}

func (m *machine) link(t testing.TB, name string) nl.Link {
	t.Helper()
	l, err := m.nl.Link(name)
	require.NoError(t, err)
	return l
}

func (m *machine) linkNames(t testing.TB) (names []string) {
	t.Helper()
	all, err := m.nl.Links()
	require.NoError(t, err)
	for _, l := range all {
		names = append(names, l.Name)
	}
	return names
}

// routes are those of the main table, but for the kernel's own and those to the node itself, as `ip route` shows them.
func (m *machine) routes(t testing.TB) (all []string) {
	t.Helper()
	var found []nl.Route
	require.NoError(t, m.nl.Routes(t.Context(), func() { found = nil }, func(r nl.Route) {
		if a := r.Prefix.Addr(); r.Table == nl.TableMain && a != node6 && !a.IsMulticast() && !a.IsLoopback() && (a.Is4() || !a.IsLinkLocalUnicast()) {
			found = append(found, r)
		}
	}))
	names := map[int]string{}
	links, err := m.nl.Links()
	require.NoError(t, err)
	for _, l := range links {
		names[l.Index] = l.Name
	}
	for _, r := range found {
		all = append(all, r.Format(names[r.Link]))
	}
	slices.Sort(all)
	return all
}

// node4 and node6 are the node's own addresses: without any it has nothing to send from.
var node4, node6 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")

// state is everything in the namespace, a line for each thing, but for what the kernel gives itself in its own time.
func (m *machine) state(t testing.TB) []string {
	t.Helper()
	lines := m.routes(t)
	links, err := m.nl.Links()
	require.NoError(t, err)
	for _, l := range links {
		l.Operational = false
		lines = append(lines, fmt.Sprintf("%+v", l))
	}
	addresses, err := m.nl.Addresses(0)
	require.NoError(t, err)
	for _, a := range addresses {
		if !a.LinkScope || a.Prefix.Addr() == ptp.Gateway6 {
			lines = append(lines, fmt.Sprintf("%+v", a))
		}
	}
	require.NoError(t, m.nl.Neighbors(t.Context(), 0, func() {}, func(n nl.Neighbor) {
		lines = append(lines, fmt.Sprintf("%+v", n))
	}))
	slices.Sort(lines)
	return lines
}

func (m *machine) setSysctl(t testing.TB, key, value string) {
	t.Helper()
	require.NoError(t, testnet.Sysctls())
	require.NoError(t, m.Do(func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0) }))
}

func (m *machine) sysctl(t testing.TB, key string) (value string) {
	t.Helper()
	require.NoError(t, m.Do(func() error {
		b, err := os.ReadFile("/proc/sys/" + key)
		value = string(b)
		return err
	}))
	return value
}

// ping sends one echo request, never a second.
func (m *machine) ping(t testing.TB, to netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := m.Ping(ctx, to)
	require.NoError(t, err, "%s to %s", m.Name, to)
}

// host is a node that routes, with an attacher.
type host struct {
	*machine
	pods *ptp.Attacher
}

func newHost(t testing.TB, cfg ptp.Config) *host {
	t.Helper()
	h := &host{machine: newMachine(t, "node")}
	h.setSysctl(t, "net/ipv4/ip_forward", "1")
	h.setSysctl(t, "net/ipv6/conf/all/forwarding", "1")
	lo := h.link(t, "lo").Index
	h.change(t, func(b *nl.Batch) {
		b.SetUp(lo, true)
		for _, a := range []netip.Addr{node4, node6} {
			b.AddAddress(nl.Address{Link: lo, Prefix: netip.PrefixFrom(a, a.BitLen())})
		}
	})
	h.pods = h.attacher(t, cfg)
	return h
}

// attacher is one more on the same node, as another process would have.
func (h *host) attacher(t testing.TB, cfg ptp.Config) *ptp.Attacher {
	t.Helper()
	cfg.NetNS = h.NetNS()
	a, err := ptp.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	return a
}

func (h *host) driver(t testing.TB) *ptp.Driver {
	t.Helper()
	d, err := ptp.NewDriver(ptp.Config{NetNS: h.NetNS()})
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func (h *host) attach(t testing.TB, p ptp.Port) ptp.Attached {
	t.Helper()
	at, err := h.pods.Attach(t.Context(), p)
	require.NoError(t, err)
	return at
}

// attachNew attaches a new pod, number i, with an address of each of the families.
func (h *host) attachNew(t testing.TB, f family, i int) (*machine, ptp.Port) {
	t.Helper()
	pod := newMachine(t, fmt.Sprintf("pod-%d", i))
	p := port(f, pod, i)
	h.attach(t, p)
	return pod, p
}

// family is what of a pod's addresses it has.
type family struct {
	name   string
	v4, v6 bool
}

var (
	dual     = family{"dual", true, true}
	families = []family{{"v4", true, false}, {"v6", false, true}, dual}
)

// port is that of pod number i.
func port(f family, pod *machine, i int) ptp.Port {
	p := ptp.Port{Container: pod.Name, NetNS: pod.NetNS(), MTU: 1450}
	if f.v4 {
		p.Addresses = append(p.Addresses, netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}))
	}
	if f.v6 {
		p.Addresses = append(p.Addresses, netip.MustParseAddr(fmt.Sprintf("fd00:244::%x", i)))
	}
	return p
}
