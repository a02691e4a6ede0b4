package nat_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

// bridged is a node with two pods on its bridge, and a machine outside that knows no way to pods.
type bridged struct {
	node, outside *testnet.Node
	pods          []*testnet.Node // V4 and V6 are set
	ports         *nat.Ports
}

// The machine outside as it is seen from the underlay.
const outside4, outside6 = "192.0.2.2", "2001:db8::2"

var near = prefixes("10.244.1.0/24", "fd00:244:0:1::/64")

func newBridged(t testing.TB) *bridged {
	t.Helper()
	f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1, Outside: true})
	b := &bridged{node: f.Nodes[0], outside: f.Outside}
	require.NoError(t, b.node.Do(func() error {
		return set("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1", noDAD)
	}))
	configure(t, b.node, func(h *netlink.Handle) {
		require.NoError(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0", TxQLen: -1}}))
		setUp(t, h, "cni0", []string{"10.244.1.1/24", "fd00:244:0:1::1/64"})
	})
	require.NoError(t, b.node.Do(func() error { return set("net/ipv4/conf/cni0/route_localnet=1") }))
	for i := range 2 {
		b.pods = append(b.pods, b.pod(t, i))
	}
	b.ports = newPorts(t, b.node)
	return b
}

func newPorts(t testing.TB, n *testnet.Node) *nat.Ports {
	t.Helper()
	p, err := nat.NewPorts(nat.Config{NetNS: n.NetNS()})
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

func (b *bridged) pod(t testing.TB, i int) *testnet.Node {
	t.Helper()
	pod := testnet.NewNode(t, fmt.Sprintf("pod%d", i))
	require.NoError(t, pod.Do(func() error { return set(noDAD) }))
	inside, err := os.Open(pod.NetNS())
	require.NoError(t, err)
	defer inside.Close()
	host := fmt.Sprintf("pod%d", i)
	configure(t, b.node, func(h *netlink.Handle) {
		br, err := h.LinkByName("cni0")
		require.NoError(t, err)
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: host, TxQLen: -1, MasterIndex: br.Attrs().Index},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(int(inside.Fd())),
		}
		require.NoError(t, h.LinkAdd(veth))
		setUp(t, h, host, nil)
		l, err := h.LinkByName(host)
		require.NoError(t, err)
		require.NoError(t, h.LinkSetHairpin(l, true))
	})
	v4, v6 := fmt.Sprintf("10.244.1.%d", i+2), fmt.Sprintf("fd00:244:0:1::%d", i+2)
	configure(t, pod, func(h *netlink.Handle) {
		setUp(t, h, "eth0", []string{v4 + "/24", v6 + "/64"})
		route(t, h, "0.0.0.0/0", netip.MustParseAddr("10.244.1.1"))
		route(t, h, "::/0", netip.MustParseAddr("fd00:244:0:1::1"))
	})
	pod.V4, pod.V6 = netip.MustParseAddr(v4), netip.MustParseAddr(v6)
	return pod
}

// silence is how long an answer is waited for that must not come.
const silence = 2 * time.Second

// waitFor is how long an answer is waited for.
func waitFor(answer string) time.Duration {
	if answer == "no answer" {
		return silence
	}
	return patience
}

// ask says who answers there and from which address it was asked, or what went wrong.
func ask(t testing.TB, wait time.Duration, from *testnet.Node, network string, to netip.AddrPort) string {
	t.Helper()
	text := ""
	require.NoError(t, from.Do(func() error {
		d := net.Dialer{Timeout: wait}
		c, err := d.DialContext(context.WithoutCancel(t.Context()), network, to.String())
		if err != nil {
			text = "no answer"
			return nil
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(wait))
		if network == "udp" {
			c.Write([]byte("who?"))
		}
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if text = string(buf[:n]); err != nil && !errors.Is(err, io.EOF) {
			text = "no answer"
		}
		return nil
	}))
	return text
}

func hostPort(p nat.Protocol, port uint16, pod netip.Addr) nat.HostPort {
	return nat.HostPort{Protocol: p, Port: port, Pod: netip.AddrPortFrom(pod, 80)}
}

// both publishes a pod's port 80 in both families and over TCP and UDP.
func both(port uint16, pod *testnet.Node) (all []nat.HostPort) {
	for _, p := range []nat.Protocol{nat.TCP, nat.UDP} {
		all = append(all, hostPort(p, port, pod.V4), hostPort(p, port, pod.V6))
	}
	return all
}

func TestHostPorts(t *testing.T) {
	b := newBridged(t)
	sabotage.Serve(t, b.pods[0])
	sabotage.Serve(t, b.pods[1])
	for i, pod := range b.pods {
		require.NoError(t, b.ports.Add(t.Context(), both(uint16(8000+i), pod), near...))
	}
	one := hostPort(nat.TCP, 9000, b.pods[1].V4)
	one.HostIP = b.node.V4
	require.NoError(t, b.ports.Add(t.Context(), []nat.HostPort{one}, near...))
	gateway4, gateway6 := netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:244:0:1::1")
	tests := []struct {
		name string
		from *testnet.Node
		to   netip.Addr
		port uint16
		want string
	}{
		{"from outside, which keeps its address", b.outside, b.node.V4, 8000, "pod0 " + outside4},
		{"from outside, v6", b.outside, b.node.V6, 8001, "pod1 " + outside6},
		{"from the node", b.node, b.node.V4, 8000, "pod0 " + b.node.V4.String()},
		{"from the node, v6", b.node, b.node.V6, 8000, "pod0 " + b.node.V6.String()},
		{"from the node to localhost", b.node, netip.MustParseAddr("127.0.0.1"), 8001, "pod1 " + gateway4.String()},
		{"from another pod", b.pods[0], b.node.V4, 8001, "pod1 " + gateway4.String()},
		{"from another pod, v6", b.pods[0], b.node.V6, 8001, "pod1 " + gateway6.String()},
		{"from the pod itself", b.pods[0], b.node.V4, 8000, "pod0 " + gateway4.String()},
		{"from the pod itself, v6", b.pods[0], b.node.V6, 8000, "pod0 " + gateway6.String()},
		{"from another pod through the gateway", b.pods[1], gateway4, 8000, "pod0 " + gateway4.String()},
		{"straight to a pod, which sees who it is", b.pods[0], b.pods[1].V4, 80, "pod1 " + b.pods[0].V4.String()},
		{"a port that is not open", b.outside, b.node.V4, 8002, "no answer"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, network := range []string{"tcp", "udp"} {
				assert.Equal(t, test.want, ask(t, waitFor(test.want), test.from, network, netip.AddrPortFrom(test.to, test.port)), network)
			}
		})
	}
	t.Run("one address", func(t *testing.T) {
		assert.Equal(t, "pod1 "+outside4, ask(t, patience, b.outside, "tcp", netip.AddrPortFrom(b.node.V4, 9000)))
		assert.Equal(t, "no answer", ask(t, silence, b.node, "tcp", netip.AddrPortFrom(gateway4, 9000)), "another address of the node")
		assert.Equal(t, "no answer", ask(t, silence, b.outside, "udp", netip.AddrPortFrom(b.node.V4, 9000)), "another protocol")
	})
	t.Run("nobody else's loopback", func(t *testing.T) {
		var l net.Listener
		require.NoError(t, b.node.Do(func() (err error) {
			l, err = net.Listen("tcp", "127.0.0.1:8099")
			return err
		}))
		defer l.Close()
		configure(t, b.pods[0], func(h *netlink.Handle) {
			lo, err := h.LinkByName("lo")
			require.NoError(t, err)
			require.NoError(t, h.LinkSetDown(lo)) // else its own loopback answers
			route(t, h, "127.0.0.0/8", gateway4)
		})
		require.NoError(t, b.pods[0].Do(func() error { return set("net/ipv4/conf/all/route_localnet=1") }))
		assert.Equal(t, "no answer", ask(t, silence, b.pods[0], "tcp", netip.MustParseAddrPort("127.0.0.1:8099")))
	})
}

func TestPortsDriver(t *testing.T) {
	b := newBridged(t)
	spec := nat.PortSpec{Ports: append(both(8000, b.pods[0]), hostPort(nat.SCTP, 8000, b.pods[0].V4)), Near: near}
	plan, err := b.ports.Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Contains(t, plan.String(), "+ element inet podweft-hostports ports4 { sctp . 8000 : 10.244.1.2 . 80 }\n")
	done, err := b.ports.Apply(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, plan.String(), done.String())
	again, err := b.ports.Apply(t.Context(), spec)
	require.NoError(t, err)
	assert.Empty(t, again.String(), "applied twice, nothing is done")

	require.NoError(t, b.ports.Add(t.Context(), both(8001, b.pods[1]), near...))
	plan, err = b.ports.Plan(t.Context(), nat.PortSpec{Ports: append(spec.Ports, both(8001, b.pods[1])...), Near: near})
	require.NoError(t, err)
	assert.Empty(t, plan.String(), "what Add makes is what Apply makes")

	missing, err := b.ports.Missing(t.Context(), append(both(8001, b.pods[1]), hostPort(nat.TCP, 8002, b.pods[1].V4)))
	require.NoError(t, err)
	assert.Equal(t, []nat.HostPort{hostPort(nat.TCP, 8002, b.pods[1].V4)}, missing)

	require.NoError(t, b.ports.Remove(t.Context(), both(8001, b.pods[1])))
	require.NoError(t, b.ports.Remove(t.Context(), both(8001, b.pods[1])), "twice")
	plan, err = b.ports.Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Empty(t, plan.String())

	_, err = b.ports.Teardown(t.Context())
	require.NoError(t, err)
	tables, err := someone(t, b.node).Tables(t.Context(), nft.INet)
	require.NoError(t, err)
	assert.Empty(t, tables)
}

func TestPortsOfOtherPodsStay(t *testing.T) {
	b := newBridged(t)
	require.NoError(t, b.ports.Add(t.Context(), both(8000, b.pods[0]), near...))
	err := b.ports.Add(t.Context(), both(8000, b.pods[1]), near...)
	require.ErrorIs(t, err, podweft.ErrConflict)
	require.NoError(t, b.ports.Remove(t.Context(), both(8000, b.pods[1])), "of somebody who never had it")
	missing, err := b.ports.Missing(t.Context(), both(8000, b.pods[0]))
	require.NoError(t, err)
	assert.Empty(t, missing)
}

// TestOneOfTwoPlacesIsClosed: a pod's port is open on one address of the node and on all, and then on one of these alone. What it is
// reached by from beside it belongs to both.
func TestOneOfTwoPlacesIsClosed(t *testing.T) {
	b := newBridged(t)
	sabotage.Serve(t, b.pods[0])
	for i, to := range b.node.Addrs() {
		all := hostPort(nat.TCP, 8000, []netip.Addr{b.pods[0].V4, b.pods[0].V6}[i])
		one := all
		one.HostIP = to
		for _, closed := range []nat.HostPort{one, all} {
			require.NoError(t, b.ports.Add(t.Context(), []nat.HostPort{one, all}, near...))
			require.NoError(t, b.ports.Remove(t.Context(), []nat.HostPort{closed}))
			missing, err := b.ports.Missing(t.Context(), []nat.HostPort{one, all})
			require.NoError(t, err)
			assert.Equal(t, []nat.HostPort{closed}, missing)
			assert.NotEqual(t, "no answer", ask(t, patience, b.pods[0], "tcp", netip.AddrPortFrom(to, 8000)))
		}
		require.NoError(t, b.ports.Remove(t.Context(), []nat.HostPort{one, all}))
	}
	plan, err := b.ports.Plan(t.Context(), nat.PortSpec{Ports: []nat.HostPort{}, Near: near})
	require.NoError(t, err)
	assert.Empty(t, plan.String(), "nothing is left")
}

// TestPortsRemovedByManyAtOnce: each removes two, one of which all the others remove too.
func TestPortsRemovedByManyAtOnce(t *testing.T) {
	b := newBridged(t)
	const many = 10
	var all []nat.HostPort
	for i := range many + 1 {
		all = append(all, hostPort(nat.TCP, uint16(9000+i), b.pods[0].V4))
	}
	require.NoError(t, b.ports.Add(t.Context(), all, near...))
	errs, begin := make(chan error, many), make(chan struct{})
	for _, h := range all[1:] {
		own := newPorts(t, b.node)
		go func() {
			<-begin
			errs <- own.Remove(t.Context(), []nat.HostPort{all[0], h})
		}()
	}
	close(begin)
	for range many {
		assert.NoError(t, <-errs)
	}
	missing, err := b.ports.Missing(t.Context(), all)
	require.NoError(t, err)
	assert.Len(t, missing, len(all))
}

// TestNearOfOtherLengths: the prefix of a node's pods becomes longer and shorter while some of them have host ports.
func TestNearOfOtherLengths(t *testing.T) {
	b := newBridged(t)
	sabotage.Serve(t, b.pods[0])
	for i, near := range [][]string{
		{"10.244.1.0/24", "fd00:244:0:1::/64"}, {"10.244.0.0/16", "fd00:244::/48"}, {"10.244.1.0/24", "fd00:244:0:1::/64"}, {"10.244.1.0/26", "10.244.9.0/24"},
	} {
		ports := both(uint16(8000+i), b.pods[0])
		require.NoError(t, b.ports.Add(t.Context(), ports, prefixes(near...)...), near)
		missing, err := b.ports.Missing(t.Context(), ports)
		require.NoError(t, err)
		assert.Empty(t, missing, near)
		for _, to := range []netip.Addr{b.node.V4, b.node.V6} {
			assert.NotEqual(t, "no answer", ask(t, patience, b.pods[1], "tcp", netip.AddrPortFrom(to, uint16(8000+i))), "%v: a pod is near", near)
		}
	}
	err := b.ports.Add(t.Context(), both(8000, b.pods[1]), prefixes("10.0.0.0/8")...)
	require.ErrorIs(t, err, podweft.ErrConflict)
}

// TestUDPForgets: a sender that never pauses, from one port, as DNS and syslog clients do.
func TestUDPForgets(t *testing.T) {
	b := newBridged(t)
	sabotage.Serve(t, b.pods[0])
	sabotage.Serve(t, b.pods[1])
	for _, to := range b.node.Addrs() {
		t.Run(to.String(), func(t *testing.T) {
			var c net.Conn
			require.NoError(t, b.outside.Do(func() (err error) {
				c, err = net.Dial("udp", netip.AddrPortFrom(to, 8000).String())
				return err
			}))
			defer c.Close()
			who := func() string {
				buf := make([]byte, 100)
				for range 4 { // an ICMP error is no answer, and a packet may be lost
					c.SetDeadline(time.Now().Add(50 * time.Millisecond))
					c.Write([]byte("who?"))
					if n, err := c.Read(buf); err == nil {
						return strings.Fields(string(buf[:n]))[0]
					}
				}
				return "nobody"
			}
			answers := func(want, why string) { // at last: it goes on asking, so what is not forgotten stays
				t.Helper()
				got := who()
				for end := time.Now().Add(patience); got != want && time.Now().Before(end); got = who() {
				}
				require.Equal(t, want, got, why)
			}
			answers("nobody", "nothing is open")
			require.NoError(t, b.ports.Add(t.Context(), both(8000, b.pods[0]), near...))
			answers("pod0", "what was tracked before the port was opened")
			require.NoError(t, b.ports.Remove(t.Context(), both(8000, b.pods[0])))
			answers("nobody", "what was tracked until it was closed")
			require.NoError(t, b.ports.Add(t.Context(), both(8000, b.pods[1]), near...))
			answers("pod1", "what was tracked before another opened it")
			require.NoError(t, b.ports.Remove(t.Context(), both(8000, b.pods[1])))
		})
	}
}

func TestPortsAddedByManyAtOnce(t *testing.T) {
	b := newBridged(t)
	const many = 20
	errs := make(chan error, many)
	for i := range many {
		own := newPorts(t, b.node)
		go func() {
			errs <- own.Add(t.Context(), []nat.HostPort{hostPort(nat.TCP, uint16(9000+i), b.pods[0].V4)}, near...)
		}()
	}
	spec := nat.PortSpec{Near: near}
	for i := range many {
		assert.NoError(t, <-errs)
		spec.Ports = append(spec.Ports, hostPort(nat.TCP, uint16(9000+i), b.pods[0].V4))
	}
	plan, err := b.ports.Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Empty(t, plan.String(), "one table, each rule once, each port there")
}

// TestPortsComeBack: a Loop repairs what `nft flush ruleset` did. How fast, BenchmarkPortsComeBack says.
func TestPortsComeBack(t *testing.T) {
	b := newBridged(t)
	sabotage.Serve(t, b.pods[0])
	loop := podweft.NewLoop(b.ports, podweft.LoopConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	require.NoError(t, loop.Wait(ctx, loop.Set(nat.PortSpec{Ports: both(8000, b.pods[0]), Near: near})))
	require.Eventually(t, func() bool { return loop.Status().Listening }, patience, time.Millisecond)
	table := nft.Table{Family: nft.INet, Name: "podweft-hostports"}
	change(t, someone(t, b.node), func(batch *nft.Batch) { batch.DeleteTable(table) })
	require.Eventually(t, func() bool { return loop.Status().Drift > 0 }, patience, time.Millisecond)
	assert.Equal(t, "pod0 "+outside4, ask(t, patience, b.outside, "tcp", netip.AddrPortFrom(b.node.V4, 8000)))
}

func TestPortSpecValidate(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:244::2")
	tests := []struct {
		name string
		port nat.HostPort
		want string
	}{
		{"good", hostPort(nat.UDP, 53, v6), ""},
		{"no protocol", hostPort(1, 53, v4), "Ports[0].Protocol: 1 has no ports that can be published: use TCP, UDP or SCTP"},
		{"no port", hostPort(nat.TCP, 0, v4), "Ports[0].Port: 0 is not a port: use 1 to 65535"},
		{"no pod", nat.HostPort{Protocol: nat.TCP, Port: 1}, "Ports[0].Pod: invalid AddrPort is not a pod's address and port"},
		{
			"other family", nat.HostPort{Protocol: nat.TCP, Port: 1, HostIP: v6, Pod: netip.AddrPortFrom(v4, 80)},
			"Ports[0].HostIP: fd00:244::2 is not of the family of 10.244.1.2: publish it for the pod's address of that family",
		},
		{
			"twice", nat.HostPort{Protocol: nat.TCP, Port: 8080, Pod: netip.AddrPortFrom(v4, 81)},
			"Ports[1]: tcp 0.0.0.0:8080 to 10.244.1.2:80 is taken by tcp 0.0.0.0:8080 to 10.244.1.2:81: publish one of them on another port or address",
		},
		{
			"twice, written otherwise",
			nat.HostPort{Protocol: nat.TCP, HostIP: netip.IPv4Unspecified(), Port: 8080, Pod: netip.AddrPortFrom(v4, 81)},
			"Ports[1]: tcp 0.0.0.0:8080 to 10.244.1.2:80 is taken by tcp 0.0.0.0:8080 to 10.244.1.2:81: publish one of them on another port or address",
		},
		{
			"the same, written otherwise",
			nat.HostPort{Protocol: nat.TCP, HostIP: netip.IPv4Unspecified(), Port: 8080, Pod: netip.AddrPortFrom(v4, 80)}, "",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec := nat.PortSpec{Ports: []nat.HostPort{test.port, hostPort(nat.TCP, 8080, v4)}}
			err := spec.Validate()
			if test.want == "" {
				assert.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.EqualError(t, err, test.want)
		})
	}
}

// TestPortsApplyLatest: what somebody notes and adds while the driver is at it is not taken for something left over, and what
// cannot be asked for changes nothing.
func TestPortsApplyLatest(t *testing.T) {
	b := newBridged(t)
	noted := nat.PortSpec{Ports: both(8000, b.pods[0]), Near: near}
	asked := 0
	latest := func() (nat.PortSpec, error) {
		if asked++; asked == 1 {
			noted.Ports = append(noted.Ports, both(8001, b.pods[1])...)
			require.NoError(t, newPorts(t, b.node).Add(t.Context(), both(8001, b.pods[1]), near...))
		}
		return noted, nil
	}
	require.NoError(t, b.ports.Add(t.Context(), both(8002, b.pods[0]), near...))
	_, err := b.ports.ApplyLatest(t.Context(), latest)
	require.NoError(t, err)
	for range 2 {
		plan, err := b.ports.Plan(t.Context(), noted)
		require.NoError(t, err)
		assert.Empty(t, plan.String())
		_, err = b.ports.ApplyLatest(t.Context(), func() (nat.PortSpec, error) { return nat.PortSpec{}, assert.AnError })
		require.ErrorIs(t, err, assert.AnError)
	}
}

// TestPortsPlanOfSeveralTries: somebody closes a port while the driver is about to. The rest is done by the first try, which the
// second one does not see.
func TestPortsPlanOfSeveralTries(t *testing.T) {
	b := newBridged(t)
	require.NoError(t, b.ports.Add(t.Context(), both(8000, b.pods[0]), near...))
	require.NoError(t, b.ports.Add(t.Context(), both(8001, b.pods[0]), near...))
	asked := 0
	plan, err := b.ports.ApplyLatest(t.Context(), func() (nat.PortSpec, error) {
		if asked++; asked == 1 {
			require.NoError(t, newPorts(t, b.node).Remove(t.Context(), both(8001, b.pods[0])))
		}
		return nat.PortSpec{Ports: []nat.HostPort{}, Near: near}, nil
	})
	require.NoError(t, err)
	assert.Equal(t, 2, asked, "what is gone already makes it look again")
	assert.Contains(t, plan.String(), "- element inet podweft-hostports ports4 { tcp . 8000 : 10.244.1.2 . 80 }\n")
	assert.NotContains(t, plan.String(), "8001")
}

// TestPortsApplyForgets: a connection through a port that the driver closes goes no further.
func TestPortsApplyForgets(t *testing.T) {
	t.Run("as ever", func(t *testing.T) { applyForgets(t, both) })
	t.Run("that keep sources", func(t *testing.T) { applyForgets(t, keeping) })
}

func applyForgets(t *testing.T, publish func(uint16, *testnet.Node) []nat.HostPort) {
	b := newBridged(t)
	var l net.Listener
	require.NoError(t, b.pods[0].Do(func() (err error) {
		l, err = net.Listen("tcp", ":80")
		return err
	}))
	accepted := make(chan net.Conn, 1)
	var echo sync.WaitGroup
	echo.Go(func() {
		defer close(accepted)
		if c, err := l.Accept(); err == nil {
			accepted <- c
			io.Copy(c, c)
		}
	})
	defer func() {
		l.Close()
		for c := range accepted { // it hears of nothing by itself
			c.SetDeadline(time.Now())
			echo.Wait()
			c.Close()
		}
	}()
	require.NoError(t, b.ports.Add(t.Context(), publish(8000, b.pods[0]), near...))
	var c net.Conn
	require.NoError(t, b.outside.Do(func() (err error) {
		c, err = net.Dial("tcp", netip.AddrPortFrom(b.node.V4, 8000).String())
		return err
	}))
	defer c.Close()
	said := func() error {
		c.SetDeadline(time.Now().Add(patience))
		c.Write([]byte("x"))
		_, err := c.Read(make([]byte, 1))
		return err
	}
	require.NoError(t, said())
	_, err := b.ports.Apply(t.Context(), nat.PortSpec{Ports: []nat.HostPort{}, Near: near})
	require.NoError(t, err)
	require.ErrorIs(t, said(), unix.ECONNRESET)
}
