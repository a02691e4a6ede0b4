package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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
	router   bool // is told by BGP where pods and Services are

	families int      // that pods have addresses of: IPv4, or both
	replace  []string // what of the manifest by what
}

// of is the network with another number of families, and more replaced.
func (n podNetwork) of(families int, replace ...string) podNetwork {
	n.families, n.replace = families, slices.Concat(n.replace, replace)
	return n
}

var logs = flag.String("logs", "", "a directory to keep what programs of whole nodes have said")

var (
	flannelLike = podNetwork{
		manifest: "../examples/flannel/deploy/podweft-flannel.yml", image: "podweft/flannel:dev", agent: "flanneld", ready: announced, perNode: true, families: 1,
	}
	calicoLike = podNetwork{
		manifest: "../examples/calico/deploy/podweft-calico.yml", image: "podweft/calico:dev", agent: "podweft-calico", ready: healthy, policies: true, router: true,
		families: 1, replace: []string{"      nodeToNodeMeshEnabled: true\n", `      nodeToNodeMeshEnabled: true
      serviceClusterIPs: [{cidr: 10.96.0.0/16}, {cidr: "fd00:10:96::/112"}]
    ---
    apiVersion: projectcalico.org/v3
    kind: BGPPeer
    metadata: {name: router}
    spec: {peerIP: 192.0.2.1, asNumber: 64600}
`},
	}
)

// TestNodes: two whole nodes, of which our manifests make pod networks, and one for flannel with nothing changed but its image.
// Pods reach each other in all the ways that a cluster has and policies allow, a node loses its power, and agents end while pods talk.
func TestNodes(t *testing.T) {
	flannels := flannelLike
	flannels.manifest = *manifest
	flannelDual := flannelLike.of(2, `"Network": "10.244.0.0/16",`, `"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/56",`)
	calicoDual := calicoLike.of(2, "value: none", "value: fd00:10:244::/56") // CALICO_IPV6POOL_CIDR
	for _, tt := range []struct {
		name      string
		network   podNetwork
		proxyMode string
	}{
		{"ours, of both families, with iptables", flannelDual, "iptables"},
		{"flannel's, with nftables", flannels, "nftables"},
		{"like Calico's, with iptables", calicoLike, "iptables"},
		{"like Calico's, of both families, with nftables", calicoDual, "nftables"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// Most of it is waiting: with -parallel 2 all end sooner, and what they measure is slower.
			t.Parallel()
			f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 3, Outside: true}) // the first is the control plane's
			start := cluster.Start
			if tt.network.families == 2 {
				start = cluster.StartDual
			}
			c := start(t, f.Nodes[0])
			c.StartControllers()
			images := archives(t)
			w := &world{t: t, cluster: c, network: tt.network, beside: machine.Place{Node: f.Nodes[0]}}
			for i, name := range []string{"worker-1", "worker-2"} {
				w.machines = append(w.machines, machine.New(t, machine.Config{
					Node: f.Nodes[i+1], Cluster: c, Name: name, ProxyMode: tt.proxyMode, Images: images, Plugins: plugins(t), Logs: keep(t),
				}))
			}
			c.ApplyText(ourImage(t, tt.network))
			w.apply("testdata/coredns.yml")
			w.apply("testdata/pods.yml")
			if tt.network.router {
				w.startRouter()
			}
			w.start()
			w.talk()
			if tt.network.router {
				w.arrive()
			}
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
	beside   machine.Place // a node of the machines' network without kubelet and pods
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
	await(w.t, w.webReady)
	web := time.Now()
	await(w.t, w.podsReady)
	since := func(from, to time.Time) time.Duration { return to.Sub(from).Round(time.Millisecond) }
	// The others had no node before. The scheduler looks at such pods again after a second or more.
	w.t.Logf("two nodes were Ready %s after their power was on, a DaemonSet's pods %s later, and all pods %s later",
		since(begun, nodes), since(nodes, web), since(nodes, time.Now()))
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

// webReady is nil when there is a pod on each machine that is ready, of which it keeps what the cluster says.
func (w *world) webReady() error {
	w.web = make([]*corev1.Pod, len(w.machines))
	for i, m := range w.machines {
		if w.web[i] = w.ready("app=web", m.Name()); w.web[i] == nil {
			return fmt.Errorf("no pod is ready on %s", m.Name())
		}
	}
	return nil
}

// podsReady is nil when all pods are, of which it keeps what the cluster says.
func (w *world) podsReady() error {
	web := w.webReady()
	w.lone = w.ready("app=lone", "")
	dns := w.cluster.Pods("kube-system", "k8s-app=kube-dns")
	if web != nil || w.lone == nil || len(dns) != 1 || !isReady(&dns[0]) {
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
		require.Len(w.t, pod.Status.PodIPs, w.network.families)
		require.Len(w.t, other.Status.PodIPs, w.network.families)
		for family, ip := range pod.Status.PodIPs {
			own, others, to := m.Addrs()[family].String(), w.machines[1-i].Addrs()[family].String(), other.Status.PodIPs[family].IP
			if w.network.perNode {
				assert.True(w.t, netip.MustParsePrefix(w.cluster.Node(m.Name()).Spec.PodCIDRs[family]).Contains(netip.MustParseAddr(ip.IP)), "%s", ip.IP)
			}
			assert.Equal(w.t, fmt.Sprintf("%s to %s", other.Name, ip.IP), w.get(pod, page(to, 8080)), "pods see each other's own address")
			for _, from := range []*corev1.Pod{pod, w.lone} {
				assert.Regexp(w.t, "^"+other.Name+" to ", w.get(from, page(others, 18080)), "a port of another node")
				assert.Regexp(w.t, "^"+pod.Name+" to ", w.get(from, page(own, 18080)), "a port of its own node, or of the other")
			}
			assert.Regexp(w.t, "^web-.* to ", w.get(pod, page(own, 30080)), "a NodePort")
			assert.Equal(w.t, other.Name+" to "+own, w.from(m, page(others, 18080)), "from a node")
		}
		for _, from := range []*corev1.Pod{pod, w.lone} {
			assert.Regexp(w.t, "^web-.* to ", w.get(from, "http://web/whoami"), "a Service by its name")
			for _, at := range w.lookup(from, "web", w.network.families) {
				assert.Regexp(w.t, "^web-.* to ", w.get(from, page(at, 80)), "a Service by its address")
			}
		}
	}
	assert.Regexp(w.t, "^"+w.lone.Name+" to ", w.get(w.lone, "http://lone.default.svc.cluster.local/whoami"), "the way back to itself")
	assert.Equal(w.t, []string{"10.96.0.1"}, w.lookup(w.web[0], "kubernetes.default.svc.cluster.local", 1))
}

func page(host string, port int) string {
	return fmt.Sprintf("http://%s/whoami", net.JoinHostPort(host, strconv.Itoa(port)))
}

// lookup is what a name is to a pod: so many addresses. Of two families the resolver tells one if the other's answer is late.
func (w *world) lookup(from *corev1.Pod, name string, want int) (found []string) {
	w.t.Helper()
	await(w.t, func() error {
		found = nil
		err := json.Unmarshal([]byte(w.ask(from, "/lookup?name="+name)), &found)
		if err == nil && len(found) != want {
			err = fmt.Errorf("%s is %v to %s", name, found, from.Name)
		}
		return err
	})
	return found
}

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

// from asks from a place until there is an answer: Services and names are known a moment after their pods are.
func (w *world) from(place asker, at string) (text string) {
	w.t.Helper()
	await(w.t, func() (err error) {
		text, err = fetch(w.t, place, at)
		return err
	})
	return text
}

// asker is where one can ask from.
type asker interface {
	Get(ctx context.Context, url string) (*http.Response, error)
}

func fetch(t *testing.T, place asker, at string) (string, error) {
	answer, err := place.Get(t.Context(), at)
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
	for i, pod := range w.web { // one to each address family
		to := w.web[1-i].Status.PodIPs
		w.ask(pod, "/pings?to="+to[i%len(to)].IP)
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
	awaitFor(w.t, 3*patience, func() error { // what the cluster says of the others may be from before
		if err := w.podsReady(); err != nil {
			return err
		}
		return w.restarted(m, begun)
	})
	w.talk()
}

// restarted is nil when all pods of a machine have begun since then.
func (w *world) restarted(m *machine.Machine, since time.Time) error {
	for _, p := range append(w.cluster.Pods("default", ""), w.cluster.Pods("kube-system", "k8s-app=kube-dns")...) {
		for _, c := range p.Status.ContainerStatuses {
			// What is told has whole seconds.
			if p.Spec.NodeName == m.Name() && p.DeletionTimestamp == nil && (c.State.Running == nil || c.State.Running.StartedAt.Time.Before(since.Truncate(time.Second))) {
				return fmt.Errorf("%s is as it was before its node lost power, or does not run", p.Name)
			}
		}
	}
	return nil
}

// ourImage is a manifest's text, of which only images are changed, and what the network says.
func ourImage(t *testing.T, network podNetwork) string {
	t.Helper()
	text, err := os.ReadFile(network.manifest)
	require.NoError(t, err)
	for pair := range slices.Chunk(network.replace, 2) {
		require.Contains(t, string(text), pair[0])
		text = bytes.ReplaceAll(text, []byte(pair[0]), []byte(pair[1]))
	}
	return regexp.MustCompile(`\bimage: \S+`).ReplaceAllString(string(text), "image: "+network.image)
}

// keep is where the logs of the test's machines go.
func keep(t *testing.T) string {
	if *logs == "" {
		return ""
	}
	return filepath.Join(*logs, strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()))
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
