package bridge_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/bridge"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/testnet"
)

const patience = 30 * time.Second

func newDriver(t testing.TB, h *host) *bridge.Driver {
	t.Helper()
	d, err := bridge.NewDriver(bridge.Config{NetNS: h.NetNS()})
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// crowd is a Spec of new pods.
func crowd(t testing.TB, n int) (pods []*machine, spec bridge.Spec) {
	t.Helper()
	spec.Bridge = dual
	for i := range n {
		pod := newMachine(t, fmt.Sprintf("pod-%d", i+1))
		pods = append(pods, pod)
		spec.Ports = append(spec.Ports, port(dual, pod, i+1))
	}
	return pods, spec
}

// whole sees that the driver has nothing to do and that packets flow.
func whole(t testing.TB, d *bridge.Driver, spec bridge.Spec, pods []*machine) {
	t.Helper()
	plan, err := d.Plan(t.Context(), spec)
	require.NoError(t, err)
	require.Empty(t, plan, plan.String())
	for i, pod := range pods {
		for _, g := range spec.Bridge.Gateways {
			pod.reaches(t, g.Addr())
		}
		for _, a := range spec.Ports[(i+1)%len(pods)].Addresses {
			pod.reaches(t, a.Addr())
		}
	}
}

func TestDriverRepairs(t *testing.T) {
	h := newHost(t, bridge.Config{})
	d := newDriver(t, h)
	pods, spec := crowd(t, 3)
	plan, err := d.Plan(t.Context(), spec)
	require.NoError(t, err)
	assert.Len(t, plan, 4)
	assert.Equal(t, []string{"lo"}, h.linkNames(t), "a plan writes nothing")
	_, err = d.Apply(t.Context(), spec)
	require.NoError(t, err)
	whole(t, d, spec, pods)

	first := spec.Ports[0]
	end := h.hostEnd(t, first)
	tests := []struct {
		name     string
		sabotage func(t *testing.T)
		want     string
	}{
		{"bridge deleted", func(t *testing.T) {
			h.change(t, func(b *nl.Batch) { b.DeleteLink(h.link(t, "cni0").Index) })
		}, "+ link cni0 type bridge"},
		{"bridge down", func(t *testing.T) {
			h.change(t, func(b *nl.Batch) { b.SetUp(h.link(t, "cni0").Index, false) })
		}, "~ link cni0 type bridge"},
		{"a gateway gone", func(t *testing.T) {
			h.change(t, func(b *nl.Batch) {
				b.DeleteAddress(nl.Address{Link: h.link(t, "cni0").Index, Prefix: dual.Gateways[0]})
			})
		}, "# create address 10.244.1.1/24 dev cni0"},
		{"no port of the bridge any more", func(t *testing.T) {
			h.change(t, func(b *nl.Batch) { b.SetMaster(h.link(t, end).Index, 0) })
		}, "# update link " + end + " master cni0"},
		{"host end down", func(t *testing.T) {
			h.change(t, func(b *nl.Batch) { b.SetUp(h.link(t, end).Index, false) })
		}, "# update link " + end + " up"},
		{"pair deleted", func(t *testing.T) {
			h.change(t, func(b *nl.Batch) { b.DeleteLink(h.link(t, end).Index) })
		}, "+ port pod-1/eth0 dev " + end + " master cni0 10.244.1.2/24"},
		{"pod's end down", func(t *testing.T) {
			pods[0].change(t, func(b *nl.Batch) { b.SetUp(pods[0].link(t, "eth0").Index, false) })
		}, "bring up link eth0"},
		{"pod's addresses gone", func(t *testing.T) {
			pods[0].change(t, func(b *nl.Batch) {
				for _, a := range first.Addresses {
					b.DeleteAddress(nl.Address{Link: pods[0].link(t, "eth0").Index, Prefix: a})
				}
			})
		}, "create address " + first.Addresses[0].String() + " dev eth0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.sabotage(t)
			plan, err := d.Plan(t.Context(), spec)
			require.NoError(t, err)
			assert.Contains(t, plan.String(), tt.want)
			_, err = d.Apply(t.Context(), spec)
			require.NoError(t, err)
			whole(t, d, spec, pods)
		})
	}
}

func TestDriverGoesOnPastFailures(t *testing.T) {
	h := newHost(t, bridge.Config{})
	d := newDriver(t, h)
	pods, spec := crowd(t, 3)
	gone, err := testnet.BuildNode("gone")
	require.NoError(t, err)
	spec.Ports[0] = port(dual, &machine{Node: gone}, 1)
	require.NoError(t, gone.Close())
	h.veth(t, "other", pods[1], "eth0")
	plan, err := d.Apply(t.Context(), spec)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, err, podweft.ErrConflict)
	require.Len(t, plan, 4)
	require.Error(t, plan[1].Err)
	require.Error(t, plan[2].Err)
	require.NoError(t, plan[3].Err)
	pods[2].ping(t, dual.Gateways[0].Addr())
}

func TestDriverSweeps(t *testing.T) {
	h := newHost(t, bridge.Config{})
	d := newDriver(t, h)
	pods, spec := crowd(t, 3)
	_, err := d.Apply(t.Context(), spec)
	require.NoError(t, err)
	fewer := spec
	fewer.Ports = spec.Ports[:1]
	plan, err := d.Apply(t.Context(), fewer)
	require.NoError(t, err)
	require.Empty(t, plan, "they may be of a pod that a plugin is just attaching")
	fewer.Sweep = true
	plan, err = d.Plan(t.Context(), fewer)
	require.NoError(t, err)
	require.Len(t, plan, 2)
	assert.Len(t, h.linkNames(t), 5)
	_, err = d.Apply(t.Context(), fewer)
	require.NoError(t, err)
	assert.Len(t, h.linkNames(t), 3, "lo, the bridge, one port")
	pods[0].ping(t, dual.Gateways[0].Addr())

	plan, err = d.Teardown(t.Context())
	require.NoError(t, err)
	assert.Len(t, plan, 2)
	assert.Equal(t, []string{"lo"}, h.linkNames(t))
}

func TestDriverValidates(t *testing.T) {
	d := newDriver(t, newHost(t, bridge.Config{}))
	_, spec := crowd(t, 2)
	spec.Ports[1].Container = spec.Ports[0].Container
	spec.Ports[0].MTU = 9000
	_, err := d.Apply(t.Context(), spec)
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.ErrorContains(t, err, "Ports[1]: pod-1/eth0 is the port of Ports[0] too")
	assert.ErrorContains(t, err, "port pod-1/eth0: Port.MTU: 9000")

	_, spec = crowd(t, 2)
	spec.Ports[1].Addresses = spec.Ports[0].Addresses[1:]
	err = spec.Validate()
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.EqualError(t, err, fmt.Sprintf("Ports[1].Addresses: %s is an address of Ports[0] too: give each port its own", spec.Ports[0].Addresses[1].Addr()))
}

// TestDriverInALoop: the loop hears of what somebody does to the node's links.
func TestDriverInALoop(t *testing.T) {
	h := newHost(t, bridge.Config{})
	d := newDriver(t, h)
	pods, spec := crowd(t, 3)
	loop := podweft.NewLoop(d, podweft.LoopConfig{Resync: -1})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	require.NoError(t, loop.Wait(t.Context(), loop.Set(spec)))
	require.Eventually(t, func() bool { return loop.Status().Listening }, patience, time.Millisecond)
	for range 2 {
		h.change(t, func(b *nl.Batch) { b.DeleteLink(h.link(t, "cni0").Index) })
		h.change(t, func(b *nl.Batch) { b.SetUp(h.link(t, h.hostName(t, spec.Ports[0])).Index, false) })
		require.Eventually(t, func() bool {
			plan, err := d.Plan(ctx, spec)
			return err == nil && len(plan) == 0
		}, patience, 5*time.Millisecond)
		whole(t, d, spec, pods)
	}
	cancel()
	require.NoError(t, <-done)
}

// TestDriverWithANarrowPort: the bridge keeps its own MTU, and then nothing is left to be done.
func TestDriverWithANarrowPort(t *testing.T) {
	h := newHost(t, bridge.Config{})
	d := newDriver(t, h)
	pods, spec := crowd(t, 2)
	spec.Ports[0].MTU = 1300
	_, err := d.Apply(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, 1450, h.link(t, "cni0").MTU)
	whole(t, d, spec, pods)
	h.change(t, func(b *nl.Batch) { b.SetMaster(h.link(t, h.hostName(t, spec.Ports[0])).Index, 0) })
	_, err = d.Apply(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, 1450, h.link(t, "cni0").MTU)
	whole(t, d, spec, pods)
}

// TestDriverWatchesDuringAPass: what happens then is a hint, for it may have been read before.
func TestDriverWatchesDuringAPass(t *testing.T) {
	h := newHost(t, bridge.Config{})
	_, spec := crowd(t, 2)
	slow := t.TempDir() + "/pod"
	require.NoError(t, unix.Mkfifo(slow, 0o600)) // whoever opens it waits
	made := spec
	made.Ports = spec.Ports[:1]
	_, err := newDriver(t, h).Apply(t.Context(), made)
	require.NoError(t, err)
	spec.Ports[1].NetNS = slow

	d := newDriver(t, h) // for which it is the first pass
	hints := make(chan bool)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		assert.NoError(t, d.Watch(ctx, func() {
			select {
			case hints <- true:
			case <-ctx.Done():
			}
		}))
	})
	<-hints // it listens
	all.Go(func() {
		_, err := d.Apply(t.Context(), spec)
		assert.Error(t, err, "that is no pod")
	})
	end, hinted := h.link(t, h.hostName(t, spec.Ports[0])).Index, false
	for until := time.Now().Add(patience); !hinted && time.Now().Before(until); { // whether it has begun we cannot see
		h.change(t, func(b *nl.Batch) { b.SetUp(end, false) })
		h.change(t, func(b *nl.Batch) { b.SetUp(end, true) })
		select {
		case hinted = <-hints:
		case <-time.After(20 * time.Millisecond):
		}
	}
	assert.True(t, hinted)
	cancel()
	opened, err := os.OpenFile(slow, os.O_WRONLY, 0)
	require.NoError(t, err)
	require.NoError(t, opened.Close())
	all.Wait()
}
