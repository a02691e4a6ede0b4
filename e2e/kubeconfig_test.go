package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/e2e/cluster"
	"github.com/podweft/podweft/testnet"
)

// TestKubeconfig: the daemon outside of a pod, by flanneld's other flags: dual-stack, with a prefix of its own, at the address that an
// operator has chosen. A restart keeps its VTEP, and a reboot too.
func TestKubeconfig(t *testing.T) {
	files := imageFiles(t, "flannel")
	f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 2, Outside: true})
	c := cluster.Start(t, f.Nodes[0])
	m := c.ApplyManifest("../examples/flannel/deploy/podweft-flannel.yml") // for the account's rights
	c.AddNode("worker", "10.244.1.0/24", "fd00:244:0:1::/64")
	c.Annotate("worker", map[string]any{
		"example.com/blue-node-public-ip":         f.Nodes[1].V4.String(),
		"example.com/blue-public-ipv6-overwrite":  "2001:db8:7::7",
		"flannel.alpha.coreos.com/node-public-ip": "203.0.113.99", // another network's
	})
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.WriteFile(path("net-conf.json"),
		[]byte(`{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:244::/48", "Backend": {"Type": "vxlan"}}`), 0o600))
	var log buffer
	command := func(args ...string) *exec.Cmd {
		cmd := f.Nodes[1].Command(t.Context(), filepath.Join(files, "opt/bin/flanneld"), append([]string{
			"--kube-subnet-mgr", "--kubeconfig-file", c.Kubeconfig(c.Token(m.DaemonSet.Namespace, "flannel")), "--kube-api-url", c.URL(),
			"--kube-annotation-prefix", "example.com/blue", "--net-config-path", path("net-conf.json"),
			"--subnet-file", path("run/subnet.env"), "--state-file", path("run/lease.json"), "--set-node-network-unavailable=false",
		}, args...)...)
		cmd.Env = append(os.Environ(), "NODE_NAME=worker", "POD_NAME=", "NO_PROXY=*")
		return cmd
	}
	plan, err := command("plan").CombinedOutput()
	require.NoError(t, err, "%s", plan)
	assert.Contains(t, string(plan), "lease 10.244.1.0/24, fd00:244:0:1::/64 of worker")
	assert.NotContains(t, c.Node("worker").Annotations, "example.com/blue-public-ip", "a dry run writes nothing")

	macs := func() (all [2]string) {
		for i, name := range []string{"backend-data", "backend-v6-data"} {
			var data struct{ VtepMAC string }
			text := c.Node("worker").Annotations["example.com/blue-"+name]
			require.NoError(t, json.Unmarshal([]byte(text), &data), "%q", text)
			all[i] = data.VtepMAC
		}
		return all
	}
	run := func() (stop func()) {
		cmd := command()
		cmd.Stderr = &log
		require.NoError(t, cmd.Start())
		end := func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
		t.Cleanup(end) // a second time it does nothing
		await(t, func() error {
			if _, err := os.Stat(path("run/subnet.env")); err != nil {
				return fmt.Errorf("%w\n%s", err, &log)
			}
			return nil
		})
		return end
	}
	stop := run()
	env, err := os.ReadFile(path("run/subnet.env"))
	require.NoError(t, err)
	assert.Equal(t, "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:244::/48\n"+
		"FLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n", string(env), "%s", &log)
	annotations := c.Node("worker").Annotations
	assert.Equal(t, f.Nodes[1].V4.String(), annotations["example.com/blue-public-ip"])
	assert.Equal(t, "2001:db8:7::7", annotations["example.com/blue-public-ipv6"])
	assert.NotContains(t, annotations, "flannel.alpha.coreos.com/public-ip")
	assert.Error(t, available(c.Node("worker")), "it was not to say so")
	before := macs()
	stop()

	// A reboot: what is in /run and in the kernel is gone.
	require.NoError(t, os.RemoveAll(path("run")))
	for _, link := range []string{"flannel.1", "flannel-v6.1"} {
		out, err := f.Nodes[1].Command(t.Context(), "ip", "link", "delete", link).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	run()()
	assert.Equal(t, before, macs(), "peers have to learn a new VTEP after a reboot")
}
