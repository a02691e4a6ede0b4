package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/podweft/podweft/e2e/cluster"
	"github.com/podweft/podweft/e2e/machine"
	"github.com/podweft/podweft/testnet"
)

// calicoNode is a node with the agent of the Calico-like network, by its image's files and its manifest's variables and rights.
type calicoNode struct {
	*testnet.Node
	t     *testing.T
	name  string
	files string // of the image
	state string
	env   []string
	cmd   *exec.Cmd
	log   buffer
}

// command is podweft-calico on the node.
func (n *calicoNode) command(args ...string) *exec.Cmd {
	cmd := n.Command(n.t.Context(), filepath.Join(n.files, "bin/podweft-calico"), append([]string{
		"--state-dir=" + n.state, "--cni-conf=" + filepath.Join(n.state, "10-podweft.conflist"), "--grace=2s",
	}, args...)...)
	cmd.Env = n.env
	return cmd
}

func (n *calicoNode) start() {
	n.t.Helper()
	n.cmd = n.command()
	n.cmd.Stderr = &n.log
	require.NoError(n.t, n.cmd.Start())
	cmd := n.cmd
	n.t.Cleanup(func() { // a second time it does nothing
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if n.t.Failed() {
			n.t.Logf("%s:\n%s", n.name, &n.log)
		}
	})
}

func (n *calicoNode) kill() {
	n.t.Helper()
	require.NoError(n.t, n.cmd.Process.Signal(syscall.SIGKILL))
	_ = n.cmd.Wait()
}

// calicoStatus is what the agent says of itself.
type calicoStatus struct {
	Ready  bool
	Blocks []struct{ Prefix netip.Prefix }
	Routes []struct{ Node string }
	BGP    struct {
		AS          uint32
		Established int
	}
}

// until waits for the agent to be as wanted.
func (n *calicoNode) until(what string, enough func(calicoStatus) bool) (s calicoStatus) {
	n.t.Helper()
	await(n.t, func() error {
		text, err := n.command("status", "--json").Output()
		s = calicoStatus{}
		if err == nil {
			err = json.Unmarshal(text, &s)
		}
		if err != nil || !enough(s) {
			return fmt.Errorf("%s waits for %s: %w: %s\n%s", n.name, what, err, text, &n.log)
		}
		return nil
	})
	return s
}

// add has the plugin attach a pod that the cluster knows, or not, and returns its address.
func (n *calicoNode) add(pod *testnet.Node) (netip.Addr, error) {
	n.t.Helper()
	raw, err := os.ReadFile(filepath.Join(n.state, "10-podweft.conflist"))
	require.NoError(n.t, err)
	var list struct {
		CNIVersion, Name string
		Plugins          []map[string]any
	}
	require.NoError(n.t, json.Unmarshal(raw, &list))
	conf := list.Plugins[0]
	conf["cniVersion"], conf["name"] = list.CNIVersion, list.Name
	stdin, err := json.Marshal(conf)
	require.NoError(n.t, err)
	cmd := n.Command(n.t.Context(), filepath.Join(n.files, "podweft-cni"))
	cmd.Stdin = strings.NewReader(string(stdin))
	cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID="+pod.Name, "CNI_NETNS="+pod.NetNS(), "CNI_IFNAME=eth0", "CNI_PATH=/none",
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME="+pod.Name)
	out, err := cmd.Output()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%w: %s", err, out)
	}
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	require.NoError(n.t, json.Unmarshal(out, &result), "%s", out)
	return result.IPs[0].Address.Addr(), nil
}

// TestCalico: two agents with Kubernetes as their only store, by the manifest's rights: blocks, nodes and policies are in the cluster;
// pods ping each other while the API server is away and agents are killed; and the blocks of a Node that is deleted are collected.
func TestCalico(t *testing.T) {
	f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 3, Outside: true})
	c := cluster.Start(t, f.Nodes[0])
	c.AddAccount("default", "default") // every pod has one
	m := c.ApplyManifest("../examples/calico/deploy/podweft-calico.yml")
	kubeconfig := c.Kubeconfig(c.Token(m.DaemonSet.Namespace, m.DaemonSet.Spec.Template.Spec.ServiceAccountName))
	files := imageFiles(t, "calico")

	var nodes []*calicoNode
	for i, name := range []string{"node-1", "node-2"} {
		at := f.Nodes[i+1]
		c.AddNode(name)
		c.PatchNode(name, fmt.Sprintf(`{"status": {"addresses": [{"type": "InternalIP", "address": %q}]}}`, at.V4), "status")
		c.PatchNode(name, `{"metadata": {"annotations": {"projectcalico.org/ASNumber": "1.10"}}}`)
		n := &calicoNode{Node: at, t: t, name: name, files: files, state: filepath.Join(t.TempDir(), "state")}
		n.env = append(os.Environ(), "NO_PROXY=*", "KUBECONFIG="+kubeconfig, "K8S_API_ENDPOINT="+c.URL())
		for _, v := range m.DaemonSet.Spec.Template.Spec.Containers[0].Env {
			if v.ValueFrom != nil {
				v.Value = name
			}
			n.env = append(n.env, v.Name+"="+v.Value)
		}
		n.start()
		n.until("readiness", func(s calicoStatus) bool { return s.Ready }) // so that the first one leads
		nodes = append(nodes, n)
	}
	var pods []*testnet.Node
	var addrs []netip.Addr
	for i, n := range nodes {
		n.until("the other node", func(s calicoStatus) bool {
			return s.Ready && s.BGP.Established == 1 && s.BGP.AS == 1<<16|10 && len(s.Blocks) == 1 && len(s.Routes) == 1
		})
		t.Logf("the agent of %s: %s", n.name, machine.Memory(n.cmd.Process.Pid))
		pod := testnet.NewNode(t, fmt.Sprintf("pod-%d", i+1))
		apply(t, c, fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {namespace: default, name: %s, labels: {app: web}},
			spec: {nodeName: %s, containers: [{name: a, image: a}]}}`, pod.Name, n.name))
		a, err := n.add(pod)
		require.NoError(t, err, "%s", &n.log)
		pods, addrs = append(pods, pod), append(addrs, a)
	}
	await(t, func() error {
		_, err := pods[0].Ping(t.Context(), addrs[1])
		return err
	})
	_, err := nodes[0].add(testnet.NewNode(t, "nobody"))
	require.ErrorContains(t, err, "the cluster has not told us of it yet")
	assert.True(t, slices.ContainsFunc(c.Node("node-1").Status.Conditions, func(of corev1.NodeCondition) bool {
		return of.Type == corev1.NodeNetworkUnavailable && of.Status == corev1.ConditionFalse
	}))

	// A policy is in force soon, and while nobody can be asked.
	apply(t, c, `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: default, name: closed},
		spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}}`)
	silent := func() error {
		_, err := pods[0].Ping(t.Context(), addrs[1])
		if err == nil {
			return fmt.Errorf("it was answered")
		}
		return nil
	}
	await(t, silent)
	c.StopServer()
	nodes[1].kill()
	nodes[1].start()
	time.Sleep(time.Second) // of an agent that can ask nobody
	require.NoError(t, silent())
	c.StartServer()
	nodes[1].until("its return", func(s calicoStatus) bool { return s.Ready && s.BGP.Established == 1 })
	require.NoError(t, silent())
	remove(t, c, "networking.k8s.io/v1", "NetworkPolicy", "default", "closed")
	await(t, func() error {
		_, err := pods[0].Ping(t.Context(), addrs[1])
		return err
	})

	// One agent collects what a node had that the cluster has no more.
	nodes[1].kill()
	c.DeleteNode("node-2")
	await(t, func() error {
		blocks, err := newBlockStore(t, c.Admin()).Blocks(t.Context(), everything)
		if err == nil && (len(blocks) != 1 || blocks[0].Shares[0].Node != "node-1") {
			err = fmt.Errorf("blocks: %v", blocks)
		}
		return err
	})
}
