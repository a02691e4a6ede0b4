package calico_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/examples/calico"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/kube"
	"github.com/podweft/podweft/testnet"
)

// isolated lets the pod web be called by pods with the label friend, and by nobody else.
const isolated = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {friend: "yes"}}}]}]
`

// cluster writes what the orchestrator would tell: pods with their labels, and their addresses when they have some.
func cluster(t testing.TB, dir string, pods map[string]string, at map[string][]netip.Addr) {
	t.Helper()
	var b strings.Builder
	for name, labels := range pods {
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: default, labels: {%s}}\nstatus:\n  podIPs:", name, labels)
		for _, a := range at[name] {
			fmt.Fprintf(&b, "\n  - ip: %q", a)
		}
		if len(at[name]) == 0 {
			b.WriteString(" []")
		}
		b.WriteString("\n---\n")
	}
	draft := filepath.Join(dir, ".pods.yaml")
	require.NoError(t, os.WriteFile(draft, []byte(b.String()), 0o600))
	require.NoError(t, os.Rename(draft, filepath.Join(dir, "pods.yaml")))
}

// TestPolicies: a pod that nobody has told of is not let go; when its ADD returns its policies are in force, on its own node's pods and on
// others'; what changes is in force soon after.
func TestPolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte(isolated), 0o600))
	pods := map[string]string{"stranger": "app: other", "friend": `friend: "yes"`}
	at := map[string][]netip.Addr{}
	cluster(t, dir, pods, at)
	for _, n := range w.Nodes() {
		cfg := w.config(t, n, pools(calico.CrossSubnet))
		cfg.Policies = calico.PolicyFiles{dir}
		start(t, cfg)
	}
	node1, node2 := w.Nodes()[0], w.Nodes()[1]
	stranger, friend := w.add(t, node2, "stranger"), w.add(t, node2, "friend")
	at["stranger"], at["friend"] = stranger.addrs, friend.addrs
	cluster(t, dir, pods, at)

	unknown := &pod{Node: testnet.NewNode(t, "web"), host: node1, dir: filepath.Join(w.dir, node1.Name)}
	added := make(chan string, 1)
	go func() {
		out, code := unknown.call(t, "ADD")
		added <- fmt.Sprint(code, out)
	}()
	time.Sleep(100 * time.Millisecond)
	assert.Empty(t, added, "it is held back")
	pods["web"] = "app: web"
	cluster(t, dir, pods, at)
	select {
	case out := <-added:
		require.True(t, strings.HasPrefix(out, "0"), out)
	case <-time.After(patience):
		require.Fail(t, "it is still held back")
	}
	links, err := unknown.Links()
	require.NoError(t, err)
	for _, l := range links {
		for _, a := range l.Addrs {
			if l.Name == "eth0" && a.Addr().IsGlobalUnicast() {
				unknown.addrs = append(unknown.addrs, a.Addr())
			}
		}
	}
	require.Len(t, unknown.addrs, 2)
	for _, a := range unknown.addrs {
		listen(t, unknown.Node, a)
		assert.Error(t, dial(stranger.Node, a, 300*time.Millisecond), "the first packet already")
	}
	for _, a := range unknown.addrs {
		eventually(t, func() error { return dial(friend.Node, a, time.Second) })
		require.NoError(t, dial(node1, a, patience), "its own node's probes")
	}
	pods["stranger"] = `friend: "yes"`
	cluster(t, dir, pods, at)
	eventually(t, func() error { return dial(stranger.Node, unknown.addrs[0], time.Second) })
}

// TestUntold: pods that run when a node gets policies, and that nobody has told of, are closed and named, until somebody tells.
func TestUntold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	n := w.Nodes()[0]
	cfg := w.config(t, n, pools(calico.CrossSubnet))
	_, stop := start(t, cfg)
	p := w.add(t, n, "early")
	reaches(t, n, p.addrs...)
	stop()
	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	dir := t.TempDir()
	cfg.Policies = calico.PolicyFiles{dir}
	agent, stop := start(t, cfg)
	const problem = "pod default/early: closed to all, since nobody has told of it"
	assert.Contains(t, agent.Status(t.Context()).Problems, problem)
	cluster(t, dir, map[string]string{"early": "app: web"}, nil)
	waitFor(t, agent, "the pod to be known", func(s calico.Status) bool { return len(s.Problems) == 0 })
	require.NoError(t, os.Remove(filepath.Join(dir, "pods.yaml")))
	waitFor(t, agent, "the pod to be unknown again", func(s calico.Status) bool { return slices.Contains(s.Problems, problem) })
	stop()
	assert.Contains(t, log.String(), problem)

	// Nobody is closed any more when the node is to have no policies.
	cfg.Policies = nil
	start(t, cfg)
	reaches(t, n, p.addrs...)
	late := w.add(t, n, "late")
	reaches(t, late.Node, p.addrs...)
}

// TestWaitingForPolicies: a node whose policies cannot be read tells meanwhile that it lives, and collects what the dead had if that is its
// turn; it lets no pod come. Nobody takes it for dead, whose pods of before run.
func TestWaitingForPolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	one := w.Nodes()[0]
	cfg := w.config(t, one, pools(calico.CrossSubnet))
	policies := &away{PolicySource: calico.PolicyFiles{t.TempDir()}}
	policies.away.Store(true)
	cfg.Policies, cfg.Grace = policies, time.Second
	dead, err := block.New(block.Config{Store: cfg.Blocks, Node: "dead", Pools: []block.Pool{{Prefix: netip.MustParsePrefix("10.244.0.0/16")}}})
	require.NoError(t, err)
	left, err := dead.Claim(t.Context(), netip.Addr{})
	require.NoError(t, err)

	agent, err := calico.New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- agent.Run(ctx) }()
	s := waitFor(t, agent, "what it waits for", func(s calico.Status) bool { return s.Problem != "" && len(s.Blocks) > 0 })
	assert.Equal(t, "waiting for policies: nobody answers", s.Problem)
	assert.False(t, s.Ready)
	eventually(t, func() error {
		nodes, err := cfg.Nodes.Nodes(t.Context())
		if n, known := nodes.Node(one.Name); err == nil && !(known && n.Alive) {
			err = errors.New("it is not known to live")
		}
		return err
	})
	eventually(t, func() error {
		blocks, err := cfg.Blocks.Blocks(t.Context(), left.Prefix)
		if err == nil && len(blocks) > 0 {
			err = fmt.Errorf("not collected: %v", blocks)
		}
		return err
	})
	assert.False(t, agent.Status(t.Context()).Ready)
	policies.away.Store(false)
	waitFor(t, agent, "readiness", func(s calico.Status) bool { return s.Ready && s.Problem == "" })
	cancel()
	require.NoError(t, <-ended)

	// One that is ended while it waits ends without an error.
	policies.away.Store(true)
	agent, err = calico.New(cfg)
	require.NoError(t, err)
	ctx, cancel = context.WithCancel(t.Context())
	go func() { ended <- agent.Run(ctx) }()
	waitFor(t, agent, "what it waits for", func(s calico.Status) bool { return s.Problem != "" && len(s.Blocks) > 0 })
	cancel()
	require.NoError(t, <-ended)
}

// away is a source that may not be there.
type away struct {
	calico.PolicySource
	away atomic.Bool
}

// List implements calico.PolicySource.
func (a *away) List(ctx context.Context) (kube.Changes, error) {
	if a.away.Load() {
		return kube.Changes{}, errors.New("nobody answers")
	}
	return a.PolicySource.List(ctx)
}

const webPort = 8080

func listen(t testing.TB, n *testnet.Node, at netip.Addr) {
	t.Helper()
	listenAt(t, n, netip.AddrPortFrom(at, webPort))
}

// listenAt accepts connections until the test ends.
func listenAt(t testing.TB, n *testnet.Node, at netip.AddrPort) {
	t.Helper()
	var l net.Listener
	require.NoError(t, n.Do(func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	}))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close() })
}

// dial opens a connection to the web port and closes it.
func dial(from *testnet.Node, to netip.Addr, wait time.Duration) error {
	return dialAt(from, netip.AddrPortFrom(to, webPort), wait)
}

// dialAt opens a connection and closes it.
func dialAt(from *testnet.Node, to netip.AddrPort, wait time.Duration) error {
	domain, sockaddr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		domain, sockaddr = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return from.Do(func() error {
		fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		timeout := unix.NsecToTimeval(wait.Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout); err != nil {
			return err
		}
		return unix.Connect(fd, sockaddr)
	})
}

// eventually tries until it works.
func eventually(t testing.TB, try func() error) {
	t.Helper()
	var err error
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	require.NoError(t, err)
}
