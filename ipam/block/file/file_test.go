package file_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/blocktest"
	"github.com/podweft/podweft/ipam/block/file"
)

const childVar = "PODWEFT_BLOCK_FILE_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVar); dir != "" {
		fmt.Fprintln(os.Stderr, churn(dir, os.Args[1]))
		os.Exit(1)
	}
	if dir := os.Getenv(agentVar); dir != "" {
		fmt.Fprintln(os.Stderr, agent(context.Background(), dir, os.Args[1], nil))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// fastDir is a directory of the test in memory where there is one: each change waits until it is written.
func fastDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "blocks")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func open(t testing.TB, dir string) *file.Store {
	s, err := file.New(dir)
	require.NoError(t, err)
	return s
}

func TestStore(t *testing.T) {
	var mu sync.Mutex
	dirs := map[block.Store]string{}
	in := func(t *testing.T, dir string) block.Store {
		s := open(t, dir)
		mu.Lock()
		defer mu.Unlock()
		dirs[s] = dir
		return s
	}
	blocktest.Run(t, blocktest.Config{
		New:     func(t *testing.T) block.Store { return in(t, fastDir(t)) },
		Another: func(t *testing.T, s block.Store) block.Store { return in(t, dirs[s]) },
	})
}

func claimer(t testing.TB, s block.Store, node string) *block.Claimer {
	c, err := block.New(block.Config{Store: s, Node: node, Pools: []block.Pool{{Prefix: netip.MustParsePrefix("10.0.0.0/20"), Borrow: true}}})
	require.NoError(t, err)
	return c
}

// churn claims and returns until it is killed, and says what it has after each call.
func churn(dir, node string) error {
	s, err := file.New(dir)
	if err != nil {
		return err
	}
	c, err := block.New(block.Config{Store: s, Node: node, Pools: []block.Pool{{Prefix: netip.MustParsePrefix("10.0.0.0/20"), Borrow: true}}})
	if err != nil {
		return err
	}
	ctx := context.Background()
	var mine []netip.Prefix
	for i := 0; ; i++ {
		if i%3 == 2 {
			fmt.Println("returning", mine[0])
			if err := c.Return(ctx, mine[0]); err != nil {
				return err
			}
			fmt.Println("returned", mine[0])
			mine = mine[1:]
			continue
		}
		s, err := c.Claim(ctx, netip.Addr{})
		if err != nil {
			return err
		}
		fmt.Println("claimed", s.Prefix)
		mine = append(mine, s.Prefix)
	}
}

// Nodes are killed at any moment. What they were told is true, and nobody else was told the same.
func TestKilledNodes(t *testing.T) {
	dir := fastDir(t)
	s := open(t, dir)
	for round := range 8 {
		var cmds []*exec.Cmd
		outs := make([]strings.Builder, 3)
		for i := range outs {
			cmd := exec.CommandContext(t.Context(), os.Args[0], fmt.Sprintf("node-%d-%d", round, i))
			cmd.Env = append(os.Environ(), childVar+"="+dir)
			cmd.Stderr, cmd.Stdout = os.Stderr, &outs[i]
			require.NoError(t, cmd.Start())
			cmds = append(cmds, cmd)
		}
		time.Sleep(time.Duration(20+5*round) * time.Millisecond)
		for _, cmd := range cmds {
			require.NoError(t, cmd.Process.Kill())
		}
		owners := map[netip.Prefix]string{}
		for i, cmd := range cmds {
			require.EqualError(t, cmd.Wait(), "signal: killed")
			node := fmt.Sprintf("node-%d-%d", round, i)
			has := map[netip.Prefix]string{} // by share, the last word
			for line := range strings.Lines(outs[i].String()) {
				word, p, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
				if ok && strings.HasSuffix(line, "\n") {
					has[netip.MustParsePrefix(p)] = word
				}
			}
			shares, err := claimer(t, s, node).Shares(t.Context())
			require.NoError(t, err)
			unsaid := 0
			for _, share := range shares {
				require.NotContains(t, owners, share.Prefix)
				owners[share.Prefix] = node
				if has[share.Prefix] == "" || has[share.Prefix] == "returned" {
					unsaid++ // claimed, and killed before it could say so
				}
			}
			assert.LessOrEqual(t, unsaid, 1)
			for p, word := range has {
				if word == "claimed" {
					require.Equal(t, node, owners[p], "%s was given %s and lost it", node, p)
				}
			}
		}
	}
	dead := func(_ context.Context, nodes []string) ([]string, error) { return nodes, nil }
	_, err := block.Collect(t.Context(), s, 0, dead)
	require.NoError(t, err)
	_, err = block.Collect(t.Context(), s, 0, dead)
	require.NoError(t, err)
	left, err := s.Blocks(t.Context(), netip.MustParsePrefix("0.0.0.0/0"))
	require.NoError(t, err)
	assert.Empty(t, left, "nothing leaks")
}

func TestEditedFileIsRefused(t *testing.T) {
	dir := fastDir(t)
	s := open(t, dir)
	_, err := claimer(t, s, "node-1").Claim(t.Context(), netip.Addr{})
	require.NoError(t, err)
	_, err = claimer(t, s, "node-2").Claim(t.Context(), netip.Addr{})
	require.NoError(t, err)
	path := filepath.Join(dir, "blocks.json")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	tests := []struct{ name, old, new, want string }{
		{"empty", string(good), "", "unexpected end of JSON input"},
		{"half", string(good[100:]), "", "unexpected end"},
		{"another version", `"version": 1`, `"version": 2`, "format version 2: this program knows version 1"},
		{"of the future", `"written": 2`, `"written": 99`, "is of the future"},
		{"a foreign share", `/29`, `/20`, "host bits"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Contains(t, string(good), tt.old)
			bad := strings.Replace(string(good), tt.old, tt.new, 1)
			require.NoError(t, os.WriteFile(path, []byte(bad), 0o600))
			_, err := s.Blocks(t.Context(), netip.MustParsePrefix("0.0.0.0/0"))
			require.ErrorContains(t, err, tt.want)
			_, err = claimer(t, s, "node-3").Claim(t.Context(), netip.Addr{})
			require.ErrorContains(t, err, tt.want)
			now, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, bad, string(now), "it is left as it is")
		})
	}
}
