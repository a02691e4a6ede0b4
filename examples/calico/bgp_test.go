package calico_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

// topOfRack is the router as a node's peer, by the address that all of them reach.
const topOfRack = `apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 64512, nodeToNodeMeshEnabled: true}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor1}
spec: {peerIP: 192.0.2.254, asNumber: 64600, nodeSelector: rack == '1'}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor2}
spec: {peerIP: 198.51.100.254, asNumber: 64600, nodeSelector: rack == '2'}
`

// speaking is racks of agents that speak BGP with each other and with the router.
func speaking(t testing.TB, nodes int) (w *world, agents []*process) {
	t.Helper()
	w = newWorld(t, nodes)
	objects := filepath.Join(w.dir, "calico.yaml")
	require.NoError(t, os.WriteFile(objects, []byte(topOfRack), 0o600))
	tor := []string{"tor", "--id=192.0.2.254", "--links=rack1,rack2"}
	for _, n := range w.Nodes() {
		tor = append(tor, "--peer="+n.V4.String()+",64512")
	}
	router := command(context.Background(), w.Router, tor...)
	beside(t, "router", router)
	var starting sync.WaitGroup
	agents = make([]*process, len(w.Nodes()))
	for i, rack := range w.Racks.Racks {
		for j, n := range rack {
			labels := "--node-labels=rack=" + string(rune('1'+i))
			starting.Go(func() {
				agents[i*nodes+j] = w.launch(t, n, "--config="+objects, labels, "--ipv4-pool-vxlan=CrossSubnet", "--ipv6-pool-vxlan=CrossSubnet")
			})
		}
	}
	starting.Wait()
	return w, agents
}

// TestBGP: a full mesh over two racks, with the router as everybody's peer; the router itself reaches pods by what it has learned; an
// agent that is killed and started again loses nobody a packet.
func TestBGP(t *testing.T) {
	t.Parallel()
	w, agents := speaking(t, 2)
	for i, a := range agents {
		s := a.wait(t, "sessions", func(s calico.Status) bool {
			return s.BGP != nil && s.BGP.Established == 4 && len(s.Routes) == 6
		})
		near := agents[i^1].node.Name
		for _, r := range s.Routes {
			want := "vxlan"
			if r.Node == near {
				want = "direct"
			}
			assert.Equal(t, want, r.Way, r.String())
		}
	}
	var pods []*pod
	for i, n := range w.Nodes() {
		pods = append(pods, w.add(t, n, "pod"+string(rune('a'+i))))
	}
	for _, from := range pods {
		for _, to := range pods {
			if from != to {
				reaches(t, from.Node, to.addrs...)
			}
		}
		reaches(t, w.Router, from.addrs[:1]...)
	}
	assert.Equal(t, "icmp", passes(t, w, pods[0], pods[1], true))
	assert.Equal(t, "vxlan", passes(t, w, pods[0], pods[2], true))

	agents[0].hasNoted(t)
	stop := storm(t, pods[2].Node, pods[0])
	back := storm(t, pods[0].Node, pods[1])
	agents[0].kill(t)
	agents[2].wait(t, "the loss of the session", func(s calico.Status) bool { return s.BGP.Established == 3 })
	agents[0].start(t)
	agents[0].wait(t, "sessions again", func(s calico.Status) bool { return s.Ready && s.BGP != nil && s.BGP.Established == 4 })
	for what, stop := range map[string]func() (int, int){"to it": stop, "from it": back} {
		lost, sent := stop()
		assert.Zero(t, lost, "of %d %s", sent, what)
		assert.Greater(t, sent, 20, what)
	}
	table := agents[0].do(t, "status")
	for _, text := range []string{"node1 is ready", "BGP: AS 64512, router 192.0.2.1, 4 of 4 sessions up", "tor1", "direct", "vxlan", "default-ipv4-ippool"} {
		assert.Contains(t, table, text)
	}
	assert.Empty(t, strings.Join(planned(agents[0].do(t, "plan")), "\n"), "what runs is what was planned")

	// A pod that is made anew on another node, by its name.
	pods[3].del(t)
	w.addReached(t, w.Nodes()[1], "moved", pods[0].Node, pods[2].Node)
}

// TestMovedWhileBound: a speaker that listens at the node's addresses alone is not reached at a new one. The agent ends,
// and the one after it listens there.
func TestMovedWhileBound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	objects := filepath.Join(t.TempDir(), "calico.yaml")
	require.NoError(t, os.WriteFile(objects, []byte("{kind: BGPConfiguration, metadata: {name: default}, spec: {bindMode: NodeIP}}"), 0o600))
	flags := []string{"--ip=autodetect", "--ip-autodetection=interface=eth0", "--config=" + objects}
	nodes := w.Nodes()[:2]
	stays, moves := w.launch(t, nodes[0], flags...), w.launch(t, nodes[1], flags...) // the lower address dials
	speaks := func(s calico.Status) bool { return s.BGP != nil && s.BGP.Established == 1 }
	moves.wait(t, "the session", speaks)

	without4(t, nodes[1])
	require.NoError(t, nodes[1].Command(t.Context(), "ip", "address", "add", "192.0.2.77/24", "dev", "eth0").Run())
	cmd := moves.cmd
	moves.cmd = nil // it is to end by itself
	stop := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	require.Error(t, cmd.Wait(), "somebody has to start it anew")
	require.Contains(t, moves.log.String(), "underlay: 192.0.2.77: "+calico.ErrMoved.Error())
	moves.start(t)
	moves.wait(t, "the session", speaks)
	s := stays.wait(t, "the session", speaks)
	assert.Equal(t, "192.0.2.77", s.BGP.Peers[0].Addr.String())
}

// TestOneFamilyAmongBoth: a node that has IPv6 alone hears of IPv4 blocks behind IPv4 addresses, which it cannot reach. The nodes that have
// those have IPv6 too, so their pods are reached in the tunnel, as its own are by theirs.
func TestOneFamilyAmongBoth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	nodes := w.Nodes()[:3]
	without4(t, nodes[1])
	var pods []*pod
	for i, n := range nodes { // the third is in the other rack
		w.launch(t, n, "--ip=autodetect", "--ip-autodetection=interface=eth0", "--ipv4-pool-vxlan=CrossSubnet", "--ipv6-pool-vxlan=CrossSubnet")
		pods = append(pods, w.add(t, n, fmt.Sprint("pod", i)))
	}
	for _, from := range pods {
		for _, to := range pods {
			require.Len(t, to.addrs, 2)
			reaches(t, from.Node, to.addrs...)
		}
	}
}

// TestNewBlock: a pod is reached from other nodes within a second of its ADD, also where its node had to claim a block for it, of which
// nobody had heard before.
func TestNewBlock(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"bird", "vxlan"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 2)
			etcdIn(t, w.Router, t.TempDir()) // of a store in files everybody would hear everything
			flags := []string{"--backend=" + backend, "--etcd-endpoints=http://192.0.2.254:2379", "--store-dir=",
				"--ipv4-pool-block-size=31", "--ipv6-pool-block-size=127"} // for addReached to need new ones
			var agents []*process
			for _, n := range w.Racks.Racks[0] {
				agents = append(agents, w.launch(t, n, flags...))
			}
			for i, a := range agents {
				s := a.wait(t, "the session", func(s calico.Status) bool { return s.BGP == nil || s.BGP.Established == 1 })
				require.Empty(t, s.Blocks, "only pods need addresses here")
				require.Empty(t, s.Routes, "%d", i)
			}
			one := w.addReached(t, agents[0].node, "one", agents[1].node)
			w.addReached(t, agents[1].node, "two", agents[0].node, one.Node)
		})
	}
}

// addReached is add, and requires that others reach the pod within sabotage.Limit of it: a second. A busy machine is late now and then, so
// one pod of three will do.
func (w *world) addReached(t testing.TB, host *testnet.Node, name string, from ...*testnet.Node) *pod {
	t.Helper()
	const times = 3
	var took time.Duration
	for i := range times {
		if i > 0 {
			w.add(t, host, fmt.Sprint(name, "beside", i)) // the second of a block of two, so that the next needs a new one
		}
		p := w.add(t, host, fmt.Sprint(name, i))
		watch := sabotage.Start(t, host)
		for _, f := range from {
			for _, a := range p.addrs {
				require.Eventually(t, func() bool {
					ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
					defer cancel()
					_, err := f.Ping(ctx, a)
					return err == nil
				}, patience, 10*time.Millisecond, "%s to %s", f.Name, a)
			}
		}
		took = watch.Stop()
		t.Logf("%s was reached after %s that count", p.Name, took)
		if took <= sabotage.Limit() {
			return p
		}
	}
	require.LessOrEqual(t, took, sabotage.Limit(), "%s was late %d times", name, times)
	return nil
}

// hasNoted waits until what the agent has learned is in its speaker's state file, for the agent that comes next.
func (p *process) hasNoted(t testing.TB) {
	t.Helper()
	eventually(t, func() error {
		s, err := p.status()
		if err != nil {
			return err
		}
		files, err := filepath.Glob(filepath.Join(p.w.dir, p.node.Name, "bgp-*.json"))
		if err != nil {
			return err
		}
		if len(files) != 1 || len(s.Routes) == 0 {
			return fmt.Errorf("state files %v for %d routes", files, len(s.Routes))
		}
		noted, err := os.ReadFile(files[0])
		if err != nil {
			return err
		}
		for _, r := range s.Routes {
			if !bytes.Contains(noted, []byte(strconv.Quote(r.Prefix.String()))) {
				return fmt.Errorf("%s is not noted: %s", r.Prefix, noted)
			}
		}
		return nil
	})
}

// planned are the changes in what plan prints.
func planned(text string) (changes []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "+ ") || strings.HasPrefix(line, "- ") || strings.HasPrefix(line, "~ ") {
			changes = append(changes, strings.TrimSpace(line))
		}
	}
	return changes
}

// storm pings a pod without a pause until stop; that returns how many answers were missed, of how many.
func storm(t testing.TB, from *testnet.Node, to *pod) (stop func() (lost, sent int)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	type result struct{ lost, sent int }
	done := make(chan result)
	go func() {
		var r result
		for ctx.Err() == nil {
			try, giveUp := context.WithTimeout(context.Background(), patience) // a loaded machine is late, not lossy
			if _, err := from.Ping(try, to.addrs[r.sent%len(to.addrs)]); err != nil {
				r.lost++
			}
			giveUp()
			r.sent++
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
		done <- r
	}()
	return func() (int, int) {
		cancel()
		r := <-done
		return r.lost, r.sent
	}
}
