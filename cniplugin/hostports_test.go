package cniplugin_test

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/testnet"
)

// TestOddHostPorts: what runtimes make of their users' wishes. Whatever an ADD makes of it, the DEL afterwards works.
func TestOddHostPorts(t *testing.T) {
	on := func(hostIP string, container int) map[string]any {
		return map[string]any{"hostPort": 8080, "containerPort": container, "protocol": "tcp", "hostIP": hostIP}
	}
	for _, tt := range []struct {
		name  string
		ports []any
		want  int    // elements of the IPv4 map
		wrong string // else
		dual  bool
	}{
		{"everywhere, and on every IPv4 address", []any{on("", 80), on("0.0.0.0", 80)}, 1, "", false},
		{"each family's every address, a pod of one", []any{on("::", 80), on("0.0.0.0", 80)}, 1, "", false},
		{"an address of each family, a pod of one", []any{on("192.0.2.1", 80), on("2001:db8::1", 80)}, 0, "", false},
		{"twice", []any{on("", 80), on("", 80)}, 1, "", false},
		{"IPv4 as IPv6", []any{on("::ffff:0.0.0.0", 80)}, 1, "", true},
		{"the other family alone", []any{on("::", 80)}, 0, "runtimeConfig.portMappings: :: is of a family that the pod has no address of", false},
		{"another port of the other family", []any{on("::", 81), on("0.0.0.0", 80)}, 0, "is of a family that the pod has no address of", false},
		{"to two ports", []any{on("", 80), on("", 81)}, 0, "leads to port 80 of the pod already", false},
		{"to two ports, written otherwise", []any{on("", 80), on("0.0.0.0", 81)}, 0, "leads to port 80 of the pod already", false},
		{"a link's address", []any{on("fe80::1%eth0", 80)}, 0, `runtimeConfig.portMappings[0].hostIP: "fe80::1%eth0" is of one link alone`, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			pod := testnet.NewNode(t, "pod")
			conf := n.conf(map[string]any{"runtimeConfig": map[string]any{"portMappings": tt.ports}})
			if !tt.dual {
				conf["ipam"] = map[string]any{"subnet": "10.244.1.0/24"}
			}
			r := n.call(t, "podweft-cni", "ADD", conf, about(pod)...)
			if tt.wrong != "" {
				assert.Equal(t, cniplugin.CodeConfig, r.Code, r)
				assert.Contains(t, r.Msg+r.Details, tt.wrong)
			} else {
				require.Zero(t, r.code, r)
				assert.Equal(t, tt.want, n.hostPorts(t))
				conf["prevResult"] = result(r)
				r = n.call(t, "podweft-cni", "CHECK", conf, about(pod)...)
				assert.Zero(t, r.code, r)
			}
			r = n.call(t, "podweft-cni", "DEL", conf, about(pod)...)
			assert.Zero(t, r.code, r)
			left, err := filepath.Glob(filepath.Join(n.dir, "hostports", "*"))
			require.NoError(t, err)
			assert.Empty(t, left)
		})
	}
}

// TestOddRecordsOfHostPorts: an agent leaves out what makes no sense, or is another's, and keeps the rest.
func TestOddRecordsOfHostPorts(t *testing.T) {
	n := newNode(t)
	pod := testnet.NewNode(t, "pod")
	n.add(t, pod, n.conf(withPort(8080)))
	records, err := local.Open(filepath.Join(n.dir, "hostports"), n.boot)
	require.NoError(t, err)
	for name, hostIP := range map[string]string{"killed": "0.0.0.0", "odd": "fe80::1%eth0"} {
		address := netip.MustParsePrefix("10.244.1.77/24")
		if name == "odd" {
			address = netip.MustParsePrefix("fd00:244:0:1::77/64")
		}
		require.NoError(t, records.Put(local.Record{
			Network: "pods", Container: name, Interface: "eth0", Addresses: []netip.Prefix{address},
			HostPorts: []local.HostPort{{Protocol: "tcp", HostIP: netip.MustParseAddr(hostIP), Host: 8080, Pod: 80}},
		}))
	}
	odd, err := records.Get(local.Key{Network: "pods", Container: "odd", Interface: "eth0"})
	require.NoError(t, err)
	r := n.call(t, "podweft-cni", "DEL", n.conf(nil), about(testnet.NewNode(t, "alone"), "CNI_CONTAINERID=odd")...)
	require.Zero(t, r.code, "without an agent: %s", r)
	_, err = records.Get(odd.Key())
	require.ErrorIs(t, err, local.ErrNoRecord)
	require.NoError(t, records.Put(odd))
	n.agent(t)
	c, err := nft.Open(n.ns.NetNS())
	require.NoError(t, err)
	defer c.Close()
	table := nft.Table{Family: nft.INet, Name: "podweft-pods-hostports"}
	var b nft.Batch
	b.DeleteTable(table)
	require.NoError(t, c.Commit(t.Context(), &b))
	require.Eventually(t, func() bool {
		rules, err := c.Rules(t.Context(), table)
		return err == nil && len(rules) > 0 && n.hostPorts(t) == 1
	}, patience, time.Millisecond)
	for _, container := range []string{"odd", "killed", "pod"} {
		r := n.call(t, "podweft-cni", "DEL", n.conf(nil), about(testnet.NewNode(t, container))...)
		assert.Zero(t, r.code, r)
	}
	assert.Zero(t, n.hostPorts(t))
}
