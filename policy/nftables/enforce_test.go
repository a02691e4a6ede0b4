package nftables_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sysctl"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/testnet"
)

// TestClosed: a pod that the compiler has not heard of is closed to all but its node, and opens with its rules.
func TestClosed(t *testing.T) {
	w := world.New(t, keep(nftables.Config{}), "node-1", "node-2")
	m := world.Village()
	unknown := m
	unknown.Pods = m.Pods[2:]
	closed := []netip.Prefix{netip.MustParsePrefix("10.244.1.10/31"), netip.MustParsePrefix("fd00::a/127")}
	n := keeperOf(w, "node-1")
	n.spec.Closed = closed

	w.Enforce(unknown)
	list := world.Cells(t, m, "node-1 > web+client", "client > web, web > client, other > web, web > other, node-2 > client")
	w.Settle(m, list)
	w.Try(list)
	stats, err := n.driver.Stats(t.Context(), n.spec)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, stats.Closed.Packets, uint64(10), "and more if some were sent again")

	w.Enforce(m)
	w.Try(world.Cells(t, m, "node-1 > web+client, client > web, web > client+other, node-2 > client", "other > web"))
}

// TestAudit lets through what it counts and logs.
func TestAudit(t *testing.T) {
	w := world.New(t, keep(nftables.Config{LogGroup: 7}), "node-1", "node-2")
	m := world.Village()
	n, log := keeperOf(w, "node-1"), world.Listen(t, w.Nodes["node-1"].Node, 7)
	n.spec.Audit = true
	w.Enforce(m)
	if text, ok := ruleset(t, w.Nodes["node-1"].Node); ok {
		assert.Contains(t, text, `log prefix "podweft ingress: isolated by policy default/web " group 7`)
	}
	list := world.Cells(t, m, "client > web, other > web", "")
	w.Settle(m, list)
	before := w.Denied()
	w.Send(list)
	assert.GreaterOrEqual(t, w.Denied(), before+2, "other's two, and more if some were sent again")
	assert.Equal(t, "podweft ingress: isolated by policy default/web", log.Prefix(t))

	n.spec.Audit = false
	w.Enforce(m)
	w.Try(world.Cells(t, m, "client > web", "other > web"))
}

func TestStats(t *testing.T) {
	w := world.New(t, keep(nftables.Config{}), "node-1", "node-2")
	m := world.Village()
	w.Enforce(m)
	list := world.Cells(t, m, "client > web tcp/80+tcp/8005, web > client", "client > web tcp/81, other > web")
	w.Settle(m, list)
	w.Try(list)
	n := keeperOf(w, "node-1")
	stats, err := n.driver.Stats(t.Context(), n.spec)
	require.NoError(t, err)
	web := m.Policies[0].ID()
	require.Len(t, stats.Rules, 1)
	assert.Equal(t, policy.RuleCount{Policy: web, Direction: policy.Ingress, Action: policy.Accept, Count: stats.Rules[0].Count}, stats.Rules[0])
	assert.GreaterOrEqual(t, stats.Rules[0].Packets, uint64(4), "and more if some were sent again")
	require.Len(t, stats.Isolated, 1)
	assert.Equal(t, []policy.ID{web}, stats.Isolated[0].Policies)
	assert.GreaterOrEqual(t, stats.Isolated[0].Packets, uint64(4))
	assert.Equal(t, stats.Isolated[0].Packets, stats.Denied().Packets)
}

// TestManyRules: a policy of many rules has a chain of its own, which classes jump to, and one of few stands in them. It may become the
// one or the other.
func TestManyRules(t *testing.T) {
	w := world.New(t, keep(nftables.Config{}), "node-1", "node-2")
	m := world.Village()
	list := world.Cells(t, m, "client > web tcp/80+tcp/8005, node-1 > web tcp/81", "client > web tcp/81, other > web")
	w.Settle(m, list)
	for _, further := range []int{0, 8, 9, 0, 8} {
		rules := m.Policies[0].Ingress[:1:1]
		for i := range further {
			rules = append(rules, policy.Rule{Peers: []policy.Peer{{Pods: new(world.App("nobody"))}}, Ports: []policy.Port{{Number: uint16(1 + i)}}})
		}
		slices.Reverse(rules) // the one that matters is the last
		m.Policies[0].Ingress = rules
		m.ClusterPolicies = []policy.ClusterPolicy{{Name: "first", Tier: policy.Admin, Ingress: clusterRules(further)}}
		w.Enforce(m)
		w.Try(list)
		m.Policies[0].Ingress = world.Village().Policies[0].Ingress
	}
}

// clusterRules deny what nobody sends.
func clusterRules(n int) (list []policy.ClusterRule) {
	for i := range n {
		list = append(list, policy.ClusterRule{Action: policy.Deny, Peers: []policy.Peer{{Namespaces: &policy.Selector{}}}, Ports: []policy.Port{{Number: uint16(1 + i)}}})
	}
	return list
}

// TestUpdatesDisturbNobody: while policies and pods change a thousand times, what is always denied never arrives and what is always
// allowed always does.
func TestUpdatesDisturbNobody(t *testing.T) {
	world.Updates(t, keep(nftables.Config{}), 1000, func(ctx context.Context, k world.Keeper, rules *policy.Ruleset) error {
		loop := k.(*keeper).loop
		ctx, done := context.WithTimeout(ctx, patience)
		defer done()
		return loop.Wait(ctx, loop.Set(nftables.Spec{Rules: rules}))
	})
}

// TestRestartsDisturbNobody: no more do they arrive, or get lost, while the agent ends and another begins, for which policies and pods
// have changed meanwhile.
func TestRestartsDisturbNobody(t *testing.T) {
	world.Updates(t, keepAnew, 100, func(ctx context.Context, k world.Keeper, rules *policy.Ruleset) error {
		return k.(*successive).take(ctx, rules)
	})
}

// successive keeps a table by one driver after the other: each finds what the last has left.
type successive struct {
	cfg   nftables.Config
	rules *policy.Ruleset
}

func keepAnew(_ testing.TB, n *testnet.Node) world.Keeper {
	return &successive{cfg: nftables.Config{NetNS: n.NetNS()}}
}

func (s *successive) take(ctx context.Context, rules *policy.Ruleset) error {
	d, err := nftables.New(s.cfg)
	if err != nil {
		return err
	}
	_, err = d.Apply(ctx, nftables.Spec{Rules: rules})
	s.rules = rules
	return errors.Join(err, d.Close())
}

func (s *successive) Enforce(t testing.TB, rules *policy.Ruleset) {
	t.Helper()
	require.NoError(t, s.take(t.Context(), rules))
}

func (s *successive) Denied(t testing.TB) uint64 {
	t.Helper()
	d := newDriver(t, s.cfg)
	defer d.Close()
	stats, err := d.Stats(t.Context(), nftables.Spec{Rules: s.rules})
	require.NoError(t, err)
	return stats.Denied().Packets
}

// TestConnectionsGoOn: a connection lives through the policy that forbids another like it, and its replies need no leave. With Strict
// it ends, both ways, and goes on where it left off when it is allowed again.
func TestConnectionsGoOn(t *testing.T) {
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict=%t", strict), func(t *testing.T) { testConnection(t, strict) })
	}
}

func testConnection(t *testing.T, strict bool) {
	web, client := testnet.NewNode(t, "web"), testnet.NewNode(t, "client")
	n := bridged(t, web, client)
	loop := running(t, newDriver(t, nftables.Config{NetNS: n.NetNS()}))
	m := world.Village()
	deny := m
	m.Policies = nil
	bridges := []string{"cni0"}
	for _, address := range m.Pods[0].Addresses {
		t.Run(address.String(), func(t *testing.T) {
			open := nftables.Spec{Rules: compiled(t, m, "node-1"), Bridges: bridges, Strict: strict}
			set(t, loop, open)
			server := serve(t, web, netip.AddrPortFrom(address, 81))
			conn, err := dial(client, server, patience)
			require.NoError(t, err)
			defer conn.Close()
			echo(t, conn)
			set(t, loop, nftables.Spec{Rules: compiled(t, deny, "node-1"), Bridges: bridges, Strict: strict})
			_, err = dial(client, server, refusal)
			require.Error(t, err, "port 81 is not allowed any more")
			if strict {
				_, err = conn.Write([]byte("ping"))
				require.NoError(t, err)
				require.NoError(t, conn.SetReadDeadline(time.Now().Add(refusal)))
				_, err = conn.Read(make([]byte, 4))
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				set(t, loop, open)
				require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
				_, err = io.ReadFull(conn, make([]byte, 4))
				require.NoError(t, err, "the ping, sent again")
			}
			echo(t, conn)
		})
	}
}

// TestStrict sends a connection's packets one by one: while it is allowed both ends' pass, and when it is not none
// of them does. An error about it passes anyway.
func TestStrict(t *testing.T) {
	w := world.New(t, keep(nftables.Config{}), "node-1", "node-2")
	m := world.Village()
	keeperOf(w, "node-1").spec.Strict = true
	w.Enforce(m)
	for _, family := range []string{"v4", "v6"} {
		t.Run(family, func(t *testing.T) {
			w.T = t
			list := world.Cells(t, m, "client > web tcp/80 "+family+", web > client tcp/80 "+family, "")
			w.Settle(m, list)
			w.Send(list) // routes and neighbours are there
			forth := list[0].Packet
			w.Nodes["node-1"].Forget(t)
			const begins, answers, errs = 1 << 20, 1<<20 + 1, 1<<20 + 2
			begin := world.Datagram(forth, begins)
			answer := world.Datagram(policy.Packet{Src: forth.Dst, Dst: forth.Src, Protocol: policy.TCP, Port: world.SourcePort(begin)}, answers)
			world.Answer(answer, 80)
			problem := world.Unreachable(forth, begin, errs)
			// Each packet of these is sent until it has arrived, or its denial been counted.
			pass := func(from netip.Addr, to netip.Addr, packet []byte, id uint32) {
				t.Helper()
				w.Owner(to).Heard(0)
				for begin := time.Now(); !w.Owner(to).Heard(id); time.Sleep(time.Millisecond) {
					require.Less(t, time.Since(begin), patience)
					w.Owner(from).Transmit(t, packet)
				}
			}
			stop := func(from netip.Addr, to netip.Addr, packet []byte, id uint32) {
				t.Helper()
				w.Owner(to).Heard(0)
				before := w.Denied()
				for begin := time.Now(); w.Denied() == before; time.Sleep(time.Millisecond) {
					require.Less(t, time.Since(begin), patience)
					w.Owner(from).Transmit(t, packet)
				}
				assert.False(t, w.Owner(to).Heard(id))
			}
			pass(forth.Src, forth.Dst, begin, begins)
			pass(forth.Dst, forth.Src, answer, answers)
			pass(forth.Dst, forth.Src, problem, errs)
			denied := m
			denied.Policies = []policy.Policy{m.Policies[0]}
			denied.Policies[0].Ingress = nil
			w.Enforce(denied)
			stop(forth.Src, forth.Dst, begin, begins)
			stop(forth.Dst, forth.Src, answer, answers)
			pass(forth.Dst, forth.Src, problem, errs)
			w.Enforce(m)
			pass(forth.Dst, forth.Src, answer, answers)
		})
	}
}

// TestBridge: without br_netfilter, no chain of IP sees what goes between ports of a bridge. With it policies hold there too.
func TestBridge(t *testing.T) {
	web, client := testnet.NewNode(t, "web"), testnet.NewNode(t, "client")
	n := bridged(t, web, client)
	d := newDriver(t, nftables.Config{NetNS: n.NetNS()})
	spec := nftables.Spec{Rules: compiled(t, world.Village(), "node-1"), Bridges: []string{"cni0"}}
	apply(t, d, spec)
	for _, address := range world.Village().Pods[0].Addresses {
		allowed, denied := serve(t, web, netip.AddrPortFrom(address, 80)), serve(t, web, netip.AddrPortFrom(address, 81))
		conn, err := dial(client, allowed, patience)
		require.NoError(t, err)
		conn.Close()
		_, err = dial(client, denied, refusal)
		require.Error(t, err)
	}
}

// TestBridgeTurnedOff: whoever turns br_netfilter off does not open the bridge for longer than until the next pass.
func TestBridgeTurnedOff(t *testing.T) {
	web, client := testnet.NewNode(t, "web"), testnet.NewNode(t, "client")
	n := bridged(t, web, client)
	loop := running(t, newDriver(t, nftables.Config{NetNS: n.NetNS()}))
	spec := nftables.Spec{Rules: compiled(t, world.Village(), "node-1"), Bridges: []string{"cni0"}}
	set(t, loop, spec)
	denied := serve(t, web, netip.AddrPortFrom(world.Village().Pods[0].Addresses[0], 81))
	_, err := dial(client, denied, refusal)
	require.Error(t, err)
	require.NoError(t, sysctl.Ensure(n.NetNS(), "net/bridge/bridge-nf-call-iptables", "0"))
	conn, err := dial(client, denied, patience)
	require.NoError(t, err, "nothing is asked")
	conn.Close()
	set(t, loop, spec)
	_, err = dial(client, denied, refusal)
	require.Error(t, err)
}

// TestBridgeCloses: where policies cannot reach a bridge, nothing passes on it, until they can.
func TestBridgeCloses(t *testing.T) {
	web, client := testnet.NewNode(t, "web"), testnet.NewNode(t, "client")
	n := bridged(t, web, client)
	d := newDriver(t, nftables.Config{NetNS: n.NetNS()})
	d.WithoutBridgeNetfilter(true)
	servers := closes(t, d, web, client)

	d.WithoutBridgeNetfilter(false)
	apply(t, d, bridgeSpec(t))
	for _, server := range servers {
		conn, err := dial(client, server, patience)
		require.NoError(t, err)
		conn.Close()
	}
	plan, err := d.Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "- table inet podweft-policy\n", plan.String())
}

// TestBridgeMissing: so it is where the kernel has no br_netfilter indeed, as in hack/vmtest before it is loaded.
func TestBridgeMissing(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err == nil {
		t.Log("not tested, which make vmtest does: the kernel has br_netfilter")
		return
	}
	web, client := testnet.NewNode(t, "web"), testnet.NewNode(t, "client")
	n := bridged(t, web, client)
	for _, address := range world.Village().Pods[0].Addresses {
		conn, err := dial(client, serve(t, web, netip.AddrPortFrom(address, 81)), patience)
		require.NoError(t, err, "the bridge itself works")
		conn.Close()
	}
	closes(t, newDriver(t, nftables.Config{NetNS: n.NetNS()}), web, client)
}

func bridgeSpec(t testing.TB) nftables.Spec {
	return nftables.Spec{Rules: compiled(t, world.Village(), "node-1"), Bridges: []string{"cni0"}}
}

// closes applies what policies would allow web's servers, which client cannot reach all the same.
func closes(t testing.TB, d *nftables.Driver, web, client *testnet.Node) (servers []netip.AddrPort) {
	t.Helper()
	plan, err := d.Apply(t.Context(), bridgeSpec(t))
	require.ErrorIs(t, err, podweft.ErrNotSupported)
	assert.Contains(t, plan.String(), "~ table bridge podweft-policy  # closes ")
	for _, address := range world.Village().Pods[0].Addresses {
		server := serve(t, web, netip.AddrPortFrom(address, 80))
		_, err = dial(client, server, refusal)
		require.Error(t, err)
		servers = append(servers, server)
	}
	return servers
}

// refusal is how long a connection that is dropped is waited for.
const refusal = 200 * time.Millisecond

// bridged is a node with village's web and client as ports of cni0.
func bridged(t testing.TB, pods ...*testnet.Node) *testnet.Node {
	t.Helper()
	n := testnet.NewNode(t, "node")
	for i, pod := range pods {
		attach(t, n, pod, fmt.Sprintf("pod%d", i), world.Village().Pods[i].Addresses)
	}
	return n
}

func serve(t testing.TB, n *testnet.Node, at netip.AddrPort) netip.AddrPort {
	t.Helper()
	var l net.Listener
	require.NoError(t, n.Do(func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	}))
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				b := make([]byte, 4)
				for {
					if _, err := c.Read(b); err != nil {
						return
					}
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Wait()
	})
	return at
}

func dial(n *testnet.Node, to netip.AddrPort, wait time.Duration) (conn net.Conn, err error) {
	err = n.Do(func() error {
		// Without a goroutine of its own: sockets belong to the namespace of the thread that opens them.
		fd, err := unix.Socket(family(to), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		file := os.NewFile(uintptr(fd), "connection")
		defer file.Close()
		timeout := unix.NsecToTimeval(int64(wait))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
			return err
		}
		if err := unix.Connect(fd, sockaddr(to)); err != nil {
			return err
		}
		conn, err = net.FileConn(file) // a duplicate
		return err
	})
	return conn, err
}

func echo(t testing.TB, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err := conn.Write([]byte("ping"))
	require.NoError(t, err)
	b := make([]byte, 4)
	_, err = io.ReadFull(conn, b)
	require.NoError(t, err)
}

// attach makes the pod a port of n's bridge cni0.
func attach(t testing.TB, n, pod *testnet.Node, port string, addresses []netip.Addr) {
	t.Helper()
	inside, err := os.Open(pod.NetNS())
	require.NoError(t, err)
	defer inside.Close()
	configure(t, n, func(h *netlink.Handle) {
		bridge, err := h.LinkByName("cni0")
		if err != nil {
			require.NoError(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0", TxQLen: -1}}))
			bridge, err = h.LinkByName("cni0")
			require.NoError(t, err)
			require.NoError(t, h.LinkSetUp(bridge))
		}
		require.NoError(t, h.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: port, TxQLen: -1, MasterIndex: bridge.Attrs().Index}, PeerName: "eth0",
			PeerNamespace: netlink.NsFd(int(inside.Fd())),
		}))
		link, err := h.LinkByName(port)
		require.NoError(t, err)
		require.NoError(t, h.LinkSetUp(link))
	})
	configure(t, pod, func(h *netlink.Handle) {
		link, err := h.LinkByName("eth0")
		require.NoError(t, err)
		for _, a := range addresses {
			network := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen()-8, a.BitLen())}
			require.NoError(t, h.AddrAdd(link, &netlink.Addr{IPNet: network, Flags: unix.IFA_F_NODAD}))
		}
		require.NoError(t, h.LinkSetUp(link))
	})
}

func configure(t testing.TB, n *testnet.Node, fn func(h *netlink.Handle)) {
	t.Helper()
	var h *netlink.Handle
	require.NoError(t, n.Do(func() (err error) {
		h, err = netlink.NewHandle()
		return err
	}))
	defer h.Close()
	fn(h)
}

func family(to netip.AddrPort) int {
	if to.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}
