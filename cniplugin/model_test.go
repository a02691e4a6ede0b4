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
			m := &model{node: newNode(t), mode: mode, rand: rand.New(rand.NewPCG(seed, 0)), live: map[string]reply{}}
			m.run(t, calls)
		})
	}
}

func (m *model) run(t *testing.T, calls int) {
	t.Helper()
	for i := range 6 {
		m.pods = append(m.pods, testnet.NewNode(t, fmt.Sprintf("pod%d", i)))
	}
	m.program = filepath.Join(plugins(t), "podweft-cni")
	for i := range calls {
		m.step(t, i)
		m.compare(t)
	}
	r := m.node.call(t, "podweft-cni", "GC", m.conf(nil))
	require.Zero(t, r.code, r)
	clear(m.live)
	m.compare(t)
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
	clear(m.live)
}

// kill starts a call as a program and kills it at any moment, then does what a runtime does about it.
func (m *model) kill(t *testing.T, command string) {
	t.Helper()
	n := m.rand.IntN(len(m.pods))
	pod := m.pods[n]
	if _, attached := m.live[pod.Name]; attached != (command == "DEL") {
		return
	}
	conf := m.conf(map[string]any{"runtimeConfig": map[string]any{
		"portMappings": []any{map[string]any{"hostPort": 8000 + n, "containerPort": 80}},
	}})
	stdin, err := json.Marshal(conf)
	require.NoError(t, err)
	cmd := m.node.ns.Command(t.Context(), m.program)
	cmd.Env = append(append(os.Environ(), about(pod)...), "CNI_COMMAND="+command, bootOfTest+"="+m.node.boot)
	cmd.Stdin = bytes.NewReader(stdin)
	require.NoError(t, cmd.Start())
	time.Sleep(time.Duration(m.rand.IntN(40000)) * time.Microsecond) // any moment will do
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	delete(m.live, pod.Name)
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
	case kind < 4: // ADD, with a host port
		conf := m.conf(map[string]any{"runtimeConfig": map[string]any{
			"portMappings": []any{map[string]any{"hostPort": 8000 + n, "containerPort": 80}},
		}})
		r := m.node.call(t, "podweft-cni", "ADD", conf, about(pod)...)
		if attached {
			require.NotZero(t, r.code, "call %d: a second ADD", i)
			return
		}
		require.Zero(t, r.code, r)
		m.live[pod.Name] = r
	case kind < 7: // DEL, with and without the namespace
		env := about(pod)
		if m.rand.IntN(2) == 0 {
			env = append(env, "CNI_NETNS=")
		}
		r := m.node.call(t, "podweft-cni", "DEL", m.conf(nil), env...)
		require.Zero(t, r.code, r)
		delete(m.live, pod.Name)
	case kind < 8: // CHECK
		conf := m.conf(map[string]any{"prevResult": result.result()})
		r := m.node.call(t, "podweft-cni", "CHECK", conf, about(pod)...)
		require.Equal(t, attached, r.code == 0, "call %d: %s", i, r)
	case kind < 9: // GC of some
		valid := []any{}
		for _, name := range slices.Sorted(keys(m.live)) {
			if m.rand.IntN(4) == 0 {
				delete(m.live, name)
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
			require.Len(t, elements, len(m.live), s.Name)
		}
	}
	for _, dir := range []string{"attachments", "hostports"} {
		records, err := local.Open(filepath.Join(m.node.dir, dir), m.node.boot)
		require.NoError(t, err)
		kept, problems, err := records.All("")
		require.NoError(t, err)
		require.Empty(t, problems)
		require.Len(t, kept, len(m.live), dir)
	}
	m.compareWays(t, addresses)
}

// compareWays looks at the node's routes and permanent neighbours: those of one address are a live pod's.
func (m *model) compareWays(t *testing.T, live map[netip.Addr]string) {
	t.Helper()
	conn, err := nl.Dial(m.node.ns.NetNS())
	require.NoError(t, err)
	defer conn.Close()
	var ways []netip.Addr
	require.NoError(t, conn.Routes(t.Context(), func() { ways = nil }, func(r nl.Route) {
		if r.Table == nl.TableMain && r.Prefix.IsSingleIP() {
			ways = append(ways, r.Prefix.Addr())
		}
	}))
	if m.mode == "ptp" {
		require.Len(t, ways, len(live), "routes")
	}
	var neighbors []netip.Addr
	require.NoError(t, conn.Neighbors(t.Context(), 0, func() { neighbors = nil }, func(n nl.Neighbor) {
		neighbors = append(neighbors, n.Addr)
	}))
	for _, way := range append(ways, neighbors...) {
		require.Contains(t, live, way)
	}
}
