package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/podweft/podweft/e2e/cluster"
	"github.com/podweft/podweft/testnet"
)

var (
	outage   = flag.Duration("outage", 3*time.Second, "how long the API server is away while pods talk")
	manifest = flag.String("manifest", "testdata/kube-flannel.yml", "a manifest for flannel that our image has to serve")
)

const annotation = "flannel.alpha.coreos.com/"

// TestDaemonSet: our manifest, and one for flannel of which only the image is changed, make a pod network of two nodes. Pods talk while
// the API server is away, and while agents end.
func TestDaemonSet(t *testing.T) {
	for _, tt := range []struct {
		name, manifest string
		conflistLast   bool
	}{
		{"ours", "../examples/flannel/deploy/podweft-flannel.yml", true},
		{"flannel's", *manifest, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			imageFiles(t, "flannel")
			f := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 3, Outside: true}) // the first is the control plane's
			c := cluster.Start(t, f.Nodes[0])
			m := c.ApplyManifest(tt.manifest)
			var machines []*player
			for i, name := range []string{"worker-1", "worker-2"} {
				c.AddNode(name, fmt.Sprintf("10.244.%d.0/24", i+1))
				forward(t, f.Nodes[i+1])
				machines = append(machines, newPlayer(t, c, f.Nodes[i+1], m, name))
			}
			a, b := machines[0], machines[1]
			a.start()
			b.start()
			a.ready()
			b.ready()
			env, err := os.ReadFile(a.host("/run/flannel/subnet.env"))
			require.NoError(t, err)
			assert.Equal(t, "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n", string(env))
			await(t, func() error { return configured(a) })
			if tt.conflistLast {
				assert.False(t, modified(t, a.host(conflist)).Before(modified(t, a.host("/run/flannel/subnet.env"))), "a node is Ready too early")
			}
			for i, name := range []string{"worker-1", "worker-2"} {
				await(t, func() error { return available(c.Node(name)) })
				n := c.Node(name)
				assert.Equal(t, "true", n.Annotations[annotation+"kube-subnet-manager"])
				assert.Equal(t, "vxlan", n.Annotations[annotation+"backend-type"])
				assert.Equal(t, machines[i].V4.String(), n.Annotations[annotation+"public-ip"])
				assert.Regexp(t, `^\{"VNI":1,"VtepMAC":"[0-9a-f:]{17}"\}$`, n.Annotations[annotation+"backend-data"])
			}

			from, to := a.newPod(), b.newPod()
			await(t, func() error { return reach(t, from, to.V4) })
			stop := pings(t, from, to.V4)
			c.StopServer()
			begun := time.Now()
			b.stop(syscall.SIGKILL)
			time.Sleep(*outage)
			require.NoError(t, a.agent.Process.Signal(syscall.Signal(0)), "the agent ended: %s", a.log)
			away := time.Since(begun)
			c.StartServer()
			// A third node appears, and is seen.
			c.AddNode("worker-3", "10.244.3.0/24")
			c.Annotate("worker-3", map[string]any{
				annotation + "kube-subnet-manager": "true", annotation + "backend-type": "vxlan",
				annotation + "backend-data": `{"VNI":1,"VtepMAC":"02:00:00:00:03:03"}`, annotation + "public-ip": "192.0.2.33",
			})
			returned := time.Now()
			await(t, func() error { return routed(a, "10.244.3.0/24") })
			t.Logf("a node was seen %s after it appeared, after %s without an API server", time.Since(returned).Round(time.Millisecond), away.Round(time.Second))
			b.start()
			await(t, func() error { return routed(b, "10.244.3.0/24") })
			a.stop(syscall.SIGTERM)
			a.start()
			c.DeleteNode("worker-3")
			await(t, func() error { return notRouted(a, "10.244.3.0/24") })
			sent, lost := stop()
			assert.Zero(t, lost, "of %d pings", sent)
			t.Logf("%d pings, %d lost; agent's memory: %s", sent, lost, memory(a))
		})
	}
}

const conflist = "/etc/cni/net.d/10-flannel.conflist"

func configured(m *player) error {
	text, err := os.ReadFile(m.host(conflist))
	if err == nil && string(text) != m.m.ConfigMap.Data["cni-conf.json"] {
		return errors.New("another configuration")
	}
	return err
}

func modified(t *testing.T, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	return info.ModTime()
}

func available(n *corev1.Node) error {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionFalse && c.Reason == "FlannelIsUp" {
			return nil
		}
	}
	return fmt.Errorf("conditions: %v", n.Status.Conditions)
}

// forward lets the machine forward: containers cannot, and what prepares a node for Kubernetes does.
func forward(t *testing.T, n *testnet.Node) {
	t.Helper()
	require.NoError(t, n.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) }))
}

func reach(t *testing.T, from *testnet.Node, to netip.Addr) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := from.Ping(ctx, to)
	return err
}

func routed(m *player, to string) error {
	out, err := m.Command(m.t.Context(), "ip", "route", "show", to).CombinedOutput()
	if err == nil && len(out) == 0 {
		return fmt.Errorf("no route to %s: %s", to, m.log)
	}
	return err
}

func notRouted(m *player, to string) error {
	out, err := m.Command(m.t.Context(), "ip", "route", "show", to).CombinedOutput()
	if err == nil && len(out) != 0 {
		return fmt.Errorf("still there: %s", out)
	}
	return err
}

func memory(m *player) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.agent.Process.Pid))
	for line := range strings.Lines(string(text)) {
		if value, is := strings.CutPrefix(line, "VmRSS:"); is {
			return strings.TrimSpace(value)
		}
	}
	return "not known"
}

// pings are sent every 5 ms until stop, which returns how many there were and how many had no answer.
func pings(t *testing.T, from *testnet.Node, to netip.Addr) (stop func() (sent, lost int)) {
	t.Helper()
	p, err := from.Pinger()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var all sync.WaitGroup
	sent, lost := 0, 0
	all.Go(func() {
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			all.Go(func() {
				echo, end := context.WithTimeout(context.WithoutCancel(ctx), patience) // a loaded machine is late: lost is what never comes
				defer end()
				_, err := p.Ping(echo, to)
				mu.Lock()
				defer mu.Unlock()
				sent++
				if err != nil {
					lost++
				}
			})
		}
	})
	return func() (int, int) {
		cancel()
		all.Wait()
		_ = p.Close()
		return sent, lost
	}
}
