package cniplugin_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/testnet"
)

// TestTutorialsList takes the list that flannel's manifest installs as it is, with the directories that it implies, and no
// plugin but this one.
func TestTutorialsList(t *testing.T) {
	testnet.Require(t)
	for _, path := range []string{"/run", "/var/lib"} { // ours alone: this process has a mount namespace
		require.NoError(t, unix.Mount("test", path, "tmpfs", 0, ""))
		t.Cleanup(func() { assert.NoError(t, unix.Unmount(path, unix.MNT_DETACH)) })
	}
	t.Cleanup(func() { forgetBridge(t, "cbr0") })
	raw, err := os.ReadFile("testdata/cni-conf.json")
	require.NoError(t, err)
	list, err := libcni.ConfListFromBytes(raw)
	require.NoError(t, err)
	cni := libcni.NewCNIConfigWithCacheDir([]string{plugins(t)}, t.TempDir(), nil)
	pod, other := testnet.NewNode(t, "pod"), testnet.NewNode(t, "other")
	conf := func(pod *testnet.Node) *libcni.RuntimeConf {
		return &libcni.RuntimeConf{
			ContainerID: pod.Name, NetNS: pod.NetNS(), IfName: "eth0",
			Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", pod.Name}},
			CapabilityArgs: map[string]any{"portMappings": []any{
				map[string]any{"HostPort": 8080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": ""}, // as containerd spells them
			}},
		}
	}
	_, err = cni.AddNetworkList(t.Context(), list, conf(pod))
	require.ErrorContains(t, err, "no subnet lease yet: is podweft-flannel running? looked for /run/flannel/subnet.env")
	require.NoError(t, os.MkdirAll("/run/flannel", 0o755))
	require.NoError(t, os.WriteFile("/run/flannel/subnet.env", []byte(subnetEnv), 0o644))

	r, err := cni.AddNetworkList(t.Context(), list, conf(pod))
	require.NoError(t, err)
	assert.Equal(t, "0.3.1", r.Version())
	full, err := types100.GetResult(r)
	require.NoError(t, err)
	require.Len(t, full.IPs, 2)
	assert.Equal(t, "10.244.1.2/24", full.IPs[0].Address.String())
	ports := nft.Set{
		Table: nft.Table{Family: nft.INet, Name: "podweft-cbr0-hostports"}, Name: "ports4",
		Key: nft.Concat(nft.InetProto, nft.InetService), Data: nft.Concat(nft.IPv4Addr, nft.InetService),
	}
	assert.Equal(t, []string{"element inet podweft-cbr0-hostports ports4 { tcp . 8080 : 10.244.1.2 . 80 }"}, elements(t, ports))

	_, err = cni.AddNetworkList(t.Context(), list, conf(other))
	require.ErrorContains(t, err, "a host port that was asked for leads to another pod of this node")
	require.NoError(t, cni.DelNetworkList(t.Context(), list, conf(other)), "as after every ADD that failed")
	_, err = pod.Ping(t.Context(), netip.MustParseAddr("10.244.1.1"))
	require.NoError(t, err)

	require.NoError(t, os.Remove("/run/flannel/subnet.env"))
	gone := conf(pod)
	gone.NetNS = ""
	require.NoError(t, cni.DelNetworkList(t.Context(), list, gone))
	assert.Empty(t, elements(t, ports))
	var left []string
	for _, dir := range []string{"/run/podweft/attachments", "/run/podweft/hostports"} {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			left = append(left, e.Name())
		}
	}
	assert.Empty(t, left)
}

// elements lists a set of the process's own namespace.
func elements(t *testing.T, s nft.Set) (all []string) {
	t.Helper()
	conn, err := nft.Open("")
	require.NoError(t, err)
	defer conn.Close()
	list, err := conn.Elements(t.Context(), s)
	require.NoError(t, err)
	for _, e := range list {
		all = append(all, nft.SetElement{Set: s, Element: e}.String())
	}
	return all
}
