package cri_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// containersConf makes podman use CNI, and no more of the machine than a machine of namespaces has: no journal, no systemd, no
// limits that are higher than its own.
const containersConf = `[network]
network_backend = "cni"
cni_plugin_dirs = ["%[1]s"]
network_config_dir = "%[2]s"
default_network = "pods"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
`

// TestPodman lets podman's CNI backend attach containers: by hand, on a machine without Kubernetes.
func TestPodman(t *testing.T) {
	need(t, "podman", "runc", "conmon", "unshare")
	bin, root := plugins(t), rootfs(t)
	n := cluster(t)[0]
	conf := n.dir + "/net.d"
	n.write(t, "net.d/10-pods.conflist", `{"cniVersion": "0.4.0", "name": "pods", "plugins": [
		{"type": "podweft-cni", "capabilities": {"portMappings": true, "ips": true, "mac": true}}]}`)
	n.write(t, "containers.conf", fmt.Sprintf(containersConf, bin, conf))
	n.write(t, "storage.conf", fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = \"%s/graph\"\nrunroot = \"/run/containers\"\n", n.dir))
	n.start(t, "exec sleep infinity")
	eventually(t, "the node's mounts", func(context.Context) error { // podman must not come between them
		command, err := os.ReadFile("/proc/" + n.first(t) + "/cmdline")
		if err == nil && !strings.HasPrefix(string(command), "sleep") {
			err = fmt.Errorf("it runs %q still", command)
		}
		return err
	})
	podman := func(args ...string) (string, error) {
		inside := []string{"-t", n.first(t), "-m", "-p", "env", "CONTAINERS_CONF=" + n.dir + "/containers.conf", "CONTAINERS_STORAGE_CONF=" + n.dir + "/storage.conf", "podman"}
		out, err := n.Command(t.Context(), "nsenter", append(inside, args...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	run := func(name string, args ...string) string {
		t.Helper()
		all := append([]string{"run", "-d", "--name", name, "--network", "pods", "--cgroup-parent", cgroups}, args...)
		out, err := podman(append(all, "--rootfs", root, "/podtool", "serve", "[::]:80", name)...)
		require.NoError(t, err, out)
		out, err = podman("inspect", "-f", "{{.NetworkSettings.Networks.pods.IPAddress}}", name)
		require.NoError(t, err, out)
		return out
	}
	web := run("web", "-p", "8080:80", "--ip", "10.244.1.77", "--mac-address", "02:00:00:00:00:77")
	assert.Equal(t, "10.244.1.77", web)
	other := run("other")
	get := func(url string) (text string) {
		eventually(t, url, func(context.Context) (err error) {
			text, err = podman("exec", "other", "/podtool", "get", url)
			return err
		})
		return text
	}
	assert.Equal(t, "web to "+other, get("http://"+web+"/"))
	text, err := n.get(t.Context(), "http://"+n.V4.String()+":8080/")
	require.NoError(t, err)
	assert.Contains(t, text, "web to ")
	for _, name := range []string{"web", "other"} {
		out, err := podman("rm", "-f", "-t", "0", name)
		require.NoError(t, err, out)
	}
	forgetCgroups(t)
	assert.ElementsMatch(t, []string{"lo", "eth0", "cni0"}, n.links(t))
	assert.Empty(t, n.records(t))
	entries, err := os.ReadDir(n.file("/run/podweft"))
	require.NoError(t, err)
	assert.NotEmpty(t, entries, "it is the place where we looked")
}
