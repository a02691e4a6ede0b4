package ipam

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/internal/flock"
)

// childVar makes the test binary run one of children instead of the tests.
const childVar = "PODWEFT_IPAM_CHILD"

var children = map[string]func(p *Pool, name string) error{"herd": herd, "churn": churn}

func TestMain(m *testing.M) {
	if role := os.Getenv(childVar); role != "" {
		if err := runChild(role); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func crowdConfig(path string) Config {
	return Config{Path: path, Prefixes: prefixes("10.244.0.0/22", "fd00:1::/64")}
}

func runChild(role string) error {
	p, err := Open(crowdConfig(os.Args[1]))
	if err != nil {
		return err
	}
	return children[role](p, os.Args[2])
}

// child prepares a process that plays a role on the store at path.
func child(t *testing.T, role, path, name string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], path, name)
	cmd.Env = append(os.Environ(), childVar+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

const herdRounds = 6

// herd waits for the start, then allocates and releases some, and says what it holds in the end.
func herd(p *Pool, name string) error {
	ctx := context.Background()
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	for i := range herdRounds {
		o := pod(fmt.Sprintf("%s-%d", name, i))
		a, err := p.Allocate(ctx, o)
		if err != nil {
			return err
		}
		if i%3 == 1 {
			if err := p.Release(ctx, o); err != nil {
				return err
			}
			continue
		}
		fmt.Println(o.Container, addrs(a))
	}
	return nil
}

// A hundred processes start at once on a file that does not exist yet.
func TestHundredProcesses(t *testing.T) {
	const processes = 100
	path := storePath(t)
	start, release, err := os.Pipe()
	require.NoError(t, err)
	cmds := make([]*exec.Cmd, processes)
	outs := make([]strings.Builder, processes)
	for i := range cmds {
		cmds[i] = child(t, "herd", path, fmt.Sprint("process-", i))
		cmds[i].Stdin, cmds[i].Stdout = start, &outs[i]
		require.NoError(t, cmds[i].Start())
	}
	require.NoError(t, start.Close())
	require.NoError(t, release.Close())

	want := map[string]string{}
	givenTo := map[string]string{}
	for i, cmd := range cmds {
		require.NoError(t, cmd.Wait())
		for line := range strings.Lines(outs[i].String()) {
			name, held, _ := strings.Cut(strings.TrimSpace(line), " ")
			want[name] = held
			for addr := range strings.FieldsSeq(held) {
				require.NotContains(t, givenTo, addr, "%s was given to %s and %s", addr, givenTo[addr], name)
				givenTo[addr] = name
			}
		}
	}
	require.Len(t, want, processes*herdRounds*2/3)
	p := open(t, crowdConfig(path))
	assert.Equal(t, want, owners(t, p))
	verify(t, p)
}

// churn allocates and releases until it is killed, and says so before each call ("allocate 7") and after it
// ("allocated 7 10.244.0.2 fd00:1::2"). It releases four of five, some of them only later.
func churn(p *Pool, name string) error {
	ctx := context.Background()
	for i := 0; ; i++ {
		o := pod(fmt.Sprintf("%s-%d", name, i))
		fmt.Printf("allocate %s\n", o.Container)
		a, err := p.Allocate(ctx, o)
		if err != nil {
			return err
		}
		fmt.Printf("allocated %s %s\n", o.Container, addrs(a))
		if i%5 == 0 {
			continue
		}
		if i%5 == 3 {
			o = pod(fmt.Sprintf("%s-%d", name, i-1))
		} else if i%5 == 2 {
			continue
		}
		fmt.Printf("release %s\n", o.Container)
		if err := p.Release(ctx, o); err != nil {
			return err
		}
		fmt.Printf("released %s\n", o.Container)
	}
}

// Processes are killed at any moment while another one works on. What they had been told is true, what they had asked for
// has happened or not, and nothing else is there.
func TestKillAtAnyMoment(t *testing.T) {
	const lanes, rounds = 4, 60
	for lane := range lanes {
		t.Run(fmt.Sprint(lane), func(t *testing.T) {
			t.Parallel()
			path := storePath(t)
			p := open(t, crowdConfig(path))
			stop := survivor(t, crowdConfig(path))
			defer stop()
			calls := 0
			for round := range rounds {
				said := killed(t, path, fmt.Sprint("round-", round))
				calls += len(said)
				confirmHistory(t, p, said)
			}
			stop()
			verify(t, p)
			all, err := p.All(t.Context())
			require.NoError(t, err)
			assert.Empty(t, all, "nothing leaks")
			t.Logf("%d processes killed after %d lines", rounds, calls)
		})
	}
}

// survivor uses the store all the while, as a node's agent does, and must not feel the deaths.
func survivor(t *testing.T, cfg Config) (stop func()) {
	p := open(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			o := pod(fmt.Sprint("survivor-", i))
			a, err := p.Allocate(t.Context(), o)
			assert.NoError(t, err)
			again, err := p.Lookup(t.Context(), o)
			assert.NoError(t, err)
			assert.Equal(t, a, again)
			assert.NoError(t, p.Release(t.Context(), o))
			time.Sleep(200 * time.Microsecond)
		}
	})
	return sync.OnceFunc(func() { cancel(); wg.Wait() })
}

// killed runs a churning process, kills it after a while, and returns what it said.
func killed(t *testing.T, path, name string) (said []string) {
	t.Helper()
	cmd := child(t, "churn", path, name)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	patience := time.Duration(-1)
	for lines.Scan() {
		said = append(said, lines.Text())
		if patience < 0 {
			patience = rand.N(3 * time.Millisecond)
			time.AfterFunc(patience, func() { cmd.Process.Kill() })
		}
	}
	require.EqualError(t, cmd.Wait(), "signal: killed")
	require.NotEmpty(t, said)
	return said
}

// confirmHistory compares the store with what a dead process said, and then releases what it left.
func confirmHistory(t *testing.T, p *Pool, said []string) {
	t.Helper()
	last := map[string]string{} // by container, what was said last
	for _, line := range said {
		verb, rest, _ := strings.Cut(line, " ")
		name, held, _ := strings.Cut(rest, " ")
		last[name] = strings.TrimSpace(verb + " " + held)
	}
	all, err := p.All(t.Context())
	require.NoError(t, err)
	held := map[string]Allocation{}
	for _, a := range all {
		if strings.HasPrefix(a.Owner.Container, "survivor") {
			continue
		}
		held[a.Owner.Container] = a
		require.Contains(t, last, a.Owner.Container, "%s holds %s but never asked", a.Owner, addrs(a))
	}
	for name, state := range last {
		a, holds := held[name]
		verb, given, _ := strings.Cut(state, " ")
		switch verb {
		case "allocated":
			require.True(t, holds, "%s was given %s and lost it", name, given)
			require.Equal(t, given, addrs(a))
		case "released":
			require.False(t, holds, "%s released %s and still holds it", name, addrs(a))
		}
		require.NoError(t, p.Release(t.Context(), pod(name)))
	}
}

// TestLockIsHeld: a process that was stopped holds the lock of the file, or host-local's. Nobody waits for it for ever.
func TestLockIsHeld(t *testing.T) {
	cfg := crowdConfig(storePath(t))
	cfg.Patience = 50 * time.Millisecond
	p := open(t, cfg)
	_, err := p.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)
	dir := hostLocal(t, map[string]string{"10.244.1.2": "web\r\neth0", "lock": ""})
	hold := func(path string) *os.File {
		f, err := os.Open(path)
		require.NoError(t, err)
		require.NoError(t, flock.Lock(t.Context(), f))
		return f
	}

	held := hold(cfg.Path)
	for name, call := range map[string]func() error{
		"allocate": func() error { _, err := p.Allocate(t.Context(), pod("b")); return err },
		"release":  func() error { return p.Release(t.Context(), pod("a")) },
		"look up":  func() error { _, err := p.Lookup(t.Context(), pod("a")); return err },
		"list":     func() error { _, err := p.All(t.Context()); return err },
		"count":    func() error { _, err := p.Usage(t.Context()); return err },
		"import":   func() error { _, _, err := p.ImportHostLocal(t.Context(), dir, "pods"); return err },
	} {
		err := call()
		require.ErrorIs(t, err, ErrLocked, name)
		assert.ErrorContains(t, err, cfg.Path, name)
	}
	require.NoError(t, held.Close())
	require.NoError(t, p.Release(t.Context(), pod("a")))

	held = hold(filepath.Join(dir, "lock"))
	_, _, err = p.ImportHostLocal(t.Context(), dir, "pods")
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, held.Close())
	imported, _, err := p.ImportHostLocal(t.Context(), dir, "pods")
	require.NoError(t, err)
	assert.Len(t, imported, 1)
}
