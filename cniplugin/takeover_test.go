package cniplugin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/testnet"
)

// withReference wants the reference plugins.
func withReference(t *testing.T) {
	t.Helper()
	testnet.Require(t)
	if _, err := os.Stat(filepath.Join(reference, "host-local")); err != nil {
		if os.Getenv("PODWEFT_REQUIRE_KERNEL") == "1" {
			require.NoError(t, err, "apt install containernetworking-plugins")
		}
		t.Skip(err)
	}
}

// callReference runs a reference plugin on the node and returns its result.
func (n *node) callReference(t *testing.T, kind, command string, pod *testnet.Node, conf any, env ...string) json.RawMessage {
	t.Helper()
	stdin, err := json.Marshal(conf)
	require.NoError(t, err)
	cmd := n.ns.Command(t.Context(), filepath.Join(reference, kind))
	cmd.Env = append(append(os.Environ(), about(pod, append(env, "CNI_PATH="+reference)...)...), "CNI_COMMAND="+command)
	cmd.Stdin = strings.NewReader(string(stdin))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return out
}

// TestTakeOverUnderPings changes the plugin of a node while fifty pods run that the reference's bridge and host-local plugins
// attached: each answers until its own DEL.
func TestTakeOverUnderPings(t *testing.T) {
	withReference(t)
	const running = 50
	n := newNode(t)
	data := filepath.Join(n.dir, "networks")
	theirs := map[string]any{
		"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "bridge": "old0", "isDefaultGateway": true,
		"ipam": map[string]any{"type": "host-local", "dataDir": data, "ranges": [][]map[string]string{{{"subnet": "10.244.1.0/24"}}}},
	}
	ours := map[string]any{}
	for k, v := range theirs {
		ours[k] = v
	}
	ours["type"], ours["stateDir"] = "podweft-cni", n.dir
	var old []*testnet.Node
	for i := range running {
		old = append(old, testnet.NewNode(t, fmt.Sprintf("old-%d", i)))
		n.callReference(t, "bridge", "ADD", old[i], theirs)
	}
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 2)}) }
	pinger, err := n.ns.Pinger()
	require.NoError(t, err)
	for i := range running { // what is lost before a pod has answered once, the other plugin lost
		require.Eventually(t, func() bool {
			one, done := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer done()
			_, err := pinger.Ping(one, address(i))
			return err == nil
		}, patience, time.Millisecond, "old pod %d", i)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var pings sync.WaitGroup
	var answered atomic.Int64
	leaving := make([]chan struct{}, running)
	gone := make([]chan struct{}, running)
	for i := range running {
		leaving[i], gone[i] = make(chan struct{}), make(chan struct{})
		pings.Go(func() {
			defer close(gone[i])
			for {
				select {
				case <-leaving[i]:
					return
				case <-ctx.Done():
					return
				case <-time.After(10 * time.Millisecond):
				}
				// It waits as long as a loaded machine may need: only what never comes is lost.
				one, done := context.WithTimeout(t.Context(), patience)
				_, err := pinger.Ping(one, address(i))
				done()
				if !assert.NoError(t, err, "old pod %d", i) {
					return
				}
				answered.Add(1)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		pings.Wait()
		pinger.Close()
	})

	taken := map[string]bool{}
	for i := range 20 {
		r := n.add(t, testnet.NewNode(t, fmt.Sprintf("new-%d", i)), ours)
		prefix := netip.MustParsePrefix(r.IPs[0].Address)
		assert.False(t, taken[r.IPs[0].Address], "%s twice", prefix)
		taken[r.IPs[0].Address] = true
		for j := range running {
			assert.NotEqual(t, address(j), prefix.Addr(), "old pod %d has it", j)
		}
	}
	for i, pod := range old {
		close(leaving[i])
		<-gone[i]
		r := n.call(t, "podweft-cni", "DEL", ours, about(pod)...)
		require.Zero(t, r.code, r)
	}
	assert.Positive(t, answered.Load())
	left, err := filepath.Glob(filepath.Join(data, "pods", "10.*"))
	require.NoError(t, err)
	assert.Empty(t, left, "host-local's files go with the pods")
	assert.Len(t, n.linkNames(t), 2+20, "lo, the bridge, the new pods")
}
