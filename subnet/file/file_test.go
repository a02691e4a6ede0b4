package file_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/subnet"
	"github.com/podweft/podweft/subnet/file"
	"github.com/podweft/podweft/subnet/storetest"
)

// childEnv holds, in a child process, the directory that it is to work in until it is killed.
const childEnv = "PODWEFT_SUBNET_FILE_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		fmt.Fprintln(os.Stderr, churn(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func open(t testing.TB, dir string) *file.Store {
	s, err := file.New(dir)
	require.NoError(t, err)
	return s
}

// configured returns a Store with a network, and its directory.
func configured(t testing.TB, conf string) (*file.Store, string) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "net-conf.json"), []byte(conf), 0o644))
	return open(t, dir), dir
}

const large = `{"Network": "10.0.0.0/8"}`

func TestStore(t *testing.T) {
	var mu sync.Mutex
	dirs := map[subnet.Store]string{}
	in := func(t *testing.T, dir string) subnet.Store {
		s := open(t, dir)
		mu.Lock()
		defer mu.Unlock()
		dirs[s] = dir
		return s
	}
	setNetwork := func(t *testing.T, s subnet.Store, n *subnet.Network) {
		require.NoError(t, s.(*file.Store).SetNetwork(t.Context(), n))
	}
	storetest.Run(t, storetest.Config{
		New: func(t *testing.T, n *subnet.Network) subnet.Store {
			s := in(t, t.TempDir())
			if n != nil {
				setNetwork(t, s, n)
			}
			return s
		},
		Another:    func(t *testing.T, s subnet.Store) subnet.Store { return in(t, dirs[s]) },
		SetNetwork: setNetwork,
		TTL:        300 * time.Millisecond,
	})
}

// TestKill kills processes in the middle of their work. Whatever was answered before must hold, whatever was not may or may
// not have happened, and the state is whole.
func TestKill(t *testing.T) {
	s, dir := configured(t, large)
	type answer struct {
		prefix   string
		released string // "": no; "?": being released; "!": yes
	}
	answers := map[string]answer{}
	for round := 0; round < 25 || len(answers) < 50; round++ {
		require.Less(t, round, 500, "nothing gets done")
		var children []*exec.Cmd
		var outs []*bufio.Scanner
		for range 3 {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"="+dir)
			cmd.Stderr = os.Stderr
			pipe, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			children, outs = append(children, cmd), append(outs, bufio.NewScanner(pipe))
		}
		for _, out := range outs {
			require.True(t, out.Scan(), "the child has begun")
		}
		time.Sleep(rand.N(30 * time.Millisecond))
		for _, cmd := range children {
			require.NoError(t, cmd.Process.Kill())
		}
		for i, out := range outs {
			for out.Scan() {
				word, node, prefix := "", "", ""
				_, err := fmt.Sscan(out.Text()+" -", &word, &node, &prefix)
				require.NoError(t, err)
				a := answers[node]
				if word == "acquired" {
					a = answer{prefix: prefix}
				} else {
					a.released = map[string]string{"releasing": "?", "released": "!"}[word]
				}
				answers[node] = a
			}
			require.Error(t, children[i].Wait(), "killed")
		}

		snapshot := present(t, s)
		found := map[string]string{}
		for i, l := range snapshot.Leases {
			found[l.Node] = l.Prefixes.String()
			for _, o := range snapshot.Leases[:i] {
				require.False(t, l.Prefixes.Overlaps(o.Prefixes))
			}
		}
		for node, a := range answers {
			switch a.released {
			case "":
				require.Equal(t, a.prefix, found[node], "round %d: lost the lease of %s", round, node)
			case "!":
				require.NotContains(t, found, node, "round %d: %s had released its lease", round, node)
			}
		}
	}
	_, err := s.Acquire(t.Context(), subnet.Claim{Node: "last"})
	require.NoError(t, err, "no lock is left behind")
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.LessOrEqual(t, len(entries), 4, "no drafts pile up: %v", entries)
}

// churn claims and releases, and tells about it, until the process is killed.
func churn(dir string) error {
	ctx := context.Background()
	s, err := file.New(dir)
	if err != nil {
		return err
	}
	fmt.Println("begun")
	for i := 0; ; i++ {
		l, err := s.Acquire(ctx, subnet.Claim{Node: fmt.Sprintf("%d-%d", os.Getpid(), i)})
		if err != nil {
			return err
		}
		fmt.Println("acquired", l.Node, l.Prefixes)
		if i%3 == 0 {
			fmt.Println("releasing", l.Node)
			if err := s.Release(ctx, l); err != nil {
				return err
			}
			fmt.Println("released", l.Node)
		}
	}
}

func present(t testing.TB, s subnet.Store) *subnet.Snapshot {
	for snapshot, err := range s.Watch(t.Context()) {
		require.NoError(t, err)
		return snapshot
	}
	require.FailNow(t, "no snapshot")
	return nil
}

// watch returns a function that waits for a snapshot as wanted.
func watch(t testing.TB, s subnet.Store) func(what string, wanted func(*subnet.Snapshot) bool) *subnet.Snapshot {
	ctx, cancel := context.WithCancel(t.Context())
	snapshots, done := make(chan *subnet.Snapshot), make(chan struct{})
	go func() {
		defer close(done)
		for snapshot, err := range s.Watch(ctx) {
			if !assert.NoError(t, err) {
				return
			}
			select {
			case snapshots <- snapshot:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return func(what string, wanted func(*subnet.Snapshot) bool) *subnet.Snapshot {
		for {
			select {
			case snapshot := <-snapshots:
				if wanted(snapshot) {
					return snapshot
				}
			case <-time.After(10 * time.Second):
				require.FailNow(t, "not seen: "+what)
			}
		}
	}
}

// TestNetworkEdited: an operator edits net-conf.json, not always well.
func TestNetworkEdited(t *testing.T) {
	s, dir := configured(t, large)
	conf := filepath.Join(dir, "net-conf.json")
	until := watch(t, s)
	until("the first network", func(s *subnet.Snapshot) bool { return len(s.Problems) == 0 })

	require.NoError(t, os.WriteFile(conf, []byte(`{"Network": "10.0.0.0/8", "SubnetLen": 40`), 0o644))
	bad := until("the problem", func(s *subnet.Snapshot) bool { return len(s.Problems) == 1 })
	assert.ErrorContains(t, bad.Problems[0], "net-conf.json line 1: is not a JSON object")
	assert.Equal(t, "10.0.0.0/8", bad.Network.V4.Network.String(), "the last good one stays")
	l, err := s.Acquire(t.Context(), subnet.Claim{Node: "a"})
	require.NoError(t, err, "and is good for claims, too")
	assert.Equal(t, 24, l.Prefixes.V4.Bits())
	assert.Len(t, present(t, open(t, dir)).Problems, 1, "a process that comes later knows both")

	require.NoError(t, os.WriteFile(conf, []byte(`{"Network": "10.0.0.0/8", "SubnetLen": 28}`), 0o644))
	good := until("the new length", func(s *subnet.Snapshot) bool { return s.Network.V4.SubnetLen == 28 })
	assert.Empty(t, good.Problems)

	require.NoError(t, os.Remove(conf))
	gone := until("that it is gone", func(s *subnet.Snapshot) bool { return len(s.Problems) == 1 })
	assert.ErrorContains(t, gone.Problems[0], "no such file")
	assert.Equal(t, 28, gone.Network.V4.SubnetLen)
}

func TestNoNetwork(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := s.Acquire(t.Context(), subnet.Claim{Node: "a"})
	require.ErrorIs(t, err, subnet.ErrNoNetwork)
	assert.ErrorContains(t, err, filepath.Join(dir, "net-conf.json"), "says what to write")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "net-conf.json"), []byte(`{"Network": 7}`), 0o644))
	_, err = s.Acquire(t.Context(), subnet.Claim{Node: "a"})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	assert.ErrorContains(t, err, `Network: 7 is not a CIDR`)
	for _, err := range s.Watch(t.Context()) {
		require.ErrorIs(t, err, podweft.ErrInvalid)
	}
}

// TestMountedNetwork: a configuration that is a link to somewhere else, as Kubernetes mounts one, changes without a
// notification.
func TestMountedNetwork(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(t.TempDir(), "net-conf.json")
	require.NoError(t, os.WriteFile(conf, []byte(large), 0o644))
	require.NoError(t, os.Symlink(conf, filepath.Join(dir, "net-conf.json")))
	until := watch(t, open(t, dir))
	until("the first network", func(s *subnet.Snapshot) bool { return s.Network.V4.SubnetLen == 24 })
	require.NoError(t, os.WriteFile(conf, []byte(`{"Network": "10.0.0.0/8", "SubnetLen": 28}`), 0o644))
	until("the new length", func(s *subnet.Snapshot) bool { return s.Network.V4.SubnetLen == 28 })
}

// TestNotified: changes are seen when they happen, not when a watch happens to look.
func TestNotified(t *testing.T) {
	s, dir := configured(t, large)
	until := watch(t, open(t, dir))
	best := time.Hour // what a machine that has much else to do can make of it
	for i := range 5 {
		l, err := s.Acquire(t.Context(), subnet.Claim{Node: fmt.Sprint(i)})
		require.NoError(t, err)
		claimed := time.Now()
		until("the lease", func(s *subnet.Snapshot) bool { return s.Lease(l.Node) != nil })
		if i > 0 { // the first may come just before a look
			best = min(best, time.Since(claimed))
		}
	}
	assert.Less(t, best, time.Second, "looks are two seconds apart")
}

// TestDamaged: a state that no Store has written is refused and left as it is, for a person to look at.
func TestDamaged(t *testing.T) {
	s, dir := configured(t, large)
	_, err := s.Acquire(t.Context(), subnet.Claim{Node: "a"})
	require.NoError(t, err)
	leases := filepath.Join(dir, "leases.json")
	text, err := os.ReadFile(leases)
	require.NoError(t, err)
	for _, c := range []struct{ name, damaged, want string }{
		{"cut off", string(text[:len(text)/2]), "unexpected end of JSON input"},
		{"newer", strings.Replace(string(text), `"version": 1`, `"version": 2`, 1), "format version 2: this program knows version 1"},
		{"key", regexp.MustCompile(`"key": "[^"]*"`).ReplaceAllString(string(text), `"key": "x"`), `lease "x" has the wrong key`},
		{"no lease", regexp.MustCompile(`(?s)"leases": \[.*\]`).ReplaceAllString(string(text), `"leases": [{}]`), "lease number 1 is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.NotEqual(t, string(text), c.damaged)
			require.NoError(t, os.WriteFile(leases, []byte(c.damaged), 0o644))
			s := open(t, dir)
			_, err := s.Acquire(t.Context(), subnet.Claim{Node: "b"})
			require.ErrorContains(t, err, c.want)
			assert.ErrorContains(t, err, leases)
			for _, err := range s.Watch(t.Context()) {
				require.ErrorContains(t, err, c.want)
			}
			now, err := os.ReadFile(leases)
			require.NoError(t, err)
			assert.Equal(t, c.damaged, string(now))
		})
	}
}

// TestReboot: the clock that deadlines are on starts anew with each boot, and so do the leases.
func TestReboot(t *testing.T) {
	const ttl = 300 * time.Millisecond
	s, dir := configured(t, large)
	forever, err := s.Acquire(t.Context(), subnet.Claim{Node: "b"})
	require.NoError(t, err)
	l, err := s.Acquire(t.Context(), subnet.Claim{Node: "a", TTL: ttl}) // the last: a claim after its end would remove it
	require.NoError(t, err)

	leases := filepath.Join(dir, "leases.json")
	text, err := os.ReadFile(leases)
	require.NoError(t, err)
	text = regexp.MustCompile(`"boot": "[^"]*"`).ReplaceAll(text, []byte(`"boot": "another"`))
	text = regexp.MustCompile(`"deadline": \d+`).ReplaceAll(text, []byte(`"deadline": 1`)) // long past on this boot's clock
	require.NoError(t, os.WriteFile(leases, text, 0o644))

	booted := open(t, dir)
	until := watch(t, booted)
	first := until("the leases of before", func(*subnet.Snapshot) bool { return true })
	require.NotNil(t, first.Lease("a"), "its node has its TTL to come back")
	assert.Equal(t, l.Prefixes, first.Lease("a").Prefixes)
	last := until("that it did not", func(s *subnet.Snapshot) bool { return s.Lease("a") == nil })
	require.NotNil(t, last.Lease("b"))
	assert.Equal(t, forever.Prefixes, last.Lease("b").Prefixes)
}

// TestSharedLeases: whoever reads the file anew keeps what did not change.
func TestSharedLeases(t *testing.T) {
	s, dir := configured(t, large)
	reader := open(t, dir)
	_, err := s.Acquire(t.Context(), subnet.Claim{Node: "a"})
	require.NoError(t, err)
	before := present(t, reader)
	l, err := s.Acquire(t.Context(), subnet.Claim{Node: "b", TTL: time.Hour})
	require.NoError(t, err)
	after := present(t, reader)
	assert.Same(t, before.Lease("a"), after.Lease("a"))
	_, err = s.Renew(t.Context(), l)
	require.NoError(t, err)
	assert.Same(t, after, present(t, reader), "a renewal is no change")
}

func TestLockHeld(t *testing.T) {
	s, dir := configured(t, large)
	held, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDONLY|os.O_CREATE, 0o644)
	require.NoError(t, err)
	defer held.Close()
	require.NoError(t, unix.Flock(int(held.Fd()), unix.LOCK_EX))

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = s.Acquire(ctx, subnet.Claim{Node: "a"})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	time.AfterFunc(50*time.Millisecond, func() { held.Close() })
	_, err = s.Acquire(t.Context(), subnet.Claim{Node: "a"})
	require.NoError(t, err)
}

func TestNewUnusable(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(blocked, nil, 0o644))
	_, err := file.New(filepath.Join(blocked, "dir"))
	require.ErrorContains(t, err, "lease directory")
}

// BenchmarkAcquireToSeen is the time from a claim to its being seen by a watch of another client.
func BenchmarkAcquireToSeen(b *testing.B) {
	s, dir := configured(b, large)
	until := watch(b, open(b, dir))
	i := 0
	for b.Loop() {
		l, err := s.Acquire(b.Context(), subnet.Claim{Node: fmt.Sprint(i)})
		require.NoError(b, err)
		until("the lease", func(s *subnet.Snapshot) bool { return s.Lease(l.Node) != nil })
		require.NoError(b, s.Release(b.Context(), l))
		i++
	}
}
