package flannel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

// kubelet calls the CNI plugin on an agent's node, by the list of a kube-flannel.yml.
type kubelet struct {
	*agent
	kernel *netlink.Handle
	// What somebody else takes away.
	ports *nat.Ports
	masq  *nat.Driver
}

func newKubelet(t *testing.T, a *agent) *kubelet {
	t.Helper()
	k := &kubelet{agent: a, kernel: a.netlink()}
	var err error
	k.ports, err = nat.NewPorts(nat.Config{Owner: "cbr0", NetNS: a.node.NetNS()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = k.ports.Close() })
	k.masq, err = nat.New(nat.Config{Owner: "cbr0", NetNS: a.node.NetNS()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = k.masq.Close() })
	return k
}

// call calls one plugin of the list for a pod, and returns its result.
func (k *kubelet) call(command, kind string, pod *testnet.Node, more map[string]any) json.RawMessage {
	k.t.Helper()
	conf := map[string]any{
		"cniVersion": "1.0.0", "name": "cbr0", "type": kind, "stateDir": k.path("cni"), "subnetFile": k.path("subnet.env"),
		"dataDir": k.path("flannel"), "delegate": map[string]any{"hairpinMode": true, "isDefaultGateway": true},
	}
	maps.Copy(conf, more)
	stdin, err := json.Marshal(conf)
	require.NoError(k.t, err)
	var out bytes.Buffer
	code := cniplugin.Run(k.t.Context(), cniplugin.Config{NetNS: k.node.NetNS()}, cniplugin.Call{
		Type: kind, Stdin: bytes.NewReader(stdin), Stdout: &out,
		Environ: []string{
			"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + pod.Name, "CNI_NETNS=" + pod.NetNS(), "CNI_IFNAME=eth0", "CNI_PATH=/nowhere",
		},
	})
	require.Zero(k.t, code, out.String())
	return out.Bytes()
}

// add starts a pod that has a port of the node, and returns where that leads.
func (k *kubelet) add(pod *testnet.Node, port uint16) nat.HostPort {
	k.t.Helper()
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	raw := k.call("ADD", "flannel", pod, nil)
	require.NoError(k.t, json.Unmarshal(raw, &result))
	require.Len(k.t, result.IPs, 1)
	k.call("ADD", "portmap", pod, map[string]any{"prevResult": raw, "runtimeConfig": map[string]any{"portMappings": []any{
		map[string]any{"hostPort": port, "containerPort": 80, "protocol": "tcp"},
	}}})
	return nat.HostPort{Protocol: nat.TCP, Port: port, Pod: netip.AddrPortFrom(result.IPs[0].Address.Addr(), 80)}
}

// del ends a pod as runtimes do, from the list's end, and returns how long its link took.
func (k *kubelet) del(pod *testnet.Node) time.Duration {
	k.t.Helper()
	k.call("DEL", "portmap", pod, nil)
	begin := time.Now()
	k.call("DEL", "flannel", pod, nil)
	return time.Since(begin)
}

// open reports whether the port leads to the pod.
func (k *kubelet) open(port nat.HostPort) bool {
	k.t.Helper()
	missing, err := k.ports.Missing(k.t.Context(), []nat.HostPort{port})
	require.NoError(k.t, err)
	return len(missing) == 0
}

// pods are the links that lead to pods, and those on their way out.
func (k *kubelet) pods() (names []string) {
	k.t.Helper()
	links, err := k.kernel.LinkList()
	for errors.Is(err, netlink.ErrDumpInterrupted) { // the daemon deletes some just now
		links, err = k.kernel.LinkList()
	}
	require.NoError(k.t, err)
	for _, l := range links {
		if l.Type() == "veth" && strings.Contains(l.Attrs().Alias, "cbr0") {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

func (k *kubelet) await(what string, done func() bool) {
	k.t.Helper()
	for begin := time.Now(); !done(); time.Sleep(time.Millisecond) {
		require.Less(k.t, time.Since(begin), patience, what)
	}
}

// TestDaemonHelpsThePlugin: while the daemon runs no DEL waits for the kernel, and what somebody takes away of pods' comes back. It is
// killed, started and ended, and pods keep what they have; without it the plugin works alone.
func TestDaemonHelpsThePlugin(t *testing.T) {
	url, _ := startEtcd(t, vxlanConf)
	f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1, Outside: true})
	a := newAgent(t, f.Nodes[0], "a", url, "--ip-masq=false")
	a.start()
	a.ready()
	k := newKubelet(t, a)
	web := testnet.NewNode(t, "web")
	port := k.add(web, 8080)
	require.True(t, k.open(port))
	require.Len(t, k.pods(), 1)
	fastest := func() (took time.Duration) {
		took = time.Hour
		for i := range 5 {
			pod := testnet.NewNode(t, fmt.Sprintf("pod-%d", i))
			other := k.add(pod, 8081)
			took = min(took, k.del(pod))
			assert.False(t, k.open(other))
		}
		return took
	}
	helped := fastest()
	k.await("links swept", func() bool { return len(k.pods()) == 1 })

	back := func() {
		t.Helper()
		for range 3 {
			_, err := k.ports.Teardown(t.Context())
			require.NoError(t, err)
			k.await("the host port comes back", func() bool { return k.open(port) })
			_, err = k.masq.Teardown(t.Context())
			require.NoError(t, err)
			k.await("masquerading comes back", func() bool {
				_, err := k.masq.Stamp(t.Context())
				return err == nil
			})
		}
	}
	back()
	link := k.pods()
	kept := func() {
		t.Helper()
		assert.True(t, k.open(port))
		assert.Equal(t, link, k.pods())
		_, err := a.node.Ping(t.Context(), port.Pod.Addr())
		require.NoError(t, err)
	}
	_ = a.kill(syscall.SIGKILL)
	kept()
	alone := fastest()
	assert.Equal(t, link, k.pods(), "the plugin has deleted the links itself")
	a.start()
	a.ready()
	kept()
	back()
	kept()
	require.NoError(t, a.kill(syscall.SIGTERM))
	kept()
	assert.NoFileExists(t, a.path("cni/agent.sock"))
	k.del(web)
	assert.Empty(t, k.pods())
	assert.False(t, k.open(port))
	t.Logf("the link's DEL takes %s, and %s without the daemon", helped, alone)
	assert.Less(t, helped, alone)
}

// TestNowhereToHelpThePlugin: a daemon that cannot have the plugin's state, as in a container without it, says so and goes on.
func TestNowhereToHelpThePlugin(t *testing.T) {
	url, _ := startEtcd(t, vxlanConf)
	f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1, Outside: true})
	a := newAgent(t, f.Nodes[0], "a", url)
	require.NoError(t, os.WriteFile(a.path("cni"), nil, 0o600))
	a.start()
	a.ready()
	assert.Contains(t, a.log.String(), "the CNI plugin works alone")
	assert.Contains(t, a.log.String(), "not a directory")
}

// TestHelpsNoPlugin: a daemon that is told so leaves the plugin's state alone.
func TestHelpsNoPlugin(t *testing.T) {
	o, _, err := ParseOptions([]string{"--cni-state-dir="}, func(string) string { return "" }, io.Discard)
	require.NoError(t, err)
	o.servePlugins(t.Context(), nil) // returns at once
}
