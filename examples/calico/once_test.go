package calico_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/testnet"
)

// TestOnce: what can be asked and done without an agent, before one has run and after.
func TestOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	one, two := w.Nodes()[0], w.Nodes()[1]
	vxlan := []string{"--backend=vxlan", "--ipv4-pool-vxlan=Always", "--ipv6-pool-vxlan=Always"}
	w.launch(t, two, vxlan...)
	p := &process{w: w, node: one, args: w.flags(one, vxlan...)}
	before := planned(p.do(t, "plan"))
	require.NotEmpty(t, before)
	assert.Contains(t, before[0], "+ link podweft-vxlan type vxlan id 4096 local 192.0.2.1 dev eth0 dstport 4789 mtu 1450")
	require.NoError(t, nothing(one))
	assert.Contains(t, p.do(t, "ipam", "check"), "0 addresses held on this one")
	assert.Equal(t, "[]\n", p.do(t, "ipam", "check", "--json"))
	assert.NoDirExists(t, filepath.Join(w.dir, one.Name), "who only asks leaves nothing")

	pods := filepath.Join(t.TempDir(), "..data") // as a mounted ConfigMap has it, behind links
	require.NoError(t, os.Mkdir(pods, 0o700))
	cluster(t, pods, map[string]string{"pod": "app: web"}, nil)
	require.NoError(t, os.Symlink("..data/pods.yaml", filepath.Join(pods, "..", "pods.yaml")))
	p.args = append(p.args, "--policies="+filepath.Dir(pods))
	first := w.launch(t, one, append(vxlan, "--policies="+filepath.Dir(pods))...)
	second, err := command(t.Context(), one, first.args...).CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(second), "another agent of this network is running here")
	assert.NotContains(t, string(second), "level=WARN", "what it did not come to is nothing to tell")
	pod := w.add(t, one, "pod")
	other := w.add(t, two, "other")
	reaches(t, pod.Node, other.addrs...)
	assert.Empty(t, planned(p.do(t, "plan")))
	rewrapped := p.do(t, "plan", "--ipv4-pool-vxlan=Never", "--ipv4-pool-ipip=Always")
	assert.Contains(t, rewrapped, "dev podweft-ipip")
	assert.NotContains(t, rewrapped, "in the way", "the routes of before are the agent's own")
	assert.Contains(t, p.do(t, "ipam", "show"), "node2")
	assert.Contains(t, p.do(t, "ipam", "check"), "blocks of 2 nodes")
	first.kill(t)

	gone := w.flags(one, append(vxlan, "ipam", "check")...)
	pod.del(t) // while no agent runs
	out, err := command(context.Background(), one, gone...).CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "ipam gc frees it")
	assert.Contains(t, p.do(t, "ipam", "gc"), pod.addrs[0].String())
	assert.Contains(t, p.do(t, "ipam", "check"), "blocks of 2 nodes")

	p.args = w.flags(one, vxlan...) // who cleans up need not know what there was
	removed := p.do(t, "cleanup")
	assert.Contains(t, removed, "- block ")
	assert.Contains(t, removed, "- table inet podweft-k8s-pod-network-policy")
	assert.Contains(t, removed, "- link podweft-vxlan")
	require.NoError(t, nothing(one))
	assert.NotContains(t, p.do(t, "ipam", "show"), "node1")
}

// nothing says what a node has beside lo and eth0.
func nothing(n *testnet.Node) error {
	links, err := n.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Name != "lo" && l.Name != "eth0" {
			return assert.AnError
		}
	}
	return nil
}
