package cniplugin_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

// publishing is a configuration that asks for port 8080 of the node, behind a plugin that has attached a pod.
func publishing(n *node, changes map[string]any) map[string]any {
	return with(n.conf(withPort(8080)), with(map[string]any{
		"prevResult": map[string]any{"cniVersion": "1.1.0", "ips": []any{map[string]any{"address": "10.244.1.2/24"}}},
	}, changes))
}

// localnet reports whether packets of the node to itself may leave through the link.
func (n *node) localnet(t *testing.T, link string) bool {
	t.Helper()
	var text []byte
	require.NoError(t, n.ns.Do(func() (err error) {
		text, err = os.ReadFile("/proc/sys/net/ipv4/conf/" + link + "/route_localnet")
		return err
	}))
	return strings.TrimSpace(string(text)) == "1"
}

// TestSNAT: with "snat": false a host port leaves everybody's address as it is, so that 127.0.0.1 leads nowhere, whoever opens it, and
// whoever keeps it open. What else the portmap plugin takes changes nothing.
func TestSNAT(t *testing.T) {
	marked := map[string]any{"snat": true, "backend": "iptables", "externalSetMarkChain": "KUBE-MARK-MASQ"}
	no := map[string]any{"snat": false, "backend": "nftables", "markMasqBit": 14}
	for _, test := range []struct {
		name, kind string
		changes    map[string]any
		keeps      bool
	}{
		{"ours", "podweft-cni", no, true},
		{"bridge", "bridge", no, true},
		{"routed", "ptp", no, true},
		{"flannel", "flannel", no, true},
		{"flannel's delegate", "flannel", map[string]any{"delegate": no, "snat": true}, true},
		{"flannel's delegate, routed", "flannel", with(no, map[string]any{"delegate": map[string]any{"type": "ptp"}}), true},
		{"portmap", "portmap", no, true},
		{"ours, marked", "podweft-cni", marked, false},
		{"flannel, marked", "flannel", marked, false},
		{"portmap, marked", "portmap", marked, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t)
			own, err := n.ns.Command(t.Context(), "ip", "address", "add", "192.0.2.1/32", "dev", "lo").CombinedOutput()
			require.NoError(t, err, string(own))
			pod := testnet.NewNode(t, "pod")
			sabotage.Serve(t, pod)
			conf := with(n.conf(withPort(8080)), with(test.changes, map[string]any{"type": test.kind}))
			if test.kind == "bridge" {
				conf["isGateway"] = true
			}
			if test.kind == "portmap" {
				conf["prevResult"] = result(n.add(t, pod, n.conf(nil)))
			}
			r := n.call(t, test.kind, "ADD", conf, about(pod)...)
			require.Zero(t, r.code, r)
			conf["prevResult"] = result(r)
			ports, err := nat.NewPorts(nat.Config{Owner: "pods", NetNS: n.ns.NetNS()})
			require.NoError(t, err)
			defer ports.Close()
			var want, other []nat.HostPort
			for _, ip := range r.IPs {
				at := netip.AddrPortFrom(netip.MustParsePrefix(ip.Address).Addr(), 80)
				h := nat.HostPort{Protocol: nat.TCP, Port: 8080, Pod: at, KeepSource: test.keeps}
				want = append(want, h)
				h.KeepSource = !test.keeps
				other = append(other, h)
			}
			isSo := func() bool {
				missing, err := ports.Missing(t.Context(), want)
				return err == nil && len(missing) == 0
			}
			check := func() reply { return n.call(t, test.kind, "CHECK", conf, about(pod)...) }
			assert.True(t, isSo())
			assert.Equal(t, !test.keeps, n.localnet(t, r.Interfaces[0].Name))
			checked := check()
			require.Zero(t, checked.code, checked)
			to := "10.244.1.1"
			if r.Interfaces[0].Name != "cni0" { // routed
				to = "192.0.2.1"
			}
			who, err := n.who(to+":8080", patience)
			require.NoError(t, err)
			assert.Equal(t, "pod", who)
			if who, err = n.who("127.0.0.1:8080", map[bool]time.Duration{true: silence, false: patience}[test.keeps]); test.keeps {
				assert.Error(t, err)
			} else {
				require.NoError(t, err)
				assert.Equal(t, "pod", who)
			}

			damage := func() {
				require.NoError(t, ports.Remove(t.Context(), want))
				require.NoError(t, ports.Add(t.Context(), other))
			}
			damage()
			checked = check()
			assert.Equal(t, cniplugin.CodeMissing, checked.Code, checked)
			for range 2 {
				stop := n.agent(t)
				require.Eventually(t, isSo, patience, time.Millisecond, "an agent that starts mends it")
				damage()
				require.Eventually(t, isSo, patience, time.Millisecond, "and one that runs")
				_, err = ports.Teardown(t.Context())
				require.NoError(t, err)
				require.Eventually(t, isSo, patience, time.Millisecond)
				stop()
			}
			checked = check()
			require.Zero(t, checked.code, checked)
			gone := n.call(t, test.kind, "DEL", n.conf(map[string]any{"type": test.kind}), about(pod)...)
			require.Zero(t, gone.code, gone)
			var near []netip.Prefix
			for _, h := range want {
				near = append(near, netip.PrefixFrom(h.Pod.Addr(), map[bool]int{true: 24, false: 64}[h.Pod.Addr().Is4()]).Masked())
			}
			plan, err := ports.Plan(t.Context(), nat.PortSpec{Ports: []nat.HostPort{}, Near: near})
			require.NoError(t, err)
			assert.Empty(t, plan.String(), "nothing of it is left")
		})
	}
}
