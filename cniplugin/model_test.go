package cniplugin_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/ptp"
	"github.com/podweft/podweft/testnet"
)

// TestModel makes random calls and compares the node with what it should be: no address twice, nothing left behind of what is
// gone, no live pod harmed. PODWEFT_MODEL=10000 makes as many calls, PODWEFT_SEED=4711 the same ones.
func TestModel(t *testing.T) {
	calls, seed := 60, rand.Uint64()
	var err error
	if text := os.Getenv("PODWEFT_MODEL"); text != "" {
		calls, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	if text := os.Getenv("PODWEFT_SEED"); text != "" {
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	for _, mode := range []string{"bridge", "ptp"} {
		t.Run(mode, func(t *testing.T) {
			t.Logf("seed %d", seed)
			m := &model{
				node: newNode(t), mode: mode, rand: rand.New(rand.NewPCG(seed, 0)), live: map[string]reply{}, ports: map[string]nat.Protocol{},
			}
			m.run(t, calls)
		})
	}
}

func (m *model) run(t *testing.T, calls int) {
	t.Helper()
	for i := range 6 {
		m.pods = append(m.pods, testnet.NewNode(t, fmt.Sprintf("pod%d", i)))
	}
	m.flows = newFlows(t, m.node, m.addresses(t), m.pods)
	m.program = filepath.Join(plugins(t), "podweft-cni")
	for i := range calls {
		m.step(t, i)
		m.compare(t)
		m.talk(t)
	}
	r := m.node.call(t, "podweft-cni", "GC", m.conf(nil))
	require.Zero(t, r.code, r)
	m.goneAll()
	m.compare(t)
	require.Positive(t, m.flows.toPods)
	if m.stop != nil {
		m.stop()
	}
	r = m.node.call(t, "podweft-cni", "GC", m.conf(nil)) // deletes what was retired since the agent looked
	require.Zero(t, r.code, r)
	require.Subset(t, []string{"lo", "cni0"}, m.node.linkNames(t)) // no bridge when the last pod went with a reboot
}

type model struct {
	node *node
	mode string
	rand *rand.Rand
	pods []*testnet.Node
	live map[string]reply // by pod, what its ADD has answered

	ports map[string]nat.Protocol // by pod, what its host port is for
	flows *flows

	program string // the plugin, to be killed
	stop    func() // of the agent; nil while none runs
	boots   int
}

// conf is the network's configuration.
func (m *model) conf(changes map[string]any) map[string]any {
	conf := m.node.conf(changes)
	conf["mode"] = m.mode
	return conf
}

// addresses are the node's, one of each family: the bridge's, or its own.
func (m *model) addresses(t *testing.T) []netip.Addr {
	t.Helper()
	if m.mode == "bridge" {
		return []netip.Addr{netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:244:0:1::1")}
	}
	sabotage.Do(t, m.node.ns, func(b *nl.Batch) {
		b.SetUp(1, true)
		for _, a := range nodesOwn {
			b.AddAddress(nl.Address{Link: 1, Prefix: netip.PrefixFrom(a, a.BitLen())})
		}
	})
	return nodesOwn
}

var nodesOwn = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}

// The pods' host ports, one for each.
const (
	firstPort = 8000
	lastPort  = firstPort + 5
)

// withPort is the configuration for the ADD of a pod with its host port, if it has one for that protocol.
func (m *model) withPort(n int, p nat.Protocol) map[string]any {
	if p == 0 {
		return m.conf(nil)
	}
	return m.conf(map[string]any{"runtimeConfig": map[string]any{
		"portMappings": []any{map[string]any{"hostPort": firstPort + n, "containerPort": 80, "protocol": p.String()}},
	}})
}

// protocol is any that a host port may be for; zero is none at all.
func (m *model) protocol() nat.Protocol {
	return []nat.Protocol{0, nat.TCP, nat.TCP, nat.UDP}[m.rand.IntN(4)]
}

// gone is what a pod is after its DEL.
func (m *model) gone(name string) {
	delete(m.live, name)
	delete(m.ports, name)
	m.flows.end(name)
}

func (m *model) goneAll() {
	for _, pod := range m.pods {
		m.gone(pod.Name)
	}
}

// talk has programs of the node use host ports, those of pods that are gone too.
func (m *model) talk(t *testing.T) {
	t.Helper()
	if len(m.live) == 0 { // there may be no bridge
		return
	}
	n := m.rand.IntN(len(m.pods))
	name, port := m.pods[n].Name, uint16(firstPort+n)
	m.flows.send(t, m.rand, port)
	if m.ports[name] == nat.TCP {
		m.flows.connect(t, m.rand, name, port)
	}
}

// leads is where the node's host port leads to.
func (m *model) leads(p nat.Protocol, to netip.AddrPort) netip.AddrPort {
	name := m.pods[to.Port()-firstPort].Name
	for _, ip := range m.live[name].IPs {
		a := netip.MustParsePrefix(ip.Address).Addr()
		if m.ports[name] == p && a.Is4() == to.Addr().Is4() {
			return netip.AddrPortFrom(a, 80)
		}
	}
	return to
}

// disturb does what no call does, one time in eight.
func (m *model) disturb(t *testing.T) {
	t.Helper()
	switch m.rand.IntN(24) {
	case 0:
		if m.stop != nil {
			m.stop()
			m.stop = nil
		} else {
			m.stop = m.node.agent(t)
		}
	case 1:
		m.reboot(t)
	case 2:
		m.kill(t, "ADD")
	case 3:
		m.kill(t, "DEL")
	}
}

// reboot takes away all that a reboot takes, and makes the pods anew: files stay, and say of which life they are.
func (m *model) reboot(t *testing.T) {
	t.Helper()
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
	bridged, err := bridge.New(bridge.Config{Owner: "pods", NetNS: m.node.ns.NetNS()})
	require.NoError(t, err)
	require.NoError(t, bridged.Teardown(t.Context()))
	require.NoError(t, bridged.Close())
	routed, err := ptp.New(ptp.Config{Owner: "pods", NetNS: m.node.ns.NetNS()})
	require.NoError(t, err)
	require.NoError(t, routed.Teardown(t.Context()))
	require.NoError(t, routed.Close())
	ports, err := nat.NewPorts(nat.Config{Owner: "pods", NetNS: m.node.ns.NetNS()})
	require.NoError(t, err)
	_, err = ports.Teardown(t.Context())
	require.NoError(t, err)
	require.NoError(t, ports.Close())
	m.boots++
	m.node.boot = fmt.Sprintf("%08d-0000-0000-0000-000000000000", m.boots)
	m.goneAll()
	m.flows.reboot(t)
}

// kill starts a call as a program and kills it at any moment, then does what a runtime does about it.
func (m *model) kill(t *testing.T, command string) {
	t.Helper()
	n := m.rand.IntN(len(m.pods))
	pod := m.pods[n]
	if _, attached := m.live[pod.Name]; attached != (command == "DEL") {
		return
	}
	stdin, err := json.Marshal(m.withPort(n, m.protocol()))
	require.NoError(t, err)
	cmd := m.node.ns.Command(t.Context(), m.program)
	cmd.Env = append(append(os.Environ(), about(pod)...), "CNI_COMMAND="+command, bootOfTest+"="+m.node.boot)
	cmd.Stdin = bytes.NewReader(stdin)
	require.NoError(t, cmd.Start())
	time.Sleep(time.Duration(m.rand.IntN(40000)) * time.Microsecond) // any moment will do
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	m.gone(pod.Name)
	if command == "ADD" && m.rand.IntN(2) == 0 {
		valid := []any{}
		for name := range m.live {
			valid = append(valid, map[string]string{"containerID": name, "ifname": "eth0"})
		}
		r := m.node.call(t, "podweft-cni", "GC", m.conf(map[string]any{"cni.dev/valid-attachments": valid}))
		require.Zero(t, r.code, r)
		return
	}
	r := m.node.call(t, "podweft-cni", "DEL", m.conf(nil), about(pod)...)
	require.Zero(t, r.code, r)
}

// step makes one call.
func (m *model) step(t *testing.T, i int) {
	t.Helper()
	m.disturb(t)
	n := m.rand.IntN(len(m.pods))
	pod := m.pods[n]
	result, attached := m.live[pod.Name]
	switch kind := m.rand.IntN(10); {
	case kind < 4: // ADD
		p := m.protocol()
		r := m.node.call(t, "podweft-cni", "ADD", m.withPort(n, p), about(pod)...)
		if attached {
			require.NotZero(t, r.code, "call %d: a second ADD", i)
			return
		}
		require.Zero(t, r.code, r)
		m.live[pod.Name] = r
		if p != 0 {
			m.ports[pod.Name] = p
		}
	case kind < 7: // DEL, with and without the namespace
		env := about(pod)
		if m.rand.IntN(2) == 0 {
			env = append(env, "CNI_NETNS=")
		}
		r := m.node.call(t, "podweft-cni", "DEL", m.conf(nil), env...)
		require.Zero(t, r.code, r)
		m.gone(pod.Name)
	case kind < 8: // CHECK
		conf := m.conf(map[string]any{"prevResult": result.result()})
		r := m.node.call(t, "podweft-cni", "CHECK", conf, about(pod)...)
		require.Equal(t, attached, r.code == 0, "call %d: %s", i, r)
	case kind < 9: // GC of some
		valid := []any{}
		for _, name := range slices.Sorted(keys(m.live)) {
			if m.rand.IntN(4) == 0 {
				m.gone(name)
				continue
			}
			valid = append(valid, map[string]string{"containerID": name, "ifname": "eth0"})
		}
		r := m.node.call(t, "podweft-cni", "GC", m.conf(map[string]any{"cni.dev/valid-attachments": valid}))
		require.Zero(t, r.code, r)
	default: // an ADD that was killed: its record is lost, and a DEL comes, as after every ADD that failed
		if !attached {
			r := m.node.call(t, "podweft-cni", "ADD", m.conf(nil), about(pod)...)
			require.Zero(t, r.code, r)
			records, err := local.Open(filepath.Join(m.node.dir, "attachments"), m.node.boot)
			require.NoError(t, err)
			require.NoError(t, records.Remove(local.Key{Network: "pods", Container: pod.Name, Interface: "eth0"}))
			r = m.node.call(t, "podweft-cni", "DEL", m.conf(nil), about(pod)...)
			require.Zero(t, r.code, r)
		}
	}
}

func keys(m map[string]reply) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// result is what a runtime hands back.
func (r reply) result() any {
	ips := []any{}
	for _, ip := range r.IPs {
		ips = append(ips, map[string]any{"address": ip.Address, "gateway": ip.Gateway, "interface": len(r.Interfaces) - 1})
	}
	return map[string]any{"cniVersion": "1.1.0", "interfaces": r.Interfaces, "ips": ips}
}

// compare looks at the node.
func (m *model) compare(t *testing.T) {
	t.Helper()
	addresses := map[netip.Addr]string{}
	for name, r := range m.live {
		for _, ip := range r.IPs {
			a := netip.MustParsePrefix(ip.Address).Addr()
			require.Empty(t, addresses[a], "%s is %s's and %s's", a, name, addresses[a])
			addresses[a] = name
		}
	}
	pool, err := ipam.Open(ipam.Config{Path: filepath.Join(m.node.dir, "ipam", "pods"), BootID: m.node.boot})
	require.NoError(t, err)
	defer pool.Close()
	all, err := pool.All(t.Context())
	require.NoError(t, err)
	require.Len(t, all, len(m.live), "allocations")
	for _, a := range all {
		require.Equal(t, a.Owner.Container, addresses[a.Addresses[0].Prefix.Addr()])
	}
	veths := 0
	for _, l := range m.node.linkNames(t) {
		if strings.HasPrefix(l, "veth") {
			veths++
		}
	}
	require.Equal(t, len(m.live), veths, "links")
	conn, err := nft.Open(m.node.ns.NetNS())
	require.NoError(t, err)
	defer conn.Close()
	table := nft.Table{Family: nft.INet, Name: "podweft-pods-hostports"}
	sets, _ := conn.Sets(t.Context(), table) // none before the first port
	for _, s := range sets {
		if strings.HasPrefix(s.Name, "ports") || strings.HasPrefix(s.Name, "published") {
			elements, err := conn.Elements(t.Context(), s)
			require.NoError(t, err)
			require.Len(t, elements, len(m.ports), s.Name)
		}
	}
	for dir, want := range map[string]int{"attachments": len(m.live), "hostports": len(m.ports)} {
		records, err := local.Open(filepath.Join(m.node.dir, dir), m.node.boot)
		require.NoError(t, err)
		kept, problems, err := records.All("")
		require.NoError(t, err)
		require.Empty(t, problems)
		require.Len(t, kept, want, dir)
	}
	m.compareWays(t, addresses)
	m.flows.compare(t, firstPort, lastPort, m.leads)
}

// compareWays looks at the node's routes and permanent neighbours: those of one address are a live pod's.
func (m *model) compareWays(t *testing.T, live map[netip.Addr]string) {
	t.Helper()
	conn, err := nl.Dial(m.node.ns.NetNS())
	require.NoError(t, err)
	defer conn.Close()
	own := func(a netip.Addr) bool { return slices.Contains(nodesOwn, a) }
	var ways []netip.Addr
	require.NoError(t, conn.Routes(t.Context(), func() { ways = nil }, func(r nl.Route) {
		if r.Table == nl.TableMain && r.Prefix.IsSingleIP() && !own(r.Prefix.Addr()) {
			ways = append(ways, r.Prefix.Addr())
		}
	}))
	if m.mode == "ptp" {
		require.Len(t, ways, len(live), "routes")
	}
	var neighbors []netip.Addr
	require.NoError(t, conn.Neighbors(t.Context(), 0, func() { neighbors = nil }, func(n nl.Neighbor) {
		if !own(n.Addr) {
			neighbors = append(neighbors, n.Addr)
		}
	}))
	for _, way := range append(ways, neighbors...) {
		require.Contains(t, live, way)
	}
}
