package nftables_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/nftables"
	"github.com/podweft/podweft/testnet"
)

// ownFlags are those of a driver's own table, none where the kernel has no such tables.
func ownFlags(t testing.TB, n *testnet.Node) nft.TableFlags {
	t.Helper()
	probe := nft.Table{Family: nft.INet, Name: "probe"}
	var b nft.Batch
	b.AddTable(probe, nft.Owned|nft.Persist)
	b.DeleteTable(probe)
	err := someone(t, n).Commit(t.Context(), &b)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return 0
	}
	require.NoError(t, err)
	return nft.Owned | nft.Persist
}

func tableOf(t testing.TB, n *testnet.Node) nft.TableInfo {
	t.Helper()
	info, err := someone(t, n).Table(t.Context(), ours)
	require.NoError(t, err)
	return info
}

// flush has the nft program flush all tables of a node, and reports whether there is such a program.
func flush(ctx context.Context, n *testnet.Node) (bool, error) {
	if _, err := exec.LookPath("nft"); err != nil {
		return false, nil
	}
	out, err := n.Command(ctx, "nft", "flush", "ruleset").CombinedOutput()
	if err != nil {
		return true, fmt.Errorf("nft flush ruleset: %w: %s", err, out)
	}
	return true, nil
}

// deeds are what other programs may do to a table.
func deeds() map[string]func(b *nft.Batch) {
	return map[string]func(b *nft.Batch){
		"delete the table": func(b *nft.Batch) { b.DeleteTable(ours) },
		"flush rules":      func(b *nft.Batch) { b.FlushChain(nft.Chain{Table: ours, Name: "policies"}) },
		"put it to sleep":  func(b *nft.Batch) { b.AddTable(ours, nft.Dormant|nft.Persist) },
		"let somebody in": func(b *nft.Batch) {
			node := nft.Set{Table: ours, Name: "node4", Key: nft.IPv4Addr}
			b.AddElements(node, nft.Element{Key: string([]byte{10, 244, 1, 12})})
		},
	}
}

// TestOwnTable: nobody else changes a driver's own table, until it closes; then anybody may, and the next driver makes it its own.
func TestOwnTable(t *testing.T) {
	n := testnet.NewNode(t, "node")
	first, them, spec := newDriver(t, nftables.Config{NetNS: n.NetNS()}), someone(t, n), villageSpec(t)
	apply(t, first, spec)
	flags := ownFlags(t, n)
	require.Equal(t, flags, tableOf(t, n).Flags)
	if flags == 0 {
		t.Log("not tested: the kernel has no tables that outlive their owners")
		return
	}
	inSync(t, first, spec)
	before, err := them.Generation(t.Context())
	require.NoError(t, err)
	for name, deed := range deeds() {
		t.Run(name, func(t *testing.T) {
			var b nft.Batch
			deed(&b)
			require.ErrorIs(t, them.Commit(t.Context(), &b), unix.EPERM)
			inSync(t, first, spec)
		})
	}
	after, err := them.Generation(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, after)
	_, err = flush(t.Context(), n)
	require.NoError(t, err)
	inSync(t, first, spec)

	require.NoError(t, first.Close())
	require.True(t, tableOf(t, n).Orphan())
	shared := newDriver(t, nftables.Config{NetNS: n.NetNS(), Shared: true})
	assert.Empty(t, apply(t, shared, spec).String(), "whoever shares it leaves it so")
	for name, deed := range deeds() {
		t.Run("orphan/"+name, func(t *testing.T) {
			commit(t, them, deed)
			next := newDriver(t, nftables.Config{NetNS: n.NetNS()})
			apply(t, next, spec)
			inSync(t, next, spec)
			require.Equal(t, flags, tableOf(t, n).Flags)
			require.NoError(t, next.Close())
		})
	}
	last := newDriver(t, nftables.Config{NetNS: n.NetNS()})
	assert.Equal(t, "~ table inet podweft-policy  # was nobody's\n", apply(t, last, spec).String())
	assert.Empty(t, apply(t, last, spec))
	assert.Equal(t, flags, tableOf(t, n).Flags)
	plan, err := last.Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "- table inet podweft-policy\n", plan.String())
}

// TestPredecessor: while another driver is at work, a table that is as it should be is good enough. What is to be changed waits for
// the other's end.
func TestPredecessor(t *testing.T) {
	n := testnet.NewNode(t, "node")
	first := newDriver(t, nftables.Config{NetNS: n.NetNS()})
	apply(t, first, villageSpec(t))
	if ownFlags(t, n) == 0 {
		t.Log("not tested: the kernel has no tables that outlive their owners")
		return
	}
	second := newDriver(t, nftables.Config{NetNS: n.NetNS()})
	assert.Empty(t, apply(t, second, villageSpec(t)))
	conflict := func(plan podweft.Plan, err error) {
		t.Helper()
		require.ErrorIs(t, err, podweft.ErrConflict)
		require.Len(t, plan, 1)
		require.ErrorIs(t, plan[0].Err, podweft.ErrConflict)
	}
	other := nftables.Spec{Rules: villageSpec(t).Rules}
	planned, err := second.Plan(t.Context(), other)
	require.NoError(t, err)
	require.ErrorIs(t, planned[0].Err, podweft.ErrConflict)
	require.Greater(t, len(planned), 1, "and what waits for the other's end")
	conflict(second.Apply(t.Context(), other))
	first.WithoutBridgeNetfilter(true)
	_, err = first.Apply(t.Context(), bridgeSpec(t))
	require.ErrorIs(t, err, podweft.ErrNotSupported)
	conflict(second.Teardown(t.Context()))
	_, err = someone(t, n).Table(t.Context(), nft.Table{Family: nft.Bridge, Name: ours.Name})
	require.NoError(t, err, "what the other has closed stays so")
	first.WithoutBridgeNetfilter(false)
	apply(t, first, villageSpec(t))
	inSync(t, first, villageSpec(t))

	waiting := podweft.NewLoop(second, podweft.LoopConfig{})
	run(t, waiting)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.ErrorIs(t, waiting.Wait(ctx, waiting.Set(other)), podweft.ErrConflict)
	require.NoError(t, first.Close())
	require.Eventually(t, func() bool {
		plan, err := second.Plan(t.Context(), other)
		return err == nil && len(plan) == 0
	}, patience, time.Millisecond)
	assert.Equal(t, nft.Owned|nft.Persist, tableOf(t, n).Flags)
}

// TestRestartAmidForks: a process that starts others lends them its sockets until they are the programs that they are to be. Whoever
// comes next does not take that for another owner.
func TestRestartAmidForks(t *testing.T) {
	n := testnet.NewNode(t, "node")
	ctx, cancel := context.WithCancel(t.Context())
	var forking sync.WaitGroup
	for range 2 {
		forking.Go(func() {
			for ctx.Err() == nil {
				_ = exec.Command("true").Run()
			}
		})
	}
	defer forking.Wait()
	defer cancel()
	specs := []nftables.Spec{villageSpec(t), {Rules: villageSpec(t).Rules}}
	for i := range 30 {
		d := newDriver(t, nftables.Config{NetNS: n.NetNS()})
		apply(t, d, specs[i%2])
		require.NoError(t, d.Close())
	}
}

// TestKernelWithoutOwners: where the kernel knows no such flags, the table has none, and is repaired.
func TestKernelWithoutOwners(t *testing.T) {
	n := testnet.NewNode(t, "node")
	d, them, spec := newDriver(t, nftables.Config{NetNS: n.NetNS()}), someone(t, n), villageSpec(t)
	d.WithUnknownFlags()
	loop := running(t, d)
	set(t, loop, spec)
	inSync(t, d, spec)
	for range 2 {
		require.Zero(t, tableOf(t, n).Flags)
		commit(t, them, func(b *nft.Batch) { b.DeleteTable(ours) })
		require.Eventually(t, func() bool {
			plan, err := d.Plan(t.Context(), spec)
			return err == nil && len(plan) == 0
		}, patience, time.Millisecond)
	}
	for _, errno := range []unix.Errno{unix.EOPNOTSUPP, unix.EINVAL} {
		d.WithUnknownFlags()
		refused := &podweft.OpError{Op: "create", Object: ours, Err: errno}
		assert.True(t, d.Unowned(refused), "what kernels say")
		assert.False(t, d.Unowned(refused), "once")
	}
}

// TestFlushDisturbsNobody: while the nft program flushes all tables and policies and pods change, what is always denied never arrives,
// and what is always allowed always does, among few pods and policies and among many.
func TestFlushDisturbsNobody(t *testing.T) {
	for _, size := range []struct {
		name    string
		others  policy.Model
		flushes int
	}{{"small", policy.Model{}, 50}, {"large", world.Crowd(100), 20}} {
		t.Run(size.name, func(t *testing.T) {
			probe := testnet.NewNode(t, "probe")
			if _, ok := ruleset(t, probe); !ok || ownFlags(t, probe) == 0 {
				t.Log("not tested: there is no nft program, or the kernel has no tables that outlive their owners")
				return
			}
			var node *testnet.Node
			keep := func(t testing.TB, n *testnet.Node) world.Keeper {
				if node == nil { // node-1 is the first
					node = n
				}
				return newKeeper(t, n, nftables.Config{})
			}
			world.UpdatesAmid(t, size.others, keep, size.flushes, func(ctx context.Context, k world.Keeper, rules *policy.Ruleset) error {
				loop := k.(*keeper).loop
				ctx, done := context.WithTimeout(ctx, patience)
				defer done()
				_, err := flush(ctx, node)
				return errors.Join(err, loop.Wait(ctx, loop.Set(nftables.Spec{Rules: rules})))
			})
		})
	}
}

// TestWatchTellsOfBridges: what closes a bridge is in a table that others can delete.
func TestWatchTellsOfBridges(t *testing.T) {
	n := testnet.NewNode(t, "node")
	d, them := newDriver(t, nftables.Config{NetNS: n.NetNS()}), someone(t, n)
	d.WithoutBridgeNetfilter(true)
	_, err := d.Apply(t.Context(), bridgeSpec(t))
	require.ErrorIs(t, err, podweft.ErrNotSupported)
	told := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Watch(ctx, func() { told <- struct{}{} }) }()
	tell := func(what string) {
		t.Helper()
		select {
		case <-told:
		case <-time.After(patience):
			require.Fail(t, what)
		}
	}
	tell("it listens")
	bridge := nft.Table{Family: nft.Bridge, Name: ours.Name}
	commit(t, them, func(b *nft.Batch) { b.DeleteTable(bridge) })
	tell("the table is gone")
	_, err = d.Apply(t.Context(), bridgeSpec(t))
	require.ErrorIs(t, err, podweft.ErrNotSupported)
	_, err = them.Table(t.Context(), bridge)
	require.NoError(t, err, "closed again")
	cancel()
	require.NoError(t, <-done)
	_, err = d.Teardown(t.Context())
	require.NoError(t, err)
	_, err = them.Table(t.Context(), bridge)
	require.ErrorIs(t, err, fs.ErrNotExist)
}
