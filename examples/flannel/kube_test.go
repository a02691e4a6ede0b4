package flannel

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/node"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/testnet"
)

// TestPrefer: the address that an operator has chosen for a node counts more than flags that all nodes have.
func TestPrefer(t *testing.T) {
	n := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1}).Nodes[0]
	for _, flags := range [][]string{nil, {"--iface=none0", "--iface-regex=^none"}, {"--iface=eth0"}, {"--public-ip=192.0.2.99"}} {
		o, _, err := ParseOptions(append(flags, "--netns="+n.NetNS()), func(string) string { return "" }, io.Discard)
		require.NoError(t, err)
		before := slices.Clone(o.choices)
		o.prefer(subnet.Addrs{})
		assert.Equal(t, before, o.choices, "nobody has chosen")
		o.prefer(subnet.Addrs{V4: n.V4, V6: n.V6})
		require.NoError(t, o.chooseUnderlay(t.Context()), flags)
		assert.Equal(t, node.Choice{Name: n.V4.String(), Public: subnet.Addrs{V4: n.V4, V6: n.V6}}, o.Underlay, flags)
	}
	// That of a NAT: flags go on saying what stands behind it.
	o, _, err := ParseOptions([]string{"--iface=none0", "--iface=eth0", "--netns=" + n.NetNS()}, func(string) string { return "" }, io.Discard)
	require.NoError(t, err)
	chosen := subnet.Addrs{V4: netip.MustParseAddr("203.0.113.7")}
	o.prefer(chosen)
	require.NoError(t, o.chooseUnderlay(t.Context()))
	assert.Equal(t, node.Choice{Name: "eth0", Public: chosen}, o.Underlay)
}

// TestKubeRefusals: what cannot work in Kubernetes ends with one sentence. What works there is tried in e2e.
func TestKubeRefusals(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	good := "--net-config-path=" + write("good.json", vxlanConf)
	bad := "--net-config-path=" + write("bad.json", `{"Network": "10.244.0.0"}`)
	nowhere := "--kube-api-url=https://127.0.0.1:1"
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"no cluster", []string{good}, "neither --kubeconfig-file nor --kube-api-url says where one is"},
		{"no kubeconfig", []string{good, "--kubeconfig-file=" + filepath.Join(dir, "none")}, "--kubeconfig-file: "},
		{"no network", []string{nowhere, "--net-config-path=" + filepath.Join(dir, "none")}, "--net-config-path: "},
		{"bad network", []string{nowhere, bad}, "bad.json: Network: "},
		{"bad prefix", []string{nowhere, good, "--kube-annotation-prefix=a b"}, "cannot begin the name of an annotation"},
		{"API server away", []string{nowhere, good, "--store-wait=100ms"}, "the API server has not answered within 100ms: look up the node a: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, log bytes.Buffer
			args := append([]string{"--node-name=a", "--kube-subnet-mgr", "--subnet-file=" + dir + "/s", "--state-file=" + dir + "/l", "--cni-state-dir=" + dir + "/c"}, tc.args...)
			assert.Equal(t, 1, run(t.Context(), args, func(string) string { return "" }, &out, &log))
			assert.Contains(t, log.String(), tc.want)
			assert.Equal(t, 1, strings.Count(log.String(), "podweft-flannel:"))
		})
	}
}
