package cri_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// containerdConfig needs its directory, that of plugins and that of the network's configuration.
const containerdConfig = `version = 2
root = "%[1]s/root"
state = "/run/containerd"
[grpc]
  address = "%[1]s/c.sock"
[ttrpc]
  address = "%[1]s/t.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.test/podtool:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "%[2]s"
    conf_dir = "%[3]s"
    max_conf_num = 1
`

// runtime is containerd on a node, as a kubelet sees it.
type runtime struct {
	*node
	cri cri.RuntimeServiceClient
}

// startContainerd starts it with our plugins and the list of the tutorials, and waits until pods can be made.
func (n *node) startContainerd(t *testing.T, bin, image string) *runtime {
	t.Helper()
	list, err := os.ReadFile("../../cniplugin/testdata/cni-conf.json")
	require.NoError(t, err)
	conf := filepath.Dir(n.write(t, "net.d/10-flannel.conflist", string(list)))
	config := n.write(t, "config.toml", fmt.Sprintf(containerdConfig, n.dir, bin, conf))
	n.start(t, fmt.Sprintf("containerd -c %s &\nwait", config))
	socket := n.dir + "/c.sock"
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	r := &runtime{n, cri.NewRuntimeServiceClient(conn)}
	eventually(t, "containerd is ready", func(ctx context.Context) error {
		s, err := r.cri.Status(ctx, &cri.StatusRequest{})
		if err != nil {
			return err
		}
		for _, c := range s.Status.Conditions {
			if !c.Status {
				return fmt.Errorf("%s: %s", c.Type, c.Message)
			}
		}
		return nil
	})
	out, err := n.Command(t.Context(), "ctr", "-a", socket, "-n", "k8s.io", "images", "import", "--snapshotter", "native", image).CombinedOutput()
	require.NoError(t, err, string(out))
	return r
}

// cgroups is the directory of the pods' control groups, which are the machine's: they know no namespaces of ours.
const cgroups = "/podweft-e2e"

// forgetCgroups removes the directory, from every hierarchy, and the one below that podman makes for what watches a container:
// it ends a moment later.
func forgetCgroups(t *testing.T) {
	t.Helper()
	all, err := filepath.Glob("/sys/fs/cgroup/*" + cgroups)
	require.NoError(t, err)
	eventually(t, "control groups are empty", func(context.Context) error {
		for _, dir := range append(all, "/sys/fs/cgroup"+cgroups) {
			_ = os.Remove(dir + "/conmon") // if it is there and stays, so does dir
			if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
		return nil
	})
}

// eventually tries until it works.
func eventually(t *testing.T, what string, try func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			require.NoError(t, err, what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// pod is one with one container.
type pod struct {
	on        *runtime
	id        string
	container string
	config    *cri.PodSandboxConfig
	addresses []netip.Addr
	removed   bool
}

func (r *runtime) sandbox(name string, ports ...*cri.PortMapping) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"},
		Hostname: name, LogDirectory: r.dir + "/logs/" + name, PortMappings: ports,
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: cgroups},
	}
}

// run makes a pod that answers with its name.
func (r *runtime) run(t *testing.T, name string, ports ...*cri.PortMapping) *pod {
	t.Helper()
	p := &pod{on: r, config: r.sandbox(name, ports...)}
	require.NoError(t, os.MkdirAll(p.config.LogDirectory, 0o700))
	made, err := r.cri.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: p.config})
	require.NoError(t, err)
	p.id = made.PodSandboxId
	t.Cleanup(func() { p.remove(t) })
	s, err := r.cri.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	require.NoError(t, err)
	p.addresses = append(p.addresses, netip.MustParseAddr(s.Status.Network.Ip))
	for _, ip := range s.Status.Network.AdditionalIps {
		p.addresses = append(p.addresses, netip.MustParseAddr(ip.Ip))
	}
	c, err := r.cri.CreateContainer(t.Context(), &cri.CreateContainerRequest{
		PodSandboxId: p.id, SandboxConfig: p.config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "serve"}, Image: &cri.ImageSpec{Image: image},
			Command: []string{"/podtool", "serve", "[::]:80", name}, LogPath: "serve.log",
		},
	})
	require.NoError(t, err)
	p.container = c.ContainerId
	_, err = r.cri.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: p.container})
	require.NoError(t, err)
	return p
}

// get asks for a page from within the pod.
func (p *pod) get(t *testing.T, url string) (text string) {
	t.Helper()
	eventually(t, url+" from "+p.config.Metadata.Name, func(ctx context.Context) error {
		r, err := p.on.cri.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: p.container, Cmd: []string{"/podtool", "get", url}, Timeout: 10})
		if err != nil {
			return err
		}
		if r.ExitCode != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		text = string(r.Stdout)
		return nil
	})
	return text
}

// remove does what a kubelet does: it stops the pod, and later removes it, which is a second DEL without a namespace.
func (p *pod) remove(t *testing.T) {
	t.Helper()
	if p.removed {
		return
	}
	p.removed = true
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := p.on.cri.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
	assert.NoError(t, err)
	_, err = p.on.cri.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
	assert.NoError(t, err)
}

// TestContainerd makes pods on two nodes as a kubelet does, has them talk, and removes them.
func TestContainerd(t *testing.T) {
	need(t, "containerd", "runc", "ctr", "unshare")
	bin, tar := plugins(t), archive(t)
	nodes := cluster(t)
	one, two := nodes[0].startContainerd(t, bin, tar), nodes[1].startContainerd(t, bin, tar)

	web := one.run(t, "web", &cri.PortMapping{Protocol: cri.Protocol_TCP, HostPort: 8080, ContainerPort: 80})
	near, far := one.run(t, "near"), two.run(t, "far")
	require.Len(t, web.addresses, 2)
	assert.True(t, one.subnet(4).Contains(web.addresses[0]), web.addresses)
	assert.True(t, one.subnet(6).Contains(web.addresses[1]), web.addresses)
	for _, client := range []*pod{near, far} {
		for i, a := range web.addresses {
			url := fmt.Sprintf("http://%s/", netip.AddrPortFrom(a, 80))
			assert.Equal(t, fmt.Sprintf("web to %s", client.addresses[i]), client.get(t, url), "pods see each other's own address")
		}
	}
	hostPort := fmt.Sprintf("http://%s/", netip.AddrPortFrom(one.V4, 8080))
	assert.Contains(t, far.get(t, hostPort), "web to ")
	text, err := two.get(t.Context(), hostPort)
	require.NoError(t, err)
	assert.Contains(t, text, fmt.Sprintf("web to %s", two.V4))
	text, err = one.get(t.Context(), hostPort)
	require.NoError(t, err)
	assert.Contains(t, text, "web to ")

	_, err = one.cri.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{
		Config: one.sandbox("second", &cri.PortMapping{Protocol: cri.Protocol_TCP, HostPort: 8080, ContainerPort: 80}),
	})
	require.ErrorContains(t, err, "a host port that was asked for leads to another pod of this node", "the user reads what the plugin says")

	for _, p := range []*pod{web, near, far} {
		p.remove(t)
	}
	forgetCgroups(t)
	for _, r := range []*runtime{one, two} {
		assert.ElementsMatch(t, []string{"lo", "eth0", "cni0"}, r.links(t))
		assert.Empty(t, r.records(t))
	}
	_, err = two.get(t.Context(), hostPort)
	require.Error(t, err, "the port is closed")
}
