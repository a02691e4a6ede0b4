package cniplugin_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/cniplugin"
	"github.com/podweft/podweft/internal/flock"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/ipam/block/memory"
	"github.com/podweft/podweft/testnet"
)

// TestMasqueradeIsKept: an ADD looks no closer than it must, and still makes what somebody has taken away.
func TestMasqueradeIsKept(t *testing.T) {
	n := newNode(t)
	conf := n.conf(map[string]any{"ipMasq": true})
	them := n.nft(t)
	whole := func() {
		t.Helper()
		rules, err := them.Rules(t.Context(), masqueradeTable)
		require.NoError(t, err)
		assert.Len(t, rules, 3)
	}
	pod := testnet.NewNode(t, "first")
	checked := n.conf(map[string]any{"ipMasq": true, "prevResult": result(n.add(t, pod, conf))})
	whole()
	n.add(t, testnet.NewNode(t, "second"), conf)
	whole()
	require.Zero(t, n.call(t, "podweft-cni", "CHECK", checked, about(pod)...).code)
	drop(t, them, masqueradeTable)
	r := n.call(t, "podweft-cni", "CHECK", checked, about(pod)...)
	assert.Equal(t, cniplugin.CodeMissing, r.Code, r)
	assert.Contains(t, r.Details, "masquerading lacks table inet podweft-pods-nat")
	n.add(t, testnet.NewNode(t, "third"), conf)
	whole()
	require.Zero(t, n.call(t, "podweft-cni", "CHECK", checked, about(pod)...).code)

	wider := n.conf(map[string]any{"ipMasq": true, "ipam": map[string]any{"routes": []any{map[string]any{"dst": "10.99.0.0/16"}}}})
	n.add(t, testnet.NewNode(t, "fourth"), wider)
	exempt, err := them.Elements(t.Context(), nft.Set{Table: masqueradeTable, Name: "exempt4", Key: nft.IPv4Addr, Interval: true})
	require.NoError(t, err)
	assert.Len(t, exempt, 3, "the cluster with the pods within, what is routed to it now, multicast")
}

var masqueradeTable = nft.Table{Family: nft.INet, Name: "podweft-pods-nat"}

// nft is somebody else who is at the node's tables, until the test ends.
func (n *node) nft(t testing.TB) *nft.Conn {
	t.Helper()
	c, err := nft.Open(n.ns.NetNS())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// drop deletes a table, as somebody does who flushes the ruleset.
func drop(t testing.TB, them *nft.Conn, table nft.Table) {
	t.Helper()
	var b nft.Batch
	b.DeleteTable(table)
	require.NoError(t, them.Commit(t.Context(), &b))
}

// masquerades waits until the network's table is whole.
func (n *node) masquerades(t testing.TB, them *nft.Conn) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		rules, err := them.Rules(t.Context(), masqueradeTable)
		if err == nil && len(rules) == 3 {
			break
		}
		require.Less(t, time.Since(begin), patience, "%v, %d rules", err, len(rules))
	}
	assert.Equal(t, []string{"10.244.1.0"}, n.masqueraded(t))
}

// putBack deletes the table and returns how long it was before it was whole again.
func (n *node) putBack(t testing.TB, them *nft.Conn) time.Duration {
	t.Helper()
	begin := time.Now()
	drop(t, them, masqueradeTable)
	n.masquerades(t, them)
	return time.Since(begin)
}

// TestAgentPutsMasqueradingBack: for networks that were there before it, that came later and that came while none ran.
func TestAgentPutsMasqueradingBack(t *testing.T) {
	n := newNode(t)
	them := n.nft(t)
	conf := n.conf(map[string]any{"ipMasq": true})
	again := func() {
		t.Helper()
		best := time.Hour // what a machine that has much else to do can make of it
		for range 5 {
			watch := sabotage.Start(t, n.ns)
			n.putBack(t, them)
			best = min(best, watch.Stop())
		}
		assert.Less(t, best, 50*time.Millisecond)
	}
	stop := n.agent(t)
	first := testnet.NewNode(t, "first")
	n.add(t, first, conf)
	again()
	stop()
	n.masquerades(t, them)
	drop(t, them, masqueradeTable)
	n.agent(t)
	n.masquerades(t, them)
	again()

	require.Zero(t, n.call(t, "podweft-cni", "DEL", conf, about(first)...).code)
	again() // it is the node's, not the pod's

	// What is not recorded any more is nobody's to keep. Two others show when that has been heard.
	lock, err := os.Open(filepath.Join(n.dir, "masquerade.lock")) // else a pass that has just read the record may put the table back
	require.NoError(t, err)
	defer lock.Close()
	require.NoError(t, flock.Lock(t.Context(), lock))
	require.NoError(t, os.Remove(filepath.Join(n.dir, "masquerade", "pods")))
	drop(t, them, masqueradeTable)
	flock.Unlock(lock)
	n.add(t, testnet.NewNode(t, "another"), n.conf(map[string]any{"ipMasq": true, "name": "other", "bridge": "cni1"}))
	_, err = them.Table(t.Context(), masqueradeTable)
	require.ErrorIs(t, err, os.ErrNotExist)
	n.add(t, testnet.NewNode(t, "second"), conf)
	again()
}

// TestMasqueradingIsMadeOnce: plugins and the agent put back what somebody takes away again and again, and make nothing twice.
func TestMasqueradingIsMadeOnce(t *testing.T) {
	const many = 40
	n := newNode(t)
	them := n.nft(t)
	n.agent(t)
	conf := n.conf(map[string]any{"ipMasq": true})
	n.add(t, testnet.NewNode(t, "first"), conf)
	var pods []*testnet.Node
	for i := range many {
		pods = append(pods, testnet.NewNode(t, fmt.Sprintf("pod-%d", i)))
	}
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := worker; i < many; i += 4 {
				r := n.call(t, "podweft-cni", "ADD", conf, about(pods[i])...)
				assert.Zero(t, r.code, r)
			}
		})
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		wg.Wait()
	}()
	for flushing := true; flushing; {
		n.masquerades(t, them)
		drop(t, them, masqueradeTable)
		select {
		case <-over:
			flushing = false
		default:
		}
	}
	n.masquerades(t, them)
	time.Sleep(20 * time.Millisecond) // a loop that looks again would make another
	n.masquerades(t, them)
}

// TestMasqueradingOfAnotherBoot: what was recorded before a reboot is void, and what cannot be read keeps nobody from the rest.
func TestMasqueradingOfAnotherBoot(t *testing.T) {
	n := newNode(t)
	them := n.nft(t)
	n.boot = "before"
	conf := n.conf(map[string]any{"ipMasq": true})
	n.add(t, testnet.NewNode(t, "first"), conf)
	require.NoError(t, os.WriteFile(filepath.Join(n.dir, "masquerade", "damaged"), []byte("10.1.0.0/16\n"), 0o600))
	drop(t, them, masqueradeTable)
	n.boot = ""
	n.agent(t)
	n.add(t, testnet.NewNode(t, "another"), n.conf(map[string]any{"ipMasq": true, "name": "other", "bridge": "cni1"}))
	other := nft.Table{Family: nft.INet, Name: "podweft-other-nat"}
	drop(t, them, other)
	require.Eventually(t, func() bool {
		_, err := them.Table(t.Context(), other)
		return err == nil
	}, patience, time.Millisecond)
	_, err := them.Table(t.Context(), masqueradeTable)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// BenchmarkMasqueradingComesBack is how long the table is gone after somebody has deleted it, with an Agent at work.
func BenchmarkMasqueradingComesBack(b *testing.B) {
	n := newNode(b)
	them := n.nft(b)
	n.agent(b)
	n.add(b, testnet.NewNode(b, "first"), n.conf(map[string]any{"ipMasq": true}))
	var took []time.Duration
	for b.Loop() {
		took = append(took, n.putBack(b, them))
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1000, "ms/median")
	b.ReportMetric(took[len(took)-1].Seconds()*1000, "ms/worst")
}

// masqueraded are the prefixes of pods that leave with the node's address.
func (n *node) masqueraded(t testing.TB) (all []string) {
	t.Helper()
	c, err := nft.Open(n.ns.NetNS())
	require.NoError(t, err)
	defer c.Close()
	elements, err := c.Elements(t.Context(), nft.Set{Table: masqueradeTable, Name: "pods4", Key: nft.IPv4Addr, Interval: true})
	require.NoError(t, err)
	for _, e := range elements {
		from, ok := netip.AddrFromSlice([]byte(e.Key))
		require.True(t, ok)
		all = append(all, from.String())
	}
	slices.Sort(all)
	return all
}

// TestMasqueradeOfSeveralRanges: the pods of one range keep theirs when a pod of another comes.
func TestMasqueradeOfSeveralRanges(t *testing.T) {
	n := newNode(t)
	ranges := func(texts ...string) (set []any) {
		for _, text := range texts {
			set = append(set, map[string]any{"subnet": text})
		}
		return set
	}
	conf := n.conf(map[string]any{"ipMasq": true, "ipam": map[string]any{"ranges": []any{ranges("10.1.0.0/30", "10.2.0.0/30")}}})
	one, two := testnet.NewNode(t, "first"), testnet.NewNode(t, "second")
	first, second := n.add(t, one, conf), n.add(t, two, conf)
	assert.Equal(t, "10.1.0.2/30", first.IPs[0].Address)
	assert.Equal(t, "10.2.0.2/30", second.IPs[0].Address)
	assert.Equal(t, []string{"10.1.0.0", "10.2.0.0"}, n.masqueraded(t))
	for pod, gateway := range map[*testnet.Node]string{one: "10.1.0.1", two: "10.2.0.1"} { // each keeps its own
		_, err := pod.Ping(t.Context(), netip.MustParseAddr(gateway))
		require.NoError(t, err, gateway)
	}

	// The runtime names ranges for one pod alone.
	conf["runtimeConfig"] = map[string]any{"ipRanges": []any{ranges("10.3.0.0/29")}}
	conf["ipam"] = nil
	n.add(t, testnet.NewNode(t, "third"), conf)
	assert.Equal(t, []string{"10.1.0.0", "10.2.0.0", "10.3.0.0"}, n.masqueraded(t))
}

// TestMasqueradeOfSingleAddresses: pods that have no range in common are masqueraded as long as they live.
func TestMasqueradeOfSingleAddresses(t *testing.T) {
	n := newNode(t)
	n.forward(t)
	n.agentWith(t, n.blocks(t, memory.New(), "node-1"), 0)
	conf := n.conf(map[string]any{"type": "ptp", "ipMasq": true, "ipam": map[string]any{"type": "podweft-agent"}})
	pods := []*testnet.Node{testnet.NewNode(t, "a"), testnet.NewNode(t, "b"), testnet.NewNode(t, "c")}
	var want []string
	for _, pod := range pods {
		want = append(want, netip.MustParsePrefix(n.add(t, pod, conf).IPs[0].Address).Addr().String())
		slices.Sort(want)
		assert.Equal(t, want, n.masqueraded(t))
	}
}
