package calico_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/examples/calico"
)

// clients are the pods on each node that try to reach the servers, by their namespaces and what tells them apart.
var clients = map[string]string{ // labels
	"default/tester": "app: tester, role: test", "default/stranger": "app: stranger",
	"test/tester": "app: tester, role: test", "test/stranger": "app: stranger", "myproject/frontend": "role: frontend",
}

// server is the pod on each node that the policies select.
const server, serverLabels = "default/server", "app: myapp-v1"

// scenarios are the clients that each of the tutorials' policies lets through to the servers' port 80.
var scenarios = [][]string{
	{"default/tester"},
	{"default/tester", "test/tester", "test/stranger"},
	{"test/tester"},
	{"myproject/frontend"},
}

// stage is two nodes in two racks, with the servers and all clients on each.
type stage struct {
	dir     string
	labels  map[string]string
	servers []*pod
	clients map[string][]*pod
}

// TestScenarios: the tutorials' policies, a port, egress, labels that change and a policy that goes, with clients on both nodes, of which
// one is behind the router, over both families.
func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../kube/netpol/testdata/tutorial-*.yaml")
	require.NoError(t, err)
	require.Len(t, files, len(scenarios))
	s := newStage(t)
	everybody := func(string, int) bool { return true }
	only := func(open ...string) func(string, int) bool {
		return func(client string, port int) bool { return port == 80 && slices.Contains(open, client) }
	}
	s.expect(t, "no policy", everybody)
	for i, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		s.write(t, "policy.yaml", string(text))
		s.expect(t, file, only(scenarios[i]...))
	}

	text, err := os.ReadFile(files[0])
	require.NoError(t, err)
	s.write(t, "policy.yaml", string(text))
	s.labels["default/stranger"] += ", role: test"
	s.tell(t)
	s.expect(t, "strangers with a role", only("default/tester", "default/stranger"))
	s.labels["default/stranger"] = clients["default/stranger"]
	s.tell(t)
	s.expect(t, "strangers without", only("default/tester"))
	require.NoError(t, os.Remove(filepath.Join(s.dir, "policy.yaml")))
	s.expect(t, "the policy deleted", everybody)

	s.write(t, "policy.yaml", `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {namespace: default, name: out},
		spec: {podSelector: {matchLabels: {app: stranger}}, policyTypes: [Egress],
			egress: [{to: [{podSelector: {matchLabels: {app: myapp-v1}}}], ports: [{protocol: TCP, port: 81}]}]}}`)
	s.expect(t, "egress to a port", func(client string, port int) bool { return client != "default/stranger" || port == 81 })
}

func newStage(t *testing.T) *stage {
	t.Helper()
	w := newWorld(t, 1)
	s := &stage{dir: t.TempDir(), labels: map[string]string{server: serverLabels}, clients: map[string][]*pod{}}
	for client, labels := range clients {
		s.labels[client] = labels
	}
	s.tell(t)
	for i, n := range w.Nodes() {
		cfg := w.config(t, n, pools(calico.CrossSubnet))
		cfg.Policies = calico.PolicyFiles{s.dir}
		start(t, cfg)
		for of := range s.labels {
			namespace, _, _ := strings.Cut(of, "/")
			p := w.addIn(t, n, namespace, podName(of, i))
			if of == server {
				s.servers = append(s.servers, p)
			} else {
				s.clients[of] = append(s.clients[of], p)
			}
		}
	}
	for _, p := range s.servers {
		for _, a := range p.addrs {
			listenAt(t, p.Node, netip.AddrPortFrom(a, 80))
			listenAt(t, p.Node, netip.AddrPortFrom(a, 81))
		}
	}
	s.tell(t) // of their addresses
	return s
}

// podName is that of the pod on a node, and its container's, which no other namespace's may have.
func podName(of string, node int) string {
	return fmt.Sprintf("%s-%d", strings.ReplaceAll(of, "/", "-"), node)
}

// write writes a file for the agents at one stroke.
func (s *stage) write(t *testing.T, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "."+name), []byte(text), 0o600))
	require.NoError(t, os.Rename(filepath.Join(s.dir, "."+name), filepath.Join(s.dir, name)))
}

// tell says what an orchestrator would of namespaces and pods.
func (s *stage) tell(t *testing.T) {
	t.Helper()
	var b strings.Builder
	for _, namespace := range []string{"test", "myproject"} {
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {project: %[1]s}}\n---\n", namespace)
	}
	for of, labels := range s.labels {
		namespace, _, _ := strings.Cut(of, "/")
		all := s.clients[of]
		if of == server {
			all = s.servers
		}
		for i := range 2 {
			var ips []string
			if i < len(all) {
				for _, a := range all[i].addrs {
					ips = append(ips, fmt.Sprintf("{ip: %q}", a))
				}
			}
			fmt.Fprintf(&b, "apiVersion: v1\nkind: Pod\nmetadata: {namespace: %s, name: %s, labels: {%s}}\nstatus: {podIPs: [%s]}\n---\n",
				namespace, podName(of, i), labels, strings.Join(ips, ", "))
		}
	}
	s.write(t, "cluster.yaml", b.String())
}

// expect waits until what is open is what should be, and nothing else.
func (s *stage) expect(t *testing.T, when string, open func(client string, port int) bool) {
	t.Helper()
	eventually(t, func() error {
		var group sync.WaitGroup
		var mu sync.Mutex
		var errs []error
		for client, from := range s.clients {
			for i, pod := range from {
				for j, to := range s.servers {
					for _, a := range to.addrs {
						for _, port := range []int{80, 81} {
							group.Go(func() {
								err := dialAt(pod.Node, netip.AddrPortFrom(a, uint16(port)), 500*time.Millisecond)
								if open(client, port) != (err == nil) {
									mu.Lock()
									defer mu.Unlock()
									errs = append(errs, fmt.Errorf("%s: %s on node %d to port %d of %s on node %d: %w", when, client, i+1, port, a, j+1, errOr(err)))
								}
							})
						}
					}
				}
			}
		}
		group.Wait()
		return errors.Join(errs...)
	})
}

var errAnswered = errors.New("answered")

func errOr(err error) error {
	if err == nil {
		return errAnswered
	}
	return err
}
