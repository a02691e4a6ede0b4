package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/podweft/podweft/e2e/cluster"
	"github.com/podweft/podweft/e2e/image"
	"github.com/podweft/podweft/e2e/machine"
	"github.com/podweft/podweft/testnet"
)

// podNetwork is what a manifest makes of two machines.
type podNetwork struct {
	manifest string
	image    string // instead of all that the manifest names
	agent    string // how its process is called
	// ready is nil when an agent that was started since then has said that its machine's pods can be started.
	ready func(m *machine.Machine, agent int, since time.Time) error

	perNode  bool // pods have addresses of their Node's podCIDR
	policies bool // are enforced
}

var (
	flannelLike = podNetwork{
		manifest: "../examples/flannel/deploy/podweft-flannel.yml", image: "podweft/flannel:dev", agent: "flanneld", ready: announced, perNode: true,
	}
	calicoLike = podNetwork{
		manifest: "../examples/calico/deploy/podweft-calico.yml", image: "podweft/calico:dev", agent: "podweft-calico", ready: healthy, policies: true,
	}
)

// TestNodes: two whole nodes, of which our manifests make pod networks, and one for flannel with nothing changed but its image.
// Pods reach each other in all the ways that a cluster has and policies allow, a node loses its power, and agents end while pods talk.
func TestNodes(t *testing.T) {
	flannels := flannelLike
	flannels.manifest = *manifest
	for _, tt := range []struct {
		name      string
		network   podNetwork
		proxyMode string
	}{
		{"ours, with iptables", flannelLike, "iptables"},
		{"flannel's, with nftables", flannels, "nftables"},
		{"like Calico's, with iptables", calicoLike, "iptables"},
		{"like Calico's, with nftables", calicoLike, "nftables"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 3, Outside: true}) // the first is the control plane's
			c := cluster.Start(t, f.Nodes[0])
			c.StartControllers()
			images := archives(t)
			w := &world{t: t, cluster: c, network: tt.network}
			for i, name := range []string{"worker-1", "worker-2"} {
				w.machines = append(w.machines, machine.New(t, machine.Config{
					Node: f.Nodes[i+1], Cluster: c, Name: name, ProxyMode: tt.proxyMode, Images: images, Plugins: plugins(t),
				}))
			}
			c.ApplyText(ourImage(t, tt.network))
			w.apply("testdata/coredns.yml")
			w.apply("testdata/pods.yml")
			w.start()
			w.talk()
			if tt.network.policies {
				w.obey()
			}
			w.losePower()
			w.endAgents()
		})
	}
}

// world is a cluster with whole nodes.
type world struct {
	t        *testing.T
	cluster  *cluster.Cluster
	network  podNetwork
	machines []*machine.Machine
	web      []*corev1.Pod // one on each machine
	lone     *corev1.Pod
}

// apply has the objects of a file in the cluster.
func (w *world) apply(file string) {
	w.t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(w.t, err)
	w.cluster.ApplyText(string(text))
}

// start turns the machines on, and waits until pods run.
func (w *world) start() {
	w.t.Helper()
	begun := time.Now()
	for _, m := range w.machines {
		m.PowerOn()
	}
	await(w.t, w.nodesReady)
	nodes := time.Now()
	await(w.t, w.podsReady)
	w.t.Logf("two nodes were Ready %s after their power was on, and pods %s later", nodes.Sub(begun).Round(time.Millisecond), time.Since(nodes).Round(time.Millisecond))
}

func (w *world) nodesReady() error {
	ready := map[string]bool{}
	for _, n := range w.cluster.Nodes() {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				ready[n.Name] = c.Status == corev1.ConditionTrue
			}
		}
	}
	if len(ready) != len(w.machines) || !ready["worker-1"] || !ready["worker-2"] {
		return fmt.Errorf("ready: %v", ready)
	}
	return nil
}

// podsReady is nil when all pods are, of which it keeps what the cluster says.
func (w *world) podsReady() error {
	w.web = make([]*corev1.Pod, len(w.machines))
	for i, m := range w.machines {
		w.web[i] = w.ready("app=web", m.Name())
	}
	w.lone = w.ready("app=lone", "")
	dns := w.cluster.Pods("kube-system", "k8s-app=kube-dns")
	if w.lone == nil || w.web[0] == nil || w.web[1] == nil || len(dns) != 1 || !isReady(&dns[0]) {
		var all strings.Builder
		for _, p := range append(w.cluster.Pods("default", ""), w.cluster.Pods("kube-system", "")...) {
			fmt.Fprintf(&all, "%s on %s: %s, ready: %t\n", p.Name, p.Spec.NodeName, p.Status.Phase, isReady(&p))
		}
		return fmt.Errorf("pods are not ready:\n%s", &all)
	}
	return nil
}

// ready finds a pod with the label, on the node or on any.
func (w *world) ready(label, node string) *corev1.Pod {
	for _, p := range w.cluster.Pods("default", label) {
		if isReady(&p) && (node == "" || p.Spec.NodeName == node) {
			return &p
		}
	}
	return nil
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

// talk has pods reach each other in all the ways there are.
func (w *world) talk() {
	w.t.Helper()
	for i, m := range w.machines {
		pod, other := w.web[i], w.web[1-i]
		if w.network.perNode {
			prefix := fmt.Sprintf("10.244.%s.", strings.Split(pod.Status.PodIP, ".")[2])
			assert.Contains(w.t, w.cluster.Node(m.Name()).Spec.PodCIDR, prefix)
		}
		assert.Equal(w.t, fmt.Sprintf("%s to %s", other.Name, pod.Status.PodIP), w.get(pod, page(other.Status.PodIP, 8080)), "pods see each other's own address")
		for _, from := range []*corev1.Pod{pod, w.lone} {
			assert.Regexp(w.t, "^web-.* to ", w.get(from, "http://web/whoami"), "a Service by its name")
			assert.Regexp(w.t, "^"+other.Name+" to ", w.get(from, page(w.machines[1-i].V4.String(), 18080)), "a port of another node")
			assert.Regexp(w.t, "^"+pod.Name+" to ", w.get(from, page(m.V4.String(), 18080)), "a port of its own node, or of the other")
		}
		assert.Regexp(w.t, "^web-.* to ", w.get(pod, page(m.V4.String(), 30080)), "a NodePort")
		assert.Regexp(w.t, "^"+other.Name+" to "+m.V4.String(), w.from(m, page(w.machines[1-i].V4.String(), 18080)), "from a node")
	}
	assert.Regexp(w.t, "^"+w.lone.Name+" to ", w.get(w.lone, "http://lone.default.svc.cluster.local/whoami"), "the way back to itself")
	var found []string
	require.NoError(w.t, json.Unmarshal([]byte(w.ask(w.web[0], "/lookup?name=kubernetes.default.svc.cluster.local")), &found))
	assert.Equal(w.t, []string{"10.96.0.1"}, found)
}

func page(host string, port int) string { return fmt.Sprintf("http://%s:%d/whoami", host, port) }

// get is what the pod gets at the URL.
func (w *world) get(from *corev1.Pod, at string) string {
	w.t.Helper()
	return w.ask(from, "/get?url="+url.QueryEscape(at))
}

// ask asks a pod, from its node.
func (w *world) ask(pod *corev1.Pod, path string) string {
	w.t.Helper()
	return w.from(w.on(pod), fmt.Sprintf("http://%s:8080%s", pod.Status.PodIP, path))
}

// on is the machine that a pod runs on.
func (w *world) on(pod *corev1.Pod) *machine.Machine {
	for _, m := range w.machines {
		if m.Name() == pod.Spec.NodeName {
			return m
		}
	}
	w.t.Fatalf("%s is on no machine", pod.Name)
	return nil
}

// from asks from a machine until there is an answer: Services and names are known a moment after their pods are.
func (w *world) from(m *machine.Machine, at string) (text string) {
	w.t.Helper()
	await(w.t, func() (err error) {
		text, err = fetch(w.t, m, at)
		return err
	})
	return text
}

func fetch(t *testing.T, m *machine.Machine, at string) (string, error) {
	answer, err := m.Get(t.Context(), at)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", at, answer.Status, text)
	}
	return string(text), err
}

// endAgents ends the agents on both machines at once, in both ways, while a pod on each pings the other's. The cluster starts them again.
func (w *world) endAgents() {
	w.t.Helper()
	for i, pod := range w.web {
		w.ask(pod, "/pings?to="+w.web[1-i].Status.PodIP)
	}
	for _, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		begun, old := time.Now(), map[*machine.Machine]int{}
		for _, m := range w.machines {
			agent, err := m.Process(w.network.agent)
			require.NoError(w.t, err)
			w.t.Logf("the agent of %s: %s", m.Name(), machine.Memory(agent))
			require.NoError(w.t, syscall.Kill(agent, how))
			old[m] = agent
		}
		for _, m := range w.machines {
			awaitFor(w.t, 3*patience, func() error { // the kubelet takes its time with the second
				now, err := m.Process(w.network.agent)
				if err != nil {
					return err
				}
				if now == old[m] {
					return fmt.Errorf("the agent of %s has not ended", m.Name())
				}
				return w.network.ready(m, now, begun)
			})
		}
	}
	time.Sleep(time.Second) // of pings over the new ones
	for _, pod := range w.web {
		var flow struct{ Sent, Lost int }
		require.NoError(w.t, json.Unmarshal([]byte(w.ask(pod, "/pings")), &flow))
		assert.Zero(w.t, flow.Lost, "of %d pings", flow.Sent)
		w.t.Logf("%d pings while agents ended, %d lost", flow.Sent, flow.Lost)
	}
}

// announced is nil when an agent like flannel's has written what the node's subnet is.
func announced(m *machine.Machine, agent int, since time.Time) error {
	info, err := os.Stat(fmt.Sprintf("/proc/%d/root/run/flannel/subnet.env", agent))
	if err == nil && info.ModTime().Before(since) {
		err = fmt.Errorf("the agent of %s has not been ready since", m.Name())
	}
	return err
}

// healthy is nil when an agent like Calico's says so.
func healthy(m *machine.Machine, _ int, _ time.Time) error {
	answer, err := m.Get(context.Background(), "http://127.0.0.1:9099/readyz")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("the agent of %s: %s", m.Name(), answer.Status)
	}
	return err
}

// losePower takes the second machine's power away, and gives it back.
func (w *world) losePower() {
	w.t.Helper()
	m := w.machines[1]
	m.PowerOff()
	m.PowerOn()
	begun := time.Now()
	awaitFor(w.t, 3*patience, func() error { // the kubelet waits before it tries again
		if err := w.podsReady(); err != nil {
			return err
		}
		text, err := fetch(w.t, w.machines[0], fmt.Sprintf("http://%s:8080/get?url=%s", w.web[0].Status.PodIP, url.QueryEscape(page(w.web[1].Status.PodIP, 8080))))
		if err == nil && !strings.HasPrefix(text, w.web[1].Name) {
			err = fmt.Errorf("%s answers as %s", w.web[1].Name, text)
		}
		return err
	})
	w.t.Logf("a pod of %s was reached %s after its power was back", m.Name(), time.Since(begun).Round(time.Millisecond))
	w.talk()
}

// ourImage is a manifest's text, of which only images are changed.
func ourImage(t *testing.T, network podNetwork) string {
	t.Helper()
	text, err := os.ReadFile(network.manifest)
	require.NoError(t, err)
	return regexp.MustCompile(`\bimage: \S+`).ReplaceAllString(string(text), "image: "+network.image)
}

// archives makes the images that a cluster pulls.
func archives(t *testing.T) (paths []string) {
	t.Helper()
	dir := t.TempDir()
	for _, of := range []struct {
		name, files string
		cfg         image.Config
	}{
		// As the Dockerfiles say.
		{flannelLike.image, imageFiles(t, "flannel"), image.Config{Env: []string{"PATH=/opt/bin:/bin"}, Entrypoint: []string{"/opt/bin/flanneld"}}},
		{calicoLike.image, imageFiles(t, "calico"), image.Config{Env: []string{"PATH=/bin"}, Entrypoint: []string{"/bin/podweft-calico"}}},
		{machine.PodtoolImage, program(t, "PODWEFT_E2E_PODTOOL"), image.Config{Entrypoint: []string{"/program"}, Cmd: []string{"pause"}}},
		{"registry.test/coredns:1", program(t, "PODWEFT_E2E_COREDNS"), image.Config{Entrypoint: []string{"/program"}}},
	} {
		path := filepath.Join(dir, strings.NewReplacer("/", "-", ":", "-").Replace(of.name)+".tar")
		require.NoError(t, image.Write(path, of.name, of.files, of.cfg))
		paths = append(paths, path)
	}
	return paths
}

// program is a directory with the program that the variable names, as /program.
func program(t *testing.T, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Skipf("no %s: run make e2e", variable)
	}
	dir := t.TempDir()
	copyTo(t, path, filepath.Join(dir, "program"))
	return dir
}

// plugins is a directory with what a package of the node's distribution has: a manifest for flannel 0.14 installs no plugin.
func plugins(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	copyTo(t, filepath.Join(imageFiles(t, "flannel"), "flannel"), filepath.Join(dir, "flannel"))
	for _, name := range []string{"portmap", "loopback"} {
		require.NoError(t, os.Symlink("flannel", filepath.Join(dir, name)))
	}
	return dir
}

func copyTo(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, text, 0o755))
}
