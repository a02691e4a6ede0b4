package nftables_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
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
	"github.com/podweft/podweft/policy/internal/scenario"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/testnet"
)

// cells are connections in the model, written as scenarios write them.
func cells(t testing.TB, m policy.Model, allow, deny string) []scenario.Cell {
	t.Helper()
	list, err := scenario.Step{Allow: allow, Deny: deny}.Cells(m)
	require.NoError(t, err)
	return list
}

// TestClosed: a pod that the compiler has not heard of is closed to all but its node, and opens with its rules.
func TestClosed(t *testing.T) {
	w := newWorld(t, "node-1", "node-2")
	m := village()
	unknown := m
	unknown.Pods = m.Pods[2:]
	closed := []netip.Prefix{netip.MustParsePrefix("10.244.1.10/31"), netip.MustParsePrefix("fd00::a/127")}
	w.nodes["node-1"].spec.Closed = closed

	w.enforce(unknown)
	list := cells(t, m, "node-1 > web+client", "client > web, web > client, other > web, web > other, node-2 > client")
	w.settle(m, list)
	w.try(list)
	stats, err := w.nodes["node-1"].driver.Stats(t.Context(), w.nodes["node-1"].spec)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, stats.Closed.Packets, uint64(10), "and more if some were sent again")

	w.enforce(m)
	w.try(cells(t, m, "node-1 > web+client, client > web, web > client+other, node-2 > client", "other > web"))
}

// TestAudit lets through what it counts.
func TestAudit(t *testing.T) {
	w := newWorld(t, "node-1", "node-2")
	m := village()
	n := w.nodes["node-1"]
	n.driver = newDriver(t, nftables.Config{NetNS: n.NetNS(), Owner: "audit", LogGroup: 7})
	n.loop = running(t, n.driver)
	n.spec.Audit = true
	w.enforce(m)
	if text, ok := ruleset(t, n.Node); ok {
		assert.Contains(t, text, `log prefix "podweft ingress: isolated by policy default/web " group 7`)
	}
	list := cells(t, m, "client > web, other > web", "")
	w.settle(m, list)
	before := w.denied()
	w.send(list)
	assert.GreaterOrEqual(t, w.denied(), before+2, "other's two, and more if some were sent again")

	n.spec.Audit = false
	w.enforce(m)
	w.try(cells(t, m, "client > web", "other > web"))
}

func TestStats(t *testing.T) {
	w := newWorld(t, "node-1", "node-2")
	m := village()
	w.enforce(m)
	list := cells(t, m, "client > web tcp/80+tcp/8005, web > client", "client > web tcp/81, other > web")
	w.settle(m, list)
	w.try(list)
	n := w.nodes["node-1"]
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

// TestUpdatesDisturbNobody: while policies and pods change a thousand times, what is always denied never arrives and what is always
// allowed always does.
func TestUpdatesDisturbNobody(t *testing.T) {
	w := newWorld(t, "node-1", "node-2")
	m := village()
	w.enforce(m)
	list := cells(t, m, "client > web", "other > web")
	w.settle(m, list)
	w.try(list)
	n := w.nodes["node-1"]
	compiler := policy.NewCompiler("node-1")
	_, err := compiler.Update(m)
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	var updates sync.WaitGroup
	defer updates.Wait() // also when a round fails
	defer cancel()
	updates.Go(func() {
		defer cancel()
		for i := range 1000 {
			put := policy.Model{}
			second, pod := m.Policies[0], m.Pods[1]
			second.Name = "second"
			switch i % 5 {
			case 0: // the rule moves to other ports and back, in another policy
				put.Policies = append(put.Policies, second)
			case 1:
				second.Ingress = []policy.Rule{{Ports: []policy.Port{{Number: 443}}}}
				put.Policies = append(put.Policies, second)
			case 2: // web's class is another's
				second.Pods.MatchLabels = map[string]string{"app": "nobody"}
				put.Policies = append(put.Policies, second)
			case 3: // somebody else comes into the set of clients
				pod.Name, pod.Addresses = "more", []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 2, byte(i)})}
				put.Pods = append(put.Pods, pod)
			case 4: // the policy itself is written anew
				first := m.Policies[0]
				first.Ingress = append(first.Ingress[:1:1], policy.Rule{Ports: []policy.Port{{Number: uint16(1000 + i)}}})
				put.Policies = append(put.Policies, first)
			}
			rules, err := compiler.Update(put)
			if !assert.NoError(t, err) {
				return
			}
			inTime, done := context.WithTimeout(ctx, patience)
			err = n.loop.Wait(inTime, n.loop.Set(nftables.Spec{Rules: rules}))
			done()
			if ctx.Err() != nil || !assert.NoError(t, err) {
				return
			}
		}
	})
	rounds := 0
	for ; ctx.Err() == nil && !t.Failed(); rounds++ { // one round after the other: a socket that overflows loses packets too
		w.round(list)
	}
	t.Logf("%d packets of each kind", rounds*len(list)/2)
}

// round sends a packet of each connection and waits for those that must arrive.
func (w *world) round(list []scenario.Cell) {
	w.t.Helper()
	waiting := map[uint32]bool{}
	for _, c := range list {
		w.sent++
		waiting[w.sent] = c.Want == policy.Allowed
		w.owners[c.Packet.Src].transmit(w.t, datagram(c.Packet, w.sent))
	}
	begin := time.Now()
	for len(waiting) > len(list)/2 {
		w.owners[list[0].Packet.Dst].drain(func(b []byte) {
			if id, _, ok := received(b); ok {
				assert.True(w.t, waiting[id], "a packet that is always denied")
				delete(waiting, id)
			}
		})
		require.Less(w.t, time.Since(begin), patience, "a packet that is always allowed")
		time.Sleep(100 * time.Microsecond)
	}
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
	m := village()
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
	w := newWorld(t, "node-1", "node-2")
	m := village()
	w.nodes["node-1"].spec.Strict = true
	w.enforce(m)
	for _, family := range []string{"v4", "v6"} {
		t.Run(family, func(t *testing.T) {
			w.t = t
			list := cells(t, m, "client > web tcp/80 "+family+", web > client tcp/80 "+family, "")
			w.settle(m, list)
			w.send(list) // routes and neighbours are there
			forth := list[0].Packet
			require.NoError(t, w.nodes["node-1"].handle.ConntrackTableFlush(netlink.ConntrackTable))
			const begins, answers, errs = 1 << 20, 1<<20 + 1, 1<<20 + 2
			begin := datagram(forth, begins)
			answer := datagram(policy.Packet{Src: forth.Dst, Dst: forth.Src, Protocol: policy.TCP, Port: sourcePort(begin)}, answers)
			replyTo(answer, 80)
			problem := unreachable(forth, begin, errs)
			// Each packet of these is sent until it has arrived, or its denial been counted.
			pass := func(from netip.Addr, to netip.Addr, packet []byte, id uint32) {
				t.Helper()
				w.owners[to].heard(0)
				for begin := time.Now(); !w.owners[to].heard(id); time.Sleep(time.Millisecond) {
					require.Less(t, time.Since(begin), patience)
					w.owners[from].transmit(t, packet)
				}
			}
			stop := func(from netip.Addr, to netip.Addr, packet []byte, id uint32) {
				t.Helper()
				w.owners[to].heard(0)
				before := w.denied()
				for begin := time.Now(); w.denied() == before; time.Sleep(time.Millisecond) {
					require.Less(t, time.Since(begin), patience)
					w.owners[from].transmit(t, packet)
				}
				assert.False(t, w.owners[to].heard(id))
			}
			pass(forth.Src, forth.Dst, begin, begins)
			pass(forth.Dst, forth.Src, answer, answers)
			pass(forth.Dst, forth.Src, problem, errs)
			denied := m
			denied.Policies = []policy.Policy{m.Policies[0]}
			denied.Policies[0].Ingress = nil
			w.enforce(denied)
			stop(forth.Src, forth.Dst, begin, begins)
			stop(forth.Dst, forth.Src, answer, answers)
			pass(forth.Dst, forth.Src, problem, errs)
			w.enforce(m)
			pass(forth.Dst, forth.Src, answer, answers)
		})
	}
}

// TestBridge: without br_netfilter, no chain of IP sees what goes between ports of a bridge. With it policies hold there too.
func TestBridge(t *testing.T) {
	web, client := testnet.NewNode(t, "web"), testnet.NewNode(t, "client")
	n := bridged(t, web, client)
	d := newDriver(t, nftables.Config{NetNS: n.NetNS()})
	spec := nftables.Spec{Rules: compiled(t, village(), "node-1"), Bridges: []string{"cni0"}}
	apply(t, d, spec)
	for _, address := range village().Pods[0].Addresses {
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
	spec := nftables.Spec{Rules: compiled(t, village(), "node-1"), Bridges: []string{"cni0"}}
	set(t, loop, spec)
	denied := serve(t, web, netip.AddrPortFrom(village().Pods[0].Addresses[0], 81))
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
	spec := nftables.Spec{Rules: compiled(t, village(), "node-1"), Bridges: []string{"cni0"}}
	d.WithoutBridgeNetfilter(true)
	plan, err := d.Apply(t.Context(), spec)
	require.ErrorIs(t, err, podweft.ErrNotSupported)
	assert.Contains(t, plan.String(), "~ table bridge podweft-policy  # closes ")
	server := serve(t, web, netip.AddrPortFrom(village().Pods[0].Addresses[0], 80))
	_, err = dial(client, server, refusal)
	require.Error(t, err)

	d.WithoutBridgeNetfilter(false)
	apply(t, d, spec)
	conn, err := dial(client, server, patience)
	require.NoError(t, err)
	conn.Close()
	plan, err = d.Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "- table inet podweft-policy\n", plan.String())
}

// refusal is how long a connection that is dropped is waited for.
const refusal = 200 * time.Millisecond

// bridged is a node with village's web and client as ports of cni0.
func bridged(t testing.TB, pods ...*testnet.Node) *testnet.Node {
	t.Helper()
	n := testnet.NewNode(t, "node")
	for i, pod := range pods {
		attach(t, n, pod, fmt.Sprintf("pod%d", i), village().Pods[i].Addresses)
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
