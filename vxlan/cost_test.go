package vxlan_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
	"github.com/podweft/podweft/vxlan"
)

// TestResidentMemory is that of a process which keeps a node at 5,000 peers, at rest and at its height. How high it gets depends on
// when Go collects garbage, and on the size of the kernel's pages.
func TestResidentMemory(t *testing.T) {
	const bar = 40 << 10 // KiB
	node := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1}).Nodes[0]
	a := sabotage.StartAgent[vxlan.Spec](t, node)
	spec := manyPeers(node, 5000)
	a.Keep(t, spec)
	for i := range 3 { // the change of one peer; each order is a megabyte of JSON, which counts too
		moved := spec
		moved.Peers = slices.Clone(spec.Peers)
		moved.Peers[2500].MAC[2] = byte(i + 1)
		a.Keep(t, moved)
	}
	a.Rest(t)
	now, most := residentKiB(t, a, "VmRSS"), residentKiB(t, a, "VmHWM")
	t.Logf("5,000 peers: %.1f MiB resident, %.1f MiB at the most", float64(now)/1024, float64(most)/1024)
	if sabotage.RaceDetector() {
		return // it has its own memory for ours
	}
	assert.LessOrEqual(t, now, bar)
}

func residentKiB(t testing.TB, a *sabotage.Agent[vxlan.Spec], line string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.PID))
	require.NoError(t, err)
	for l := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(l, line+":"); ok {
			n, err := strconv.Atoi(strings.Fields(text)[0])
			require.NoError(t, err)
			return n
		}
	}
	require.Fail(t, "not in /proc/PID/status", line)
	return 0
}

// TestSystemCalls counts those that k changed peers among 5,000 cost: two for each full batch of requests, of which there are three for
// a peer.
func TestSystemCalls(t *testing.T) {
	node := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1}).Nodes[0]
	a := sabotage.StartAgent[vxlan.Spec](t, node)
	spec := manyPeers(node, 5000)
	a.Keep(t, spec)
	tr := startTrace(t, a.PID)
	// An order of its own, so that what the trace begins with is not counted.
	a.Keep(t, spec)
	// Of 5,000 at once the echoes may overflow the watch's buffer, and then everything is read once more, at some time.
	for quiet := 0; quiet < 3; quiet++ {
		time.Sleep(100 * time.Millisecond)
		if tr.calls(t) > 0 {
			quiet = -1
		}
	}
	for i, k := range []int{0, 1, 10, 100, 1000} {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			moved := spec
			moved.Peers = slices.Clone(spec.Peers)
			for j := range k { // another MAC and another address: a neighbour, two forwarding entries
				p := &moved.Peers[j]
				p.MAC = podweft.MAC{0x0e, 3, byte(i), 0, byte(j >> 8), byte(j)}
				p.Underlay = netip.AddrFrom4([4]byte{198, 51, byte(j >> 8), byte(j)})
			}
			a.Keep(t, moved)
			calls := tr.calls(t)
			t.Logf("%d changed peers: %d system calls", k, calls)
			assert.LessOrEqual(t, calls, 2+3*k/250)
			assert.Equal(t, k > 0, calls > 0)
			spec = moved
		})
	}
	a.Kill(t)
	<-tr.ended
}
