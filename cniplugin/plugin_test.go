package cniplugin_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/testnet"
)

// tutorial is the flannel plugin's half of the list that tutorials show, with the directories of the test.
func (n *node) tutorial() map[string]any {
	return n.conf(map[string]any{
		"cniVersion": "0.3.1", "name": "cbr0", "type": "flannel",
		"delegate": map[string]any{"hairpinMode": true, "isDefaultGateway": true},
	})
}

func TestFlannel(t *testing.T) {
	n := newNode(t)
	a, b := testnet.NewNode(t, "a"), testnet.NewNode(t, "b")
	r := n.call(t, "flannel", "ADD", n.tutorial(), about(a)...)
	require.Zero(t, r.code, r)
	require.Len(t, r.Interfaces, 3)
	assert.Equal(t, "cni0", r.Interfaces[0].Name)
	assert.Equal(t, a.NetNS(), r.Interfaces[2].Sandbox)
	require.Len(t, r.IPs, 2)
	assert.Equal(t, []string{"10.244.1.2/24", "10.244.1.1"}, []string{r.IPs[0].Address, r.IPs[0].Gateway})
	assert.Equal(t, "fd00:244:0:1::2/64", r.IPs[1].Address)
	assert.Equal(t, 2, *r.IPs[0].Interface)
	var routes []string
	for _, route := range r.Routes {
		routes = append(routes, route.Dst+" via "+route.GW)
	}
	assert.Equal(t, []string{
		"0.0.0.0/0 via 10.244.1.1", "::/0 via fd00:244:0:1::1", "10.244.0.0/16 via 10.244.1.1", "fd00:244::/48 via fd00:244:0:1::1",
	}, routes)
	require.Zero(t, n.call(t, "flannel", "ADD", n.tutorial(), about(b)...).code)
	for _, to := range []string{"10.244.1.3", "fd00:244:0:1::3", "10.244.1.1"} {
		_, err := a.Ping(t.Context(), netip.MustParseAddr(to))
		require.NoError(t, err, to)
	}
	links, err := a.Links()
	require.NoError(t, err)
	assert.Equal(t, 1450, links[1].MTU, "the lease's")

	require.NoError(t, os.Remove(filepath.Join(n.dir, "subnet.env")), "the daemon may be gone")
	for range 2 {
		r = n.call(t, "flannel", "DEL", n.tutorial(), about(a, "CNI_NETNS=")...)
		require.Zero(t, r.code, r)
	}
	assert.Len(t, n.linkNames(t), 3, "lo, cni0, and b's")
}

func TestErrorsSayWhatToDo(t *testing.T) {
	n := newNode(t)
	pod := testnet.NewNode(t, "pod")
	missing := filepath.Join(n.dir, "missing.env")
	tests := []struct {
		name    string
		kind    string
		command string
		changes map[string]any
		code    uint
		want    string
	}{
		{"no lease yet", "podweft-cni", "ADD", map[string]any{"subnetFile": missing}, cniplugin.CodeTryAgain,
			"no subnet lease yet: is podweft-flannel running? looked for " + missing},
		{"no lease yet, as flannel", "flannel", "ADD", map[string]any{"subnetFile": missing}, cniplugin.CodeTryAgain,
			"no subnet lease yet: is podweft-flannel running? looked for " + missing},
		{"STATUS without a lease", "podweft-cni", "STATUS", map[string]any{"subnetFile": missing}, cniplugin.CodeNotReady,
			"no subnet lease yet: is podweft-flannel running? looked for " + missing},
		{"STATUS without a lease, as flannel", "flannel", "STATUS", map[string]any{"subnetFile": missing}, cniplugin.CodeNotReady,
			"no subnet lease yet: is podweft-flannel running? looked for " + missing},
		{"a VLAN", "podweft-cni", "ADD", map[string]any{"vlan": 7}, cniplugin.CodeField,
			`field "vlan" with value 7 is not supported: leave it out, or name the bridge plugin of the reference set as type`},
		{"a burst of nothing", "podweft-cni", "ADD", map[string]any{"runtimeConfig": map[string]any{"bandwidth": map[string]any{"egressBurst": 800}}},
			cniplugin.CodeConfig, `Port.Egress.Burst: 800 is a burst without a rate: give a rate too, or neither`},
		{"no subnet", "podweft-cni", "ADD", map[string]any{"ipam": map[string]any{"subnet": "ten"}}, cniplugin.CodeConfig,
			`ipam.ranges[0][0].subnet: "ten" is not a subnet: write one like 10.244.1.0/24`},
		{"delegate.name", "flannel", "ADD", map[string]any{"delegate": map[string]any{"name": "x"}}, cniplugin.CodeConfig,
			"delegate.name is not allowed: write it beside delegate"},
		{"a delegate that is not there", "flannel", "ADD", map[string]any{"delegate": map[string]any{"type": "ipvlan"}},
			cniplugin.CodeConfig, `plugin "ipvlan" is not in CNI_PATH (/nowhere): install it`},
		{"a port too high", "podweft-cni", "ADD", map[string]any{"runtimeConfig": map[string]any{
			"portMappings": []any{map[string]any{"HostPort": 70000, "ContainerPort": 80}}}}, cniplugin.CodeConfig,
			"runtimeConfig.portMappings[0].hostPort: 70000 is not a port: use 1 to 65535"},
		{"portmap alone", "portmap", "ADD", nil, cniplugin.CodeConfig,
			"prevResult is missing: put this plugin behind one that attaches the pod"},
		{"nothing among the addresses before", "portmap", "ADD", map[string]any{
			"prevResult":    map[string]any{"cniVersion": "1.1.0", "ips": []any{nil}},
			"runtimeConfig": withPort(8080)["runtimeConfig"],
		}, cniplugin.CodeDecode, "prevResult.ips[0] is null: leave it out"},
		{"nothing among the links before", "portmap", "ADD", map[string]any{
			"prevResult": map[string]any{"cniVersion": "0.4.0", "interfaces": []any{map[string]any{"name": "lo"}, nil},
				"ips": []any{map[string]any{"address": "10.244.1.2/24", "interface": 1}}},
			"runtimeConfig": withPort(8080)["runtimeConfig"],
		}, cniplugin.CodeDecode, "prevResult.interfaces[1] is null: leave it out"},
		{"no mode", "podweft-cni", "ADD", map[string]any{"mode": "macvlan"}, cniplugin.CodeConfig,
			`mode: macvlan is no way to attach pods: write "bridge" or "ptp", or leave it out`},
		{"who may reach a host port", "portmap", "ADD", publishing(n, map[string]any{
			"conditionsV4": []string{"-s", "192.0.2.0/24"},
		}), cniplugin.CodeField, `field "conditionsV4" with value [-s 192.0.2.0/24] is not supported: leave it out, and let a policy say who reaches the pod`},
		{"no backend", "portmap", "ADD", publishing(n, map[string]any{"backend": "ipvs"}), cniplugin.CodeConfig,
			`backend: "ipvs" is no backend: write "iptables" or "nftables", which are the same here, or leave it out`},
		{"no bit", "podweft-cni", "ADD", publishing(n, map[string]any{"markMasqBit": 32}), cniplugin.CodeConfig,
			"markMasqBit: 32 is no bit of a mark: use 0 to 31, or leave it out: nothing is marked here"},
		{"two ways to mark", "flannel", "ADD", publishing(n, map[string]any{"markMasqBit": 14, "externalSetMarkChain": "KUBE-MARK-MASQ"}),
			cniplugin.CodeConfig,
			`externalSetMarkChain: "KUBE-MARK-MASQ" cannot be beside markMasqBit: leave it out: nothing is marked here`},
		{"a chain of iptables", "portmap", "ADD", publishing(n, map[string]any{
			"backend": "nftables", "externalSetMarkChain": "KUBE-MARK-MASQ",
		}), cniplugin.CodeConfig,
			`externalSetMarkChain: "KUBE-MARK-MASQ" is a chain of iptables, and the backend nftables: leave it out: nothing is marked here`},
		{"neither true nor false", "portmap", "ADD", publishing(n, map[string]any{"snat": "no"}), cniplugin.CodeDecode,
			"the configuration is not JSON as CNI has it"},
		{"no backend of ipMasq", "bridge", "ADD", map[string]any{"ipMasqBackend": "pf"}, cniplugin.CodeConfig,
			`ipMasqBackend: "pf" is no backend: write "iptables" or "nftables", which are the same here, or leave it out`},
		{"DAD", "podweft-cni", "ADD", map[string]any{"enabledad": true}, cniplugin.CodeField,
			`field "enabledad" with value true is not supported: leave it out: no address is given twice, and waiting takes seconds`},
		{"isolated and routed", "ptp", "ADD", map[string]any{"type": "ptp", "portIsolation": true}, cniplugin.CodeField,
			`field "portIsolation" with value true is not supported: leave it out: routed pods have no neighbours, and a policy says whom they reach`},
		{"CHECK of a stranger", "podweft-cni", "CHECK", nil, cniplugin.CodeContainer, "pods/pod/eth0 is not attached to this node"},
		{"MAC", "podweft-cni", "ADD", map[string]any{"runtimeConfig": map[string]any{"mac": "x"}}, cniplugin.CodeConfig,
			`MAC: "x" is not an Ethernet address: write six pairs of hexadecimal digits, "0e:1d:2c:3b:4a:59"`},
	}
	before := n.linkNames(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := n.call(t, test.kind, test.command, n.conf(test.changes), about(pod)...)
			assert.Equal(t, 1, r.code)
			assert.Equal(t, test.code, r.Code, r)
			assert.Equal(t, test.want, r.Msg)
			assert.Equal(t, "1.1.0", r.CNIVersion)
		})
	}
	assert.Equal(t, before, n.linkNames(t), "nothing is left behind")
	pool, err := ipam.Open(ipam.Config{Path: filepath.Join(n.dir, "ipam", "pods")})
	require.NoError(t, err)
	defer pool.Close()
	all, err := pool.All(t.Context())
	require.NoError(t, err)
	assert.Empty(t, all, "nor an address")
}

func TestWishes(t *testing.T) {
	n := newNode(t)
	pod := testnet.NewNode(t, "pod")
	r := n.add(t, pod, n.conf(map[string]any{"runtimeConfig": map[string]any{
		"ips": []string{"10.244.1.77/24", "fd00:244:0:1::77"}, "mac": "02:11:22:33:44:55",
	}, "dns": map[string]any{"nameservers": []string{"10.96.0.10"}}}))
	assert.Equal(t, "10.244.1.77/24", r.IPs[0].Address)
	assert.Equal(t, "fd00:244:0:1::77/64", r.IPs[1].Address)
	assert.Equal(t, "02:11:22:33:44:55", r.Interfaces[2].Mac)
	assert.Equal(t, []string{"10.96.0.10"}, r.DNS.Nameservers)
	other := testnet.NewNode(t, "other")
	r = n.call(t, "podweft-cni", "ADD", n.conf(nil), about(other, "CNI_ARGS=IP=10.244.1.77")...)
	assert.Equal(t, cniplugin.CodeTaken, r.Code, r)
	r = n.call(t, "podweft-cni", "ADD", n.conf(nil), about(other, "CNI_ARGS=IP=10.244.1.78;MAC=02:11:22:33:44:56")...)
	require.Zero(t, r.code, r)
	assert.Equal(t, "10.244.1.78/24", r.IPs[0].Address)
}

func TestStatusWhenAddressesRunOut(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"ipam": map[string]any{"subnet": "10.9.0.0/30"}})
	require.Zero(t, n.call(t, "podweft-cni", "STATUS", conf).code)
	n.add(t, testnet.NewNode(t, "only"), conf)
	r := n.call(t, "podweft-cni", "STATUS", conf)
	assert.Equal(t, cniplugin.CodeNotReady, r.Code)
	assert.Equal(t, "no address is left: all 1 of 10.9.0.0/30 are taken: delete pods, or call GC for those that are gone", r.Msg)
	r = n.call(t, "podweft-cni", "ADD", conf, about(testnet.NewNode(t, "late"))...)
	assert.Equal(t, cniplugin.CodeExhausted, r.Code, r)
}

// TestRebootVoidsWhatWas: links and namespaces are gone by themselves, addresses and records by the boot's ID.
func TestRebootVoidsWhatWas(t *testing.T) {
	n := newNode(t)
	n.boot = "first"
	first := n.add(t, testnet.NewNode(t, "pod"), n.conf(nil))
	later := newNode(t)
	later.dir, later.boot = n.dir, "second"
	again := later.add(t, testnet.NewNode(t, "pod"), later.conf(nil))
	assert.Equal(t, first.IPs[0].Address, again.IPs[0].Address, "all are free again, and the same container's name is no conflict")
}

// TestTakeOver lets a node change its plugin while pods run that bridge and host-local had attached.
func TestTakeOver(t *testing.T) {
	n := newNode(t)
	const running = 5
	dir := filepath.Join(n.dir, "networks", "pods")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	legacy(t, n, running)
	for i := range running {
		for _, a := range []string{fmt.Sprintf("10.244.1.%d", i+2), fmt.Sprintf("fd00:244:0:1::%d", i+2)} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, a), fmt.Appendf(nil, "old%d\r\neth0", i), 0o644))
		}
	}
	conf := n.conf(map[string]any{"bridge": "old0", "ipam": map[string]any{"type": "host-local", "dataDir": filepath.Dir(dir)}})
	taken := map[string]bool{}
	for i := range 20 {
		r := n.add(t, testnet.NewNode(t, fmt.Sprintf("new%d", i)), conf)
		for _, ip := range r.IPs {
			assert.False(t, taken[ip.Address], "%s twice", ip.Address)
			taken[ip.Address] = true
		}
	}
	for i := range running {
		assert.False(t, taken[fmt.Sprintf("10.244.1.%d/24", i+2)], "an old pod has it")
	}
	for i := range running {
		r := n.call(t, "podweft-cni", "DEL", conf, "CNI_CONTAINERID=old"+fmt.Sprint(i), "CNI_IFNAME=eth0")
		require.Zero(t, r.code, r)
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left, "host-local's files go with the pods")
}

// legacy makes a bridge with ports as the bridge plugin does: no alias, no mark.
func legacy(t *testing.T, n *node, pods int) {
	t.Helper()
	conn, err := nl.Dial(n.ns.NetNS())
	require.NoError(t, err)
	defer conn.Close()
	do := func(fill func(*nl.Batch)) {
		var b nl.Batch
		fill(&b)
		require.NoError(t, errors.Join(conn.Do(t.Context(), &b)...))
	}
	do(func(b *nl.Batch) { b.CreateBridge(nl.Link{Name: "old0"}) })
	br, err := conn.Link("old0")
	require.NoError(t, err)
	do(func(b *nl.Batch) {
		b.SetUp(br.Index, true)
		b.AddAddress(nl.Address{Link: br.Index, Prefix: netip.MustParsePrefix("10.244.1.1/24")})
	})
	for i := range pods {
		inside, err := os.Open(testnet.NewNode(t, fmt.Sprintf("old%d", i)).NetNS())
		require.NoError(t, err)
		do(func(b *nl.Batch) {
			b.CreateVeth(nl.Link{Name: fmt.Sprintf("vethold%d", i), Master: br.Index}, nl.Link{Name: "eth0"}, int(inside.Fd()))
		})
		require.NoError(t, inside.Close())
	}
}

// TestLongContainerIDs: what is too long for a record is refused before anything is done.
func TestLongContainerIDs(t *testing.T) {
	n := newNode(t)
	pod := testnet.NewNode(t, "pod")
	for length, want := range map[int]uint{115: 0, 116: cniplugin.CodeEnvironment} {
		id := "CNI_CONTAINERID=" + strings.Repeat("c", length)
		for _, command := range []string{"ADD", "DEL"} {
			r := n.call(t, "podweft-cni", command, n.conf(nil), about(pod, id)...)
			assert.Equal(t, want, r.Code, "%s of %d letters: %s", command, length, r)
		}
	}
}

// TestAddressStaysWithItsLink: a DEL that cannot take the pod's link leaves it its address, and works when it comes again.
func TestAddressStaysWithItsLink(t *testing.T) {
	n := newNode(t)
	pod, heir := testnet.NewNode(t, "pod"), testnet.NewNode(t, "heir")
	r := n.add(t, pod, n.conf(nil))
	conn := dial(t, n.ns)
	mark := func(alias string) {
		t.Helper()
		var b nl.Batch
		b.Mark(nl.Link{Name: r.Interfaces[1].Name, Alias: alias})
		require.NoError(t, errors.Join(conn.Do(t.Context(), &b)...))
	}
	mark("somebody's")
	refused := n.call(t, "podweft-cni", "DEL", n.conf(nil), about(pod)...)
	assert.Equal(t, cniplugin.CodeConflict, refused.Code, refused)
	wants := about(heir, "CNI_ARGS=IP=10.244.1.2")
	taken := n.call(t, "podweft-cni", "ADD", n.conf(nil), wants...)
	assert.Equal(t, cniplugin.CodeTaken, taken.Code, taken)
	mark("podweft:pods/pod/eth0")
	again := n.call(t, "podweft-cni", "DEL", n.conf(nil), about(pod)...)
	require.Zero(t, again.code, again)
	given := n.call(t, "podweft-cni", "ADD", n.conf(nil), wants...)
	require.Zero(t, given.code, given)
}

// TestPortmapWithoutHostPorts: a container's ports that have none on the node are no reason to find any missing.
func TestPortmapWithoutHostPorts(t *testing.T) {
	n := newNode(t)
	pod := testnet.NewNode(t, "pod")
	conf := n.conf(map[string]any{
		"prevResult": result(n.add(t, pod, n.conf(nil))), "runtimeConfig": withPort(0)["runtimeConfig"],
	})
	for _, command := range []string{"ADD", "CHECK", "DEL"} {
		r := n.call(t, "portmap", command, conf, about(pod)...)
		require.Zero(t, r.code, "%s: %s", command, r)
	}
	conf["prevResult"] = map[string]any{"cniVersion": "1.1.0", "ips": []any{nil}}
	r := n.call(t, "portmap", "DEL", conf, about(pod)...)
	assert.Zero(t, r.code, "a DEL needs no result: %s", r)
}
