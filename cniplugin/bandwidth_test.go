package cniplugin_test

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

// TestBandwidth: the runtime's limits are on both ends of the pod's link, or those of the configuration, as with the bandwidth plugin.
// CHECK sees them go. Package bridge measures traffic.
func TestBandwidth(t *testing.T) {
	limits := map[string]any{"ingressRate": 8_000_000, "ingressBurst": 1_000_000, "egressRate": 16_000_000, "egressBurst": 1_000_000}
	asked := map[string]any{"runtimeConfig": map[string]any{"bandwidth": limits}}
	own := maps.Clone(limits)
	own["runtimeConfig"] = map[string]any{"bandwidth": map[string]any{"ingressRate": 1_000_000}}
	for _, test := range []struct {
		name, kind string
		changes    map[string]any
	}{
		{"ours", "podweft-cni", asked},
		{"routed", "ptp", asked},
		{"flannel", "flannel", asked},
		{"ours, by the configuration", "podweft-cni", own},
		{"routed, by the configuration", "ptp", own},
		{"flannel, by the configuration", "flannel", own},
		{"flannel, by the delegate's", "flannel", map[string]any{"delegate": limits}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t)
			pod := testnet.NewNode(t, "pod")
			kind := test.kind
			conf := with(n.conf(map[string]any{"type": kind}), test.changes)
			r := n.call(t, kind, "ADD", conf, about(pod)...)
			require.Zero(t, r.code, r)
			host, inPod := dial(t, n.ns), dial(t, pod)
			toPod, ofPod := -1, -1
			for _, l := range r.Interfaces {
				switch {
				case l.Sandbox != "":
					ofPod = index(t, inPod, l.Name)
				default:
					toPod = index(t, host, l.Name) // the last: a bridge comes first
				}
			}
			assert.EqualValues(t, 1_000_000, rate(t, host, toPod))
			assert.EqualValues(t, 2_000_000, rate(t, inPod, ofPod))

			conf["prevResult"] = result(r)
			r = n.call(t, kind, "CHECK", conf, about(pod)...)
			require.Zero(t, r.code, r)
			var b nl.Batch
			b.SetTokenBucket(ofPod, nl.TokenBucket{Rate: 1 << 30, Burst: 1 << 20, Queue: 1 << 20})
			require.Empty(t, inPod.Do(t.Context(), &b))
			r = n.call(t, kind, "CHECK", conf, about(pod)...)
			assert.Equal(t, cniplugin.CodeMissing, r.Code)
			assert.Contains(t, r.Msg+r.Details, "rate 16000000bit of link eth0: is missing")
			r = n.call(t, kind, "DEL", conf, about(pod)...)
			require.Zero(t, r.code, r)
		})
	}
}

func dial(t *testing.T, n *testnet.Node) *nl.Conn {
	t.Helper()
	c, err := nl.Dial(n.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func index(t *testing.T, c *nl.Conn, name string) int {
	t.Helper()
	l, err := c.Link(name)
	require.NoError(t, err)
	return l.Index
}

func rate(t *testing.T, c *nl.Conn, link int) uint64 {
	t.Helper()
	r, err := c.TokenBucket(t.Context(), link)
	require.NoError(t, err)
	return r.Rate
}
