package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/podweft/podweft/e2e/cluster"
	"github.com/podweft/podweft/testnet"
)

// player plays the kubelet of a node of the cluster, and its runtime: it runs a DaemonSet's pod from our image, as the manifest says, with
// what a container has: the image's files and its volumes, a read-only /proc/sys, and few capabilities.
type player struct {
	*testnet.Node
	t       testing.TB
	cluster *cluster.Cluster
	m       *cluster.Manifest
	pod     string // its name
	dir     string // what stands for the node's disk
	token   string
	agent   *exec.Cmd
	log     *buffer
}

// newPlayer makes the player, whose node must exist in the cluster.
func newPlayer(t testing.TB, c *cluster.Cluster, on *testnet.Node, m *cluster.Manifest, name string) *player {
	t.Helper()
	spec := m.DaemonSet.Spec.Template.Spec
	return &player{
		Node: on, t: t, cluster: c, m: m, dir: t.TempDir(), log: &buffer{},
		pod: c.AddPod(m, name), token: c.Token(m.DaemonSet.Namespace, spec.ServiceAccountName),
	}
}

// host is where the node's disk has the path.
func (m *player) host(path string) string { return filepath.Join(m.dir, "host", path) }

// container makes the container's files, and returns what runs its program.
func (m *player) container(c corev1.Container) *exec.Cmd {
	m.t.Helper()
	root := filepath.Join(m.dir, c.Name)
	if _, err := os.Stat(root); err != nil {
		m.fill(root, c)
	}
	// proc is the node's own; what a runtime hides of it is hidden here, too.
	script := `set -e; root=$1; caps=$2; shift 2
mount -t proc proc "$root/proc"; mount --bind "$root/proc/sys" "$root/proc/sys"; mount -o remount,bind,ro "$root/proc/sys"
while [ "$1" != -- ]; do mount --bind "$1" "$root$2"; shift 2; done; shift
exec setpriv --bounding-set="$caps" chroot "$root" "$@"`
	args := []string{"--mount", "--propagation", "private", "sh", "-c", script, "sh", root, capabilities(c)}
	for _, v := range c.VolumeMounts {
		args = append(args, m.volume(v.Name), v.MountPath)
	}
	args = append(append(append(args, "--"), c.Command...), c.Args...)
	cmd := m.Command(m.t.Context(), "unshare", args...)
	host, port, _ := strings.Cut(strings.TrimPrefix(m.cluster.URL(), "https://"), ":")
	cmd.Env = append(os.Environ(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"KUBERNETES_SERVICE_HOST="+host, "KUBERNETES_SERVICE_PORT="+port, "NODE_NAME=")
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil {
			switch path := e.ValueFrom.FieldRef.FieldPath; path {
			case "metadata.name":
				value = m.pod
			case "metadata.namespace":
				value = m.m.DaemonSet.Namespace
			default:
				m.t.Fatalf("%s is not played here", path)
			}
		}
		cmd.Env = append(cmd.Env, e.Name+"="+value)
	}
	cmd.Stdout, cmd.Stderr = m.log, m.log
	return cmd
}

// capabilities are those that runtimes give any container, and what it asks for.
func capabilities(c corev1.Container) string {
	all := "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap"
	if c.SecurityContext != nil && c.SecurityContext.Capabilities != nil {
		for _, cap := range c.SecurityContext.Capabilities.Add {
			all += ",+" + strings.ToLower(string(cap))
		}
	}
	return all
}

// fill makes a container's files: the image's, its service account's, and where its volumes go.
func (m *player) fill(root string, c corev1.Container) {
	m.t.Helper()
	out, err := exec.Command("cp", "-a", imageFiles(m.t, "flannel"), root).CombinedOutput()
	require.NoError(m.t, err, "%s", out)
	account := filepath.Join(root, "var/run/secrets/kubernetes.io/serviceaccount")
	for _, dir := range append([]string{filepath.Join(root, "proc"), account}, mountPoints(root, c)...) {
		require.NoError(m.t, os.MkdirAll(dir, 0o755))
	}
	ca, err := os.ReadFile(m.cluster.CAFile())
	require.NoError(m.t, err)
	for name, text := range map[string]string{"ca.crt": string(ca), "token": m.token, "namespace": m.m.DaemonSet.Namespace} {
		require.NoError(m.t, os.WriteFile(filepath.Join(account, name), []byte(text), 0o644))
	}
}

func mountPoints(root string, c corev1.Container) (dirs []string) {
	for _, v := range c.VolumeMounts {
		dirs = append(dirs, filepath.Join(root, v.MountPath))
	}
	return dirs
}

// volume is where a volume's files are.
func (m *player) volume(name string) string {
	m.t.Helper()
	for _, v := range m.m.DaemonSet.Spec.Template.Spec.Volumes {
		switch {
		case v.Name != name:
		case v.HostPath != nil:
			dir := m.host(v.HostPath.Path)
			require.NoError(m.t, os.MkdirAll(dir, 0o755))
			return dir
		case v.ConfigMap != nil:
			dir := filepath.Join(m.dir, "volume-"+name)
			require.NoError(m.t, os.MkdirAll(dir, 0o755))
			for file, text := range m.m.ConfigMap.Data {
				require.NoError(m.t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
			}
			return dir
		}
	}
	m.t.Fatalf("there is no volume %s", name)
	return ""
}

// start runs the init containers, one after the other, and then the agent.
func (m *player) start() {
	m.t.Helper()
	spec := m.m.DaemonSet.Spec.Template.Spec
	for _, c := range spec.InitContainers {
		require.NoError(m.t, m.container(c).Run(), "init container %s: %s", c.Name, m.log)
	}
	require.Len(m.t, spec.Containers, 1)
	cmd := m.container(spec.Containers[0])
	require.NoError(m.t, cmd.Start())
	m.agent = cmd
	m.t.Cleanup(func() { m.stop(syscall.SIGKILL) })
}

// stop ends the agent, if there is one.
func (m *player) stop(how syscall.Signal) {
	if m.agent != nil {
		_ = m.agent.Process.Signal(how)
		_ = m.agent.Wait()
		m.agent = nil
	}
}

// ready waits until the agent has written the file.
func (m *player) ready() {
	m.t.Helper()
	await(m.t, func() error {
		_, err := os.Stat(m.host("/run/flannel/subnet.env"))
		if err != nil {
			return fmt.Errorf("%w\n%s", err, m.log)
		}
		return nil
	})
}

// patience is how long anything may take on a machine that has much else to do.
const patience = 2 * time.Minute

// await waits until it is so.
func await(t testing.TB, so func() error) {
	t.Helper()
	awaitFor(t, patience, so)
}

func awaitFor(t testing.TB, patience time.Duration, so func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := so()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still not so: %v", err)
		}
	}
}

// imageFiles returns where the files of a network's image are, made from the sources as they are now.
func imageFiles(t testing.TB, network string) string {
	t.Helper()
	dir := os.Getenv(imagesVar)
	if dir == "" {
		t.Skipf("no images: run make e2e, or set %s to where examples/NETWORK/deploy/rootfs has made each", imagesVar)
	}
	return filepath.Join(dir, network)
}

// imagesVar names the environment's variable for the directory of the images' files.
const imagesVar = "PODWEFT_E2E_IMAGES"

// buffer is what processes wrote so far.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
