package cniplugin_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/cnitest"
	"github.com/podweft/podweft/testnet"
)

// TestConformance goes through the checklist with this plugin as the program that a runtime starts, in every version and as
// every plugin that it answers for.
func TestConformance(t *testing.T) {
	testnet.Require(t)
	ours := func(n *node, cniVersion string) map[string]any {
		return map[string]any{"cniVersion": cniVersion, "name": "pods", "plugins": []any{
			n.conf(map[string]any{"bridge": "pods0", "capabilities": map[string]bool{"portMappings": true, "ips": true}}),
		}}
	}
	small := func(n *node, cniVersion string) map[string]any { // a subnet that is used up if addresses stay with pods that are gone
		return map[string]any{"cniVersion": cniVersion, "name": "pods", "plugins": []any{n.conf(map[string]any{
			"bridge": "pods0", "capabilities": map[string]bool{"ips": true},
			"ipam": map[string]any{"type": "host-local", "ranges": [][]map[string]string{{{"subnet": "10.77.0.0/28"}}}},
		})}}
	}
	ptp := func(n *node, cniVersion string) map[string]any {
		return map[string]any{"cniVersion": cniVersion, "name": "pods", "plugins": []any{
			n.conf(map[string]any{"type": "ptp", "capabilities": map[string]bool{"portMappings": true, "ips": true}}),
		}}
	}
	flannel := func(n *node, cniVersion string) map[string]any {
		return map[string]any{"cniVersion": cniVersion, "name": "cbr0", "plugins": []any{
			n.conf(map[string]any{"type": "flannel", "delegate": map[string]any{"hairpinMode": true, "isDefaultGateway": true}}),
			map[string]any{"type": "portmap", "stateDir": n.dir, "capabilities": map[string]bool{"portMappings": true}},
		}}
	}
	tests := []struct {
		name string
		list map[string]any
	}{
		{"ours, 1.1.0", ours(newNode(t), "1.1.0")},
		{"ours, 0.4.0", ours(newNode(t), "0.4.0")},
		{"small, 1.1.0", small(newNode(t), "1.1.0")},
		{"routed, 1.1.0", ptp(newNode(t), "1.1.0")},
		{"routed, 0.4.0", ptp(newNode(t), "0.4.0")},
		{"flannel and portmap, 1.0.0", flannel(newNode(t), "1.0.0")},
		{"flannel and portmap, 0.3.1", flannel(newNode(t), "0.3.1")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Cleanup(func() { forgetBridges(t) })
			raw, err := json.Marshal(test.list)
			require.NoError(t, err)
			cnitest.Test(t, cnitest.Config{Dir: plugins(t), List: raw})
		})
	}
}

// forgetBridges removes the networks' bridges from the process's own namespace: they stay when the last pod has gone.
func forgetBridges(t testing.TB) {
	for _, network := range []string{"pods", "cbr0"} {
		forgetBridge(t, network)
	}
}

func forgetBridge(t testing.TB, network string) {
	a, err := bridge.New(bridge.Config{Owner: network})
	require.NoError(t, err)
	assert.NoError(t, a.Teardown(context.Background()))
	require.NoError(t, a.Close())
}
