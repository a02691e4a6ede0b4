package calico_test

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/examples/flannel/embedded"
	"github.com/podweft/podweft/testnet"
)

// etcdVar makes the test binary an etcd, with its data in the directory that it names.
const etcdVar = "PODWEFT_CALICO_ETCD"

// runEtcd is an etcd that all addresses of its namespace lead to, until it is killed.
func runEtcd(dir string) error {
	server, err := embedded.Start(context.Background(), embedded.Config{Dir: dir, Client: "http://0.0.0.0:2379"})
	if err != nil {
		return err
	}
	return <-server.Failed()
}

// etcdIn starts an etcd in a node. It does not wait for it.
func etcdIn(t testing.TB, n *testnet.Node, dir string) (kill func()) {
	t.Helper()
	cmd := n.Command(context.Background(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), etcdVar+"="+dir)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	kill = func() { end(cmd) }
	t.Cleanup(kill)
	return kill
}

// end is kill -9 of what may have been killed before.
func end(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // which says that it was killed
	}
}

// TestEtcd: blocks and nodes are in an etcd behind the router. While it is away everybody keeps what he has, and pods are attached all the
// same, from blocks that are claimed.
func TestEtcd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	data := t.TempDir()
	kill := etcdIn(t, w.Router, data)
	flags := []string{"--etcd-endpoints=http://192.0.2.254:2379", "--store-dir=", "--ipv4-pool-vxlan=CrossSubnet", "--ipv6-pool-vxlan=CrossSubnet"}
	var agents []*process
	for _, n := range w.Nodes() {
		agents = append(agents, w.launch(t, n, flags...))
	}
	for _, a := range agents {
		a.wait(t, "the other's blocks", func(s calico.Status) bool { return len(s.Routes) == 2 && s.BGP.Established == 1 })
	}
	one, two := w.add(t, w.Nodes()[0], "one"), w.add(t, w.Nodes()[1], "two")
	reaches(t, one.Node, two.addrs...)

	stop := storm(t, one.Node, two)
	kill()
	three := w.add(t, w.Nodes()[0], "three")
	reaches(t, two.Node, three.addrs...)
	s := agents[0].wait(t, "what the agent says of the store", func(s calico.Status) bool { return s.Problem != "" })
	assert.Len(t, s.Blocks, 2, "what the node has it knows by itself")
	assert.Len(t, s.Routes, 2)
	agents[1].kill(t)
	agents[0].wait(t, "the loss of the session", func(s calico.Status) bool {
		return s.BGP.Established == 0 && len(s.Routes) == 2 && s.Routes[0].Stale
	})
	etcdIn(t, w.Router, data)
	agents[0].wait(t, "the store", func(s calico.Status) bool { return s.Problem == "" && len(s.Blocks) == 2 })
	lost, sent := stop()
	assert.Zero(t, lost, "of %d", sent)
	shown := agents[1].do(t, "ipam", "show")
	for _, n := range w.Nodes() {
		assert.Equal(t, 2, strings.Count(shown, n.Name), shown)
	}
}

// TestEmbeddedEtcd: the store is in one of the agents. When that is killed and comes back, nobody has lost a packet or a block.
func TestEmbeddedEtcd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	url := "http://" + w.Nodes()[0].V4.String() + ":2379"
	flags := []string{"--store-dir=", "--ipv4-pool-vxlan=CrossSubnet", "--ipv6-pool-vxlan=CrossSubnet"}
	first := w.launch(t, w.Nodes()[0], slices.Concat(flags, []string{"--etcd-listen=" + url, "--etcd-data=" + t.TempDir()})...)
	second := w.launch(t, w.Nodes()[1], slices.Concat(flags, []string{"--etcd-endpoints=" + url})...)
	for _, a := range []*process{first, second} {
		a.wait(t, "the other's blocks", func(s calico.Status) bool { return len(s.Routes) == 2 && s.BGP.Established == 1 })
	}
	one, two := w.add(t, w.Nodes()[0], "one"), w.add(t, w.Nodes()[1], "two")
	reaches(t, one.Node, two.addrs...)
	before := first.wait(t, "its blocks", func(s calico.Status) bool { return len(s.Blocks) == 2 })
	first.hasNoted(t)

	stop := storm(t, two.Node, one)
	first.kill(t)
	second.wait(t, "what it says of the store", func(s calico.Status) bool { return s.Problem != "" && len(s.Routes) == 2 })
	three := w.add(t, w.Nodes()[1], "three")
	reaches(t, one.Node, three.addrs...)
	first.start(t)
	after := first.wait(t, "the agent again", func(s calico.Status) bool {
		return s.Ready && len(s.Routes) == 2 && s.BGP != nil && s.BGP.Established == 1
	})
	second.wait(t, "the store again", func(s calico.Status) bool { return s.Problem == "" })
	lost, sent := stop()
	assert.Zero(t, lost, "of %d", sent)
	assert.Positive(t, sent)
	assert.Equal(t, before.Blocks, after.Blocks)
	shown := second.do(t, "ipam", "show")
	for _, n := range w.Nodes() {
		assert.Equal(t, 2, strings.Count(shown, n.Name), shown)
	}
}
