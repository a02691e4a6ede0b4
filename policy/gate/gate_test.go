package gate_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/node/local"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/gate"
)

// kernel is a driver that takes its time for each pass.
type kernel struct {
	takes time.Duration

	mu    sync.Mutex
	rules *policy.Ruleset
	err   error
}

func (k *kernel) Plan(context.Context, *policy.Ruleset) (podweft.Plan, error) { return nil, nil }

func (k *kernel) Apply(ctx context.Context, rules *policy.Ruleset) (podweft.Plan, error) {
	select {
	case <-time.After(k.takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err == nil {
		k.rules = rules
	}
	return nil, k.err
}

func (k *kernel) Watch(ctx context.Context, changed func()) error {
	changed()
	<-ctx.Done()
	return nil
}

func (k *kernel) refuse(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

// addresses are those of a pod for which the kernel has rules.
func (k *kernel) addresses(name string) (list []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.rules == nil {
		return nil
	}
	for e := range k.rules.Endpoints.All() {
		if e.Pod.Name == name {
			list = append(list, e.Addr.String())
		}
	}
	return list
}

// peers are the addresses of pods that policies select as peers.
func (k *kernel) peers() (list []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.rules.PeerSets {
		for a := range s.Addrs.All() {
			list = append(list, a.String())
		}
	}
	return list
}

func newGate(t *testing.T) (*gate.Gate[*policy.Ruleset], *kernel) {
	t.Helper()
	k := &kernel{takes: time.Second}
	loop := podweft.NewLoop(k, podweft.LoopConfig{Coalesce: -1})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	g, err := gate.New(gate.Config[*policy.Ruleset]{Node: "node-1", Loop: loop, Spec: func(rules *policy.Ruleset) *policy.Ruleset { return rules }})
	require.NoError(t, err)
	return g, k
}

func pod(name string, addrs ...string) policy.Pod {
	p := policy.Pod{Namespace: "default", Name: name, Node: "node-1", Labels: map[string]string{"app": name}}
	for _, a := range addrs {
		p.Addresses = append(p.Addresses, netip.MustParseAddr(a))
	}
	return p
}

func record(name string, prefixes ...string) local.Record {
	r := local.Record{Network: "pods", Container: name, Interface: "eth0", Pod: local.Pod{Namespace: "default", Name: name}}
	for _, p := range prefixes {
		r.Addresses = append(r.Addresses, netip.MustParsePrefix(p))
	}
	return r
}

func pods(list ...policy.Pod) policy.Model {
	return policy.Model{Namespaces: []policy.Namespace{{Name: "default"}}, Pods: list}
}

// TestAttach: the cluster knows the pod, and not its address; when Attach returns, the kernel knows both.
func TestAttach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, k := newGate(t)
		require.NoError(t, g.Update(pods(pod("web"))))
		require.NoError(t, g.Attach(t.Context(), record("web", "10.244.1.2/24", "fd00::2/64")))
		assert.Equal(t, []string{"10.244.1.2", "fd00::2"}, k.addresses("web"))

		begin := time.Now()
		require.NoError(t, g.Attach(t.Context(), record("web", "10.244.1.2/24", "fd00::2/64")), "the same again")
		assert.Zero(t, time.Since(begin))
		require.NoError(t, g.Update(pods(pod("web", "10.244.9.9"))))
		sleep(2 * time.Second)
		assert.Equal(t, []string{"10.244.1.2", "fd00::2"}, k.addresses("web"), "the plugin knows better")
	})
}

// TestUnknown: a pod of which the cluster has not told waits until it does.
func TestUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, k := newGate(t)
		attached := make(chan error, 1)
		go func() { attached <- g.Attach(t.Context(), record("web", "10.244.1.2/24")) }()
		require.NoError(t, g.Update(pods(pod("other"))))
		sleep(time.Minute)
		select {
		case err := <-attached:
			require.Fail(t, "it did not wait", "%v", err)
		default:
		}
		ended := pod("web")
		ended.Phase = policy.Terminating // the one of that name before it
		require.NoError(t, g.Update(pods(ended)))
		sleep(time.Minute)
		assert.Empty(t, attached)
		require.NoError(t, g.Update(pods(pod("web"))))
		require.NoError(t, <-attached)
		assert.Equal(t, []string{"10.244.1.2"}, k.addresses("web"))
	})
}

func TestTryAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, k := newGate(t)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := g.Attach(ctx, record("web", "10.244.1.2/24"))
		require.ErrorIs(t, err, local.ErrTryAgain)
		assert.EqualError(t, err, "try again later: policies of pod default/web are not in force: "+
			"the cluster has not told us of it yet: context deadline exceeded")

		refusal := errors.New("no memory")
		k.refuse(refusal)
		require.NoError(t, g.Update(pods(pod("web"))))
		err = g.Attach(t.Context(), record("web", "10.244.1.2/24"))
		require.ErrorIs(t, err, local.ErrTryAgain)
		require.ErrorIs(t, err, refusal)

		k.refuse(nil)
		require.Eventually(t, func() bool {
			return g.Attach(t.Context(), record("web", "10.244.1.2/24")) == nil
		}, time.Hour, time.Second)
		assert.Equal(t, []string{"10.244.1.2"}, k.addresses("web"))
	})
}

// TestDetach: when its last attachment is gone the pod has no address, though the cluster still says so; its name may come back.
func TestDetach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, k := newGate(t)
		require.NoError(t, g.Update(pods(pod("web", "10.244.1.2"))))
		first, second := record("web", "10.244.1.2/24"), record("web", "10.244.1.3/24")
		second.Interface = "net1"
		require.NoError(t, g.Attach(t.Context(), first))
		require.NoError(t, g.Attach(t.Context(), second))
		assert.Equal(t, []string{"10.244.1.2", "10.244.1.3"}, k.addresses("web"))
		after := func(want ...string) {
			t.Helper()
			sleep(3 * time.Second)
			assert.Equal(t, want, k.addresses("web"))
		}
		g.Detach(first.Key())
		after("10.244.1.3")
		g.Detach(second.Key(), record("nobody").Key())
		after()
		require.NoError(t, g.Update(pods(pod("web", "10.244.1.2"))))
		after()
		require.NoError(t, g.Update(policy.Model{}, pod("web").ID()))
		require.NoError(t, g.Update(pods(pod("web"))))
		require.NoError(t, g.Attach(t.Context(), record("web", "10.244.1.4/24")))
		after("10.244.1.4")
	})
}

// TestMoved: a pod that is made anew on another node has the addresses that it has there, while its predecessor's attachment is still
// to end here, and when that has ended. Its return has no use for them.
func TestMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, k := newGate(t)
		client := policy.Peer{Pods: &policy.Selector{MatchLabels: map[string]string{"app": "web-0"}}}
		m := pods(pod("web-0"), pod("server", "10.244.1.9"))
		m.Policies = []policy.Policy{{Namespace: "default", Name: "server", Ingress: []policy.Rule{{Peers: []policy.Peer{client}}}}}
		require.NoError(t, g.Update(m))
		rec := record("web-0", "10.244.1.2/24")
		require.NoError(t, g.Attach(t.Context(), rec))
		moved := pod("web-0", "10.244.2.2")
		moved.Node = "node-2"
		admitted := func(want ...string) {
			t.Helper()
			sleep(3 * time.Second)
			assert.Equal(t, want, k.peers())
			assert.Empty(t, k.addresses("web-0"))
		}
		require.NoError(t, g.Update(policy.Model{}, moved.ID()))
		require.NoError(t, g.Update(pods(moved)))
		admitted("10.244.2.2")
		g.Detach(rec.Key())
		admitted("10.244.2.2")
		require.NoError(t, g.Update(pods(moved)))
		admitted("10.244.2.2")

		back := record("web-0", "10.244.1.3/24")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, g.Attach(ctx, back), local.ErrTryAgain, "the cluster still has it on the other node")
		require.NoError(t, g.Update(pods(pod("web-0", "10.244.2.2"))))
		require.NoError(t, g.Attach(t.Context(), back))
		assert.Equal(t, []string{"10.244.1.3"}, k.addresses("web-0"))
		assert.Equal(t, []string{"10.244.1.3"}, k.peers())
	})
}

// TestOneAddress: of pods that claim one address the one that was given it has it, and another when it is free.
func TestOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, k := newGate(t)
		require.NoError(t, g.Update(pods(pod("old", "10.244.1.2"), pod("web"), pod("zoo"))))
		sleep(3 * time.Second)
		assert.Equal(t, []string{"10.244.1.2"}, k.addresses("old"))
		web, zoo := record("web", "10.244.1.2/24"), record("zoo", "10.244.1.2/24")
		require.NoError(t, g.Attach(t.Context(), web))
		assert.Equal(t, []string{"10.244.1.2"}, k.addresses("web"))
		require.NoError(t, g.Update(pods(pod("old", "10.244.1.2"))), "no contest")

		require.NoError(t, g.Attach(t.Context(), zoo))
		assert.Equal(t, []string{"10.244.1.2"}, k.addresses("zoo"))
		err := g.Attach(t.Context(), web)
		require.ErrorIs(t, err, local.ErrTryAgain)
		assert.ErrorContains(t, err, "no rules have it at all of its addresses")
		g.Detach(zoo.Key())
		require.NoError(t, g.Attach(t.Context(), web))
		assert.Equal(t, []string{"10.244.1.2"}, k.addresses("web"))
		g.Detach(web.Key())
		sleep(3 * time.Second)
		assert.Equal(t, []string{"10.244.1.2"}, k.addresses("old"))
	})
}

// TestSenseless: a pod at whose address no rules can be is not let go.
func TestSenseless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := newGate(t)
		require.NoError(t, g.Update(pods(pod("web"))))
		err := g.Attach(t.Context(), record("web", "::ffff:10.244.1.2/120"))
		require.ErrorIs(t, err, local.ErrTryAgain)
		require.ErrorIs(t, err, podweft.ErrInvalid)
	})
}

// TestEndedUnknown: the cluster tells late of a pod that has ended, whose address may be another's.
func TestEndedUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, k := newGate(t)
		rec := record("web", "10.244.1.2/24")
		g.Restore(rec)
		g.Detach(rec.Key())
		require.NoError(t, g.Update(pods(pod("web", "10.244.1.2"))))
		sleep(3 * time.Second)
		assert.Empty(t, k.addresses("web"))
		require.NoError(t, g.Update(policy.Model{}, pod("web").ID()))
		require.NoError(t, g.Update(pods(pod("web", "10.244.1.2"))))
		sleep(3 * time.Second)
		assert.Equal(t, []string{"10.244.1.2"}, k.addresses("web"), "another of its name")
	})
}

// TestRestore: what the cluster says of a pod that was there before has its rules at once.
func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, k := newGate(t)
		g.Restore(record("web", "10.244.1.2/24"), local.Record{Network: "pods", Container: "x", Interface: "eth0"})
		require.NoError(t, g.Update(pods(pod("web"))))
		require.NoError(t, g.Attach(t.Context(), record("web", "10.244.1.2/24")))
		assert.Equal(t, []string{"10.244.1.2"}, k.addresses("web"))
	})
}

// TestNobodysPod: where no orchestrator names a pod, no policy can select one.
func TestNobodysPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, _ := newGate(t)
		rec := record("web", "10.244.1.2/24")
		rec.Pod = local.Pod{}
		require.NoError(t, g.Attach(t.Context(), rec))
		require.NoError(t, g.Attach(t.Context(), record("web")))
	})
}

func TestConfig(t *testing.T) {
	_, err := gate.New(gate.Config[int]{})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.EqualError(t, err, "Node: is missing\nLoop: is missing\nSpec: is missing")
}

// TestManyAtOnce attaches pods while the cluster tells of them in any order.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, k := newGate(t)
		var attached sync.WaitGroup
		names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
		for i, name := range names {
			attached.Go(func() {
				address := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 2)}), 24)
				assert.NoError(t, g.Attach(t.Context(), record(name, address.String())))
				assert.Equal(t, []string{address.Addr().String()}, k.addresses(name))
			})
		}
		for _, name := range slices.Backward(names) {
			assert.NoError(t, g.Update(pods(pod(name))))
		}
		attached.Wait()
	})
}

// sleep lets the loop go on for so long.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
