package calico_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/testnet"
)

// TestCrossSubnet: pods of a rack reach each other without a tunnel, and those of the other rack through one; each family, and the
// world outside.
func TestCrossSubnet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	var agents []*calico.Agent
	var pods []*pod
	for i, n := range w.Nodes() {
		agent, _ := start(t, w.config(t, n, pools(calico.CrossSubnet)))
		agents = append(agents, agent)
		pods = append(pods, w.add(t, n, "pod"+string(rune('a'+i))))
	}
	for i, from := range pods {
		for j, to := range pods {
			if i != j {
				reaches(t, from.Node, to.addrs...)
			}
		}
		reaches(t, from.Node, w.Outside.V4, w.Outside.V6)
		reaches(t, w.Nodes()[i], pods[3-i].addrs...)
	}
	s := waitFor(t, agents[0], "routes", func(s calico.Status) bool { return len(s.Routes) >= 6 })
	for _, r := range s.Routes {
		want := map[string]string{"node2": "direct", "node3": "vxlan", "node4": "vxlan"}[r.Node]
		assert.Equal(t, want, r.Way, r.String())
	}
	assert.Zero(t, s.Failing(), "%+v", s.Parts)
	assert.Equal(t, 1450-20, s.MTU)

	// A packet of exactly the pods' MTU passes on both ways, whole.
	for _, to := range []*pod{pods[1], pods[2]} {
		for _, a := range to.addrs {
			_, err := pods[0].Echo(t.Context(), a, testnet.Echo{Size: s.MTU, DontFragment: true})
			require.NoError(t, err, a)
		}
	}
	near, far := passes(t, w, pods[0], pods[1]), passes(t, w, pods[0], pods[2])
	assert.Equal(t, "icmp", near)
	assert.Equal(t, "vxlan", far)
}

// passes says what goes over the wire when one pod pings another.
func passes(t testing.TB, w *world, from, to *pod) string {
	t.Helper()
	c, err := from.host.Capture("eth0")
	require.NoError(t, err)
	defer c.Close()
	dst := to.addrs[slices.IndexFunc(to.addrs, netip.Addr.Is4)]
	for until := time.Now().Add(patience); time.Now().Before(until); {
		_, err := from.Ping(t.Context(), dst)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		p, err := c.Await(ctx, func(p testnet.Packet) bool {
			return p.Sent && len(p.Frame) > 42 && p.Frame[12] == 8 && p.Frame[13] == 0 && (p.Frame[23] == 1 || p.Frame[23] == 17)
		})
		cancel()
		if err != nil {
			continue
		}
		if p.Frame[23] == 1 {
			return "icmp"
		}
		if port := int(p.Frame[36])<<8 | int(p.Frame[37]); port == calico.DefaultPort {
			return "vxlan"
		}
	}
	require.Fail(t, "nothing was seen to pass")
	return ""
}
