package e2e

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/testnet"
)

// newPod starts a pod on the machine as a container runtime does: by the CNI configuration and with the plugins that it finds there.
func (m *player) newPod() *testnet.Node {
	m.t.Helper()
	m.packaged()
	pod := testnet.NewNode(m.t, m.pod)
	text, err := os.ReadFile(m.host(conflist))
	require.NoError(m.t, err)
	var list struct {
		Name, CNIVersion string
		Plugins          []map[string]any
	}
	require.NoError(m.t, json.Unmarshal(text, &list))
	require.NotEmpty(m.t, list.Plugins)
	var result map[string]any
	for _, conf := range list.Plugins {
		conf["name"], conf["cniVersion"] = list.Name, list.CNIVersion
		if result != nil {
			conf["prevResult"] = result
		}
		result = m.plugin(conf, pod)
	}
	var given struct {
		IPs []struct{ Address netip.Prefix }
	}
	text, err = json.Marshal(result)
	require.NoError(m.t, err)
	require.NoError(m.t, json.Unmarshal(text, &given))
	require.Len(m.t, given.IPs, 1, "%s", text)
	pod.V4 = given.IPs[0].Address.Addr()
	return pod
}

// plugin runs a plugin's ADD. The machine's disk is all that it sees of files.
func (m *player) plugin(conf map[string]any, pod *testnet.Node) (result map[string]any) {
	m.t.Helper()
	stdin, err := json.Marshal(conf)
	require.NoError(m.t, err)
	require.NoError(m.t, os.MkdirAll(m.host("/proc"), 0o755))
	cmd := m.Command(m.t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount -t proc proc "$1/proc" && exec chroot "$1" "$2"`, "sh", m.host("/"), "/opt/cni/bin/"+conf["type"].(string))
	cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID="+pod.Name, "CNI_NETNS="+pod.NetNS(), "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	require.NoError(m.t, cmd.Run(), "%s%s", &stdout, &stderr)
	require.NoError(m.t, json.Unmarshal(stdout.Bytes(), &result))
	return result
}

// packaged puts the plugins there, if no init container did: a manifest for flannel 0.14 takes it that a package of the node's
// distribution has.
func (m *player) packaged() {
	m.t.Helper()
	bin := m.host("/opt/cni/bin")
	if _, err := os.Stat(filepath.Join(bin, "flannel")); err == nil {
		return
	}
	require.NoError(m.t, os.MkdirAll(bin, 0o755))
	for _, name := range []string{"flannel", "portmap"} {
		out, err := exec.Command("cp", filepath.Join(imageFiles(m.t, "flannel"), "flannel"), filepath.Join(bin, name)).CombinedOutput()
		require.NoError(m.t, err, "%s", out)
	}
}
