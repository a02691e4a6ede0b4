package bridge_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

// machine is a network namespace with a socket to look into it, and to meddle.
type machine struct {
	*testnet.Node
	nl *nl.Conn
}

func newMachine(t testing.TB, name string) *machine {
	t.Helper()
	m := &machine{Node: testnet.NewNode(t, name)}
	var err error
	m.nl, err = nl.Dial(m.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { m.nl.Close() })
	return m
}

// host is a node with an attacher.
type host struct {
	*machine
	pods *bridge.Attacher
}

func newHost(t testing.TB, cfg bridge.Config) *host {
	t.Helper()
	h := &host{machine: newMachine(t, "node")}
	h.pods = h.attacher(t, cfg)
	return h
}

// attacher is one more on the same node, as another process would have.
func (h *host) attacher(t testing.TB, cfg bridge.Config) *bridge.Attacher {
	t.Helper()
	cfg.NetNS = h.NetNS()
	a, err := bridge.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	return a
}

func (h *host) attach(t testing.TB, b bridge.Bridge, p bridge.Port) bridge.Attached {
	t.Helper()
	at, err := h.pods.Attach(t.Context(), b, p)
	require.NoError(t, err)
	return at
}

// attachNew attaches a new pod, number i.
func (h *host) attachNew(t testing.TB, b bridge.Bridge, i int) (*machine, bridge.Port) {
	t.Helper()
	pod := newMachine(t, fmt.Sprintf("pod-%d", i))
	p := port(b, pod, i)
	h.attach(t, b, p)
	return pod, p
}

// change carries out requests, as somebody else does.
func (m *machine) change(t testing.TB, requests func(*nl.Batch)) {
	t.Helper()
	var b nl.Batch
	requests(&b)
	for _, err := range m.nl.Do(t.Context(), &b) {
		require.NoError(t, err)
	}
}

func (m *machine) link(t testing.TB, name string) nl.Port {
	t.Helper()
	l, err := m.nl.Port(t.Context(), name)
	require.NoError(t, err)
	return l
}

func (m *machine) linkNames(t testing.TB) []string {
	t.Helper()
	all, err := m.nl.Links()
	require.NoError(t, err)
	var names []string
	for _, l := range all {
		names = append(names, l.Name)
	}
	return names
}

// addresses are those of a link, but for the kernel's own.
func (m *machine) addresses(t testing.TB, link string) []netip.Prefix {
	t.Helper()
	all, err := m.nl.Addresses(m.link(t, link).Index)
	require.NoError(t, err)
	var own []netip.Prefix
	for _, a := range all {
		if !a.LinkScope {
			own = append(own, a.Prefix)
		}
	}
	return own
}

// state is everything in the namespace, a line for each thing, but for the addresses and routes that the kernel gives
// itself in its own time.
func (m *machine) state(t testing.TB) []string {
	t.Helper()
	links, err := m.nl.Links()
	require.NoError(t, err)
	var lines []string
	for _, l := range links {
		port := m.link(t, l.Name)
		port.Operational = false // the kernel says so from a work queue, some time after
		lines = append(lines, fmt.Sprintf("%+v", port))
		for _, a := range m.addresses(t, l.Name) {
			lines = append(lines, fmt.Sprintf("%s %s", l.Name, a))
		}
		require.NoError(t, m.nl.Neighbors(t.Context(), l.Index, func() {}, func(n nl.Neighbor) {
			lines = append(lines, fmt.Sprintf("%+v", n))
		}))
	}
	require.NoError(t, m.nl.Routes(t.Context(), func() {}, func(r nl.Route) {
		if r.Table == nl.TableMain && !r.Prefix.Addr().IsLinkLocalUnicast() {
			lines = append(lines, fmt.Sprintf("%+v", r))
		}
	}))
	slices.Sort(lines)
	return lines
}

// open opens the namespace, to name it in requests.
func (m *machine) open(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Open(m.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// shortly ends after a time in which an answer would have come.
func shortly(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), 200*time.Millisecond)
}

// ping sends one echo request, never a second, and sees that the first one got through at once.
func (m *machine) ping(t testing.TB, to netip.Addr) {
	t.Helper()
	m.pingBy(t, "eth0", to)
}

// ping does so from the node.
func (h *host) ping(t testing.TB, to netip.Addr) {
	t.Helper()
	h.pingBy(t, "cni0", to)
}

// pingBy looks at what passes the link, and not at the clock, of which a loaded machine makes anything: where a request for a MAC is
// lost the kernel sends another a second later, and the answer comes all the same.
func (m *machine) pingBy(t testing.TB, link string, to netip.Addr) {
	t.Helper()
	m.echoBy(t, link, to, testnet.Echo{})
}

// echoBy is pingBy with a request that is not like all.
func (m *machine) echoBy(t testing.TB, link string, to netip.Addr, e testnet.Echo) {
	t.Helper()
	frames, err := m.Capture(link)
	require.NoError(t, err)
	defer frames.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = m.Echo(ctx, to, e)
	require.NoError(t, err, "%s to %s", m.Name, to)
	asked := map[netip.Addr]int{}
	_, err = frames.Count(func(p testnet.Packet) bool {
		whose, is := whoHas(p.Frame)
		if p.Sent && is {
			asked[whose]++
		}
		return is
	})
	require.NoError(t, err)
	for whose, times := range asked {
		require.Equal(t, 1, times, "requests of %s for the MAC of %s", m.Name, whose)
	}
}

// whoHas returns the address whose MAC a frame asks for, if that is what it does: an ARP request (RFC 826), or a neighbour
// solicitation (RFC 4861, 4.3) that is not for finding out whether the address is taken.
func whoHas(frame []byte) (whose netip.Addr, is bool) {
	const ethernet = 14
	if len(frame) < ethernet+28 {
		return whose, false
	}
	f := frame[ethernet:]
	switch {
	case frame[12] == 0x08 && frame[13] == 0x06 && f[7] == 1:
		return netip.AddrFromSlice(f[24:28])
	case frame[12] == 0x86 && frame[13] == 0xdd && len(f) >= 64 && f[6] == 58 && f[40] == 135 && netip.AddrFrom16([16]byte(f[8:24])) != netip.IPv6Unspecified():
		return netip.AddrFromSlice(f[48:64])
	}
	return whose, false
}

// reaches pings until there is an answer: after a repair the kernel takes its time, and what it drops until then was lost before.
func (m *machine) reaches(t testing.TB, to netip.Addr) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		ctx, cancel := shortly(t)
		_, err := m.Ping(ctx, to)
		cancel()
		if err == nil {
			return
		}
		require.True(t, time.Now().Before(end), "%s to %s: %v", m.Name, to, err)
	}
}

// silent asks for an answer that must not come.
func (m *machine) silent(t testing.TB, to netip.Addr) {
	t.Helper()
	ctx, cancel := shortly(t)
	defer cancel()
	_, err := m.Ping(ctx, to)
	require.Error(t, err, "%s to %s", m.Name, to)
}

// hostEnd is the name of the port's link on the node.
func (h *host) hostEnd(t testing.TB, p bridge.Port) string {
	t.Helper()
	at, err := h.attacher(t, bridge.Config{}).Attach(t.Context(), dual, p)
	require.NoError(t, err)
	return at.Host.Name
}

// hostName is the same, of a port that may be in need of repair.
func (h *host) hostName(t testing.TB, p bridge.Port) string {
	t.Helper()
	all, err := h.pods.Ports(t.Context())
	require.NoError(t, err)
	for _, q := range all {
		if q.Container == p.Container {
			return q.HostName
		}
	}
	require.Fail(t, "no such port")
	return ""
}

// families are the three sorts of cluster.
var families = []struct {
	name   string
	bridge bridge.Bridge
}{
	{"v4", cni0("10.244.1.1/24")},
	{"v6", cni0("fd00:244:0:1::1/64")},
	{"dual", dual},
}

var dual = cni0("10.244.1.1/24", "fd00:244:0:1::1/64")

func cni0(gateways ...string) bridge.Bridge {
	return bridge.Bridge{MTU: 1450, Gateways: prefixes(gateways...)}
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// port is that of pod number i, from 1, with the i-th address behind each gateway.
func port(b bridge.Bridge, pod *machine, i int) bridge.Port {
	p := bridge.Port{Container: pod.Name, NetNS: pod.NetNS()}
	for _, g := range b.Gateways {
		a := g.Addr()
		for range i {
			a = a.Next()
		}
		p.Addresses = append(p.Addresses, netip.PrefixFrom(a, g.Bits()))
	}
	return p
}
