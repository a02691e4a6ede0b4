package cniplugin_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/testnet"
)

// lan is a plugin that notes how it is called.
func lan(t *testing.T) (dir string, calls func() []string) {
	t.Helper()
	dir = t.TempDir()
	log := filepath.Join(dir, "log")
	script := "#!/bin/sh\necho \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $(cat)\" >>" + log + "\n" + `[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "'$CNI_NETNS'"}], "ips": [{"address": "198.18.7.9/24", "interface": 0}]}'
`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "lan"), []byte(script), 0o700))
	return dir, func() []string {
		raw, err := os.ReadFile(log)
		require.NoError(t, err)
		require.NoError(t, os.Truncate(log, 0))
		return strings.Split(strings.TrimSpace(string(raw)), "\n")
	}
}

// TestDelegateOfAnotherType: a program on CNI_PATH attaches the pods, and gets every call that concerns them.
func TestDelegateOfAnotherType(t *testing.T) {
	n := newNode(t)
	pod, dead := testnet.NewNode(t, "pod"), testnet.NewNode(t, "dead")
	dir, calls := lan(t)
	conf := func(changes map[string]any) map[string]any {
		c := n.conf(changes)
		c["type"], c["delegate"] = "flannel", map[string]any{"type": "lan"}
		return c
	}
	call := func(command string, pod *testnet.Node, changes map[string]any) reply {
		t.Helper()
		r := n.call(t, "flannel", command, conf(changes), about(pod, "CNI_PATH="+dir)...)
		require.Zero(t, r.code, r)
		return r
	}
	limited := map[string]any{"runtimeConfig": map[string]any{"bandwidth": map[string]any{"egressRate": 8_000_000, "egressBurst": 80_000}}}
	r := call("ADD", pod, limited)
	assert.Equal(t, "198.18.7.9/24", r.IPs[0].Address)
	added := calls()
	require.Len(t, added, 1)
	assert.Regexp(t, `^ADD pod eth0 `, added[0])
	assert.Contains(t, added[0], `"bandwidth":{"egressBurst":80000,"egressRate":8000000}`)
	assert.Contains(t, added[0], `"ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00:244:0:1::/64"}]]`)
	call("CHECK", pod, map[string]any{"prevResult": result(r)})
	assert.Regexp(t, `^CHECK pod eth0 .*"prevResult"`, calls()[0])
	call("STATUS", pod, nil)
	assert.Regexp(t, `^STATUS `, calls()[0])

	call("ADD", dead, nil)
	calls()
	valid := conf(map[string]any{"cni.dev/valid-attachments": []any{map[string]any{"containerID": "pod", "ifname": "eth0"}}})
	r = n.call(t, "flannel", "GC", valid, "CNI_PATH="+dir)
	require.Zero(t, r.code, r)
	collected := calls()
	require.Len(t, collected, 2)
	assert.Regexp(t, `^DEL dead eth0 `, collected[0])
	assert.Regexp(t, `^GC .*"cni.dev/valid-attachments":\[{"containerID":"pod"`, collected[1])

	call("DEL", pod, nil)
	assert.Regexp(t, `^DEL pod eth0 .*"ranges"`, calls()[0], "as it was added")
	call("DEL", pod, nil)
	refused := n.call(t, "flannel", "ADD", conf(map[string]any{"requireAgent": true}), about(pod, "CNI_PATH="+dir)...)
	assert.Equal(t, cniplugin.CodeTryAgain, refused.Code, refused)
	undone := calls()
	require.Len(t, undone, 2)
	assert.Regexp(t, `^DEL pod eth0 `, undone[1], "it is not let in, so it goes")
	left, err := os.ReadDir(filepath.Join(n.dir, "attachments"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

// TestFlannelRequiresTheAgent: what stands beside the delegate holds for it.
func TestFlannelRequiresTheAgent(t *testing.T) {
	n := newNode(t)
	conf := n.tutorial()
	conf["requireAgent"] = true
	r := n.call(t, "flannel", "ADD", conf, about(testnet.NewNode(t, "pod"))...)
	assert.Equal(t, cniplugin.CodeTryAgain, r.Code, r)
	assert.Equal(t, []string{"lo", "cni0"}, n.linkNames(t))
}

// TestDELByTheProgramOfItsADD: whoever gave the addresses takes them back, whomever the configuration names by then.
func TestDELByTheProgramOfItsADD(t *testing.T) {
	n := newNode(t)
	dir, calls := lan(t)
	elsewhere := n.conf(map[string]any{"ipam": map[string]any{"type": "lan"}})
	call := func(command string, pod *testnet.Node, conf any, more ...string) {
		t.Helper()
		r := n.call(t, "podweft-cni", command, conf, about(pod, append([]string{"CNI_PATH=" + dir}, more...)...)...)
		require.Zero(t, r.code, r)
	}
	pod := testnet.NewNode(t, "pod")
	call("ADD", pod, elsewhere)
	calls()
	call("DEL", pod, n.conf(nil))
	asked := calls()
	require.Len(t, asked, 1)
	assert.Regexp(t, `^DEL pod eth0 .*"ipam":{"type":"lan"}`, asked[0])

	before := n.linkNames(t)
	call("ADD", pod, elsewhere)
	calls()
	call("DEL", pod, n.conf(nil), "CNI_PATH=/nowhere")
	assert.Equal(t, before, n.linkNames(t), "the pod goes though the program has gone before")

	const wanted = "CNI_ARGS=IP=10.244.1.9"
	call("ADD", pod, n.conf(nil), wanted)
	call("DEL", pod, elsewhere)
	call("ADD", testnet.NewNode(t, "heir"), n.conf(nil), wanted)
	assert.Equal(t, []string{""}, calls(), "the program gave nothing")
}
