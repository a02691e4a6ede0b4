package file_test

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/file"
	"github.com/podweft/podweft/roster"
	rosterfile "github.com/podweft/podweft/roster/file"
)

// agentVar makes the child process a node's agent in a directory, in place of churn.
const agentVar = "PODWEFT_BLOCK_FILE_AGENT"

const (
	agentTTL   = 500 * time.Millisecond
	agentGrace = time.Second
)

// agent is a node that lives and has a block, and collects when it leads, until ctx ends. freed hears of what it collected.
func agent(ctx context.Context, dir, name string, freed func([]block.Share)) error {
	s, err := file.New(dir)
	if err != nil {
		return err
	}
	nodes, err := rosterfile.New(dir) // one directory for both
	if err != nil {
		return err
	}
	member, err := roster.NewMember(roster.MemberConfig{Store: nodes, Node: roster.Node{Name: name}, TTL: agentTTL})
	if err != nil {
		return err
	}
	collector, err := block.NewCollector(block.CollectorConfig{
		Store: s, Dead: roster.Silent(nodes), Lead: roster.Leads(nodes, name),
		Grace: agentGrace, Every: agentGrace / 20, Freed: freed,
	})
	if err != nil {
		return err
	}
	c, err := block.New(block.Config{Store: s, Node: name, Pools: []block.Pool{{Prefix: netip.MustParsePrefix("10.0.0.0/20")}}})
	if err != nil {
		return err
	}
	if _, err := c.Claim(ctx, netip.Addr{}); err != nil {
		return err
	}
	ended := make(chan error, 2)
	go func() { ended <- member.Run(ctx) }()
	go func() { ended <- collector.Run(ctx) }()
	defer func() { <-ended }()
	return <-ended
}

// The agent that collects is killed. Another one takes over, and takes back what the dead one had.
func TestKilledCollector(t *testing.T) {
	dir := fastDir(t)
	first := exec.CommandContext(t.Context(), os.Args[0], "first")
	first.Env = append(os.Environ(), agentVar+"="+dir)
	first.Stderr = os.Stderr
	require.NoError(t, first.Start())
	nodes, err := rosterfile.New(dir)
	require.NoError(t, err)
	led := func() string {
		all, err := nodes.Nodes(t.Context())
		require.NoError(t, err)
		leader, _ := all.Leader()
		return leader.Name
	}
	leads := func(name string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); led() != name; time.Sleep(5 * time.Millisecond) {
			require.True(t, time.Now().Before(deadline), "%s does not lead", name)
		}
	}
	leads("first")
	ctx, cancel := context.WithCancel(t.Context())
	freed, ended := make(chan []block.Share, 10), make(chan error, 1)
	go func() { ended <- agent(ctx, dir, "second", func(s []block.Share) { freed <- s }) }()
	killed := time.Now()
	require.NoError(t, first.Process.Kill())
	require.EqualError(t, first.Wait(), "signal: killed")
	select {
	case shares := <-freed:
		require.Len(t, shares, 1)
		assert.Equal(t, "first", shares[0].Node)
		assert.GreaterOrEqual(t, time.Since(killed), agentGrace)
	case <-time.After(time.Minute):
		t.Fatal("nobody took over")
	}
	leads("second")
	cancel()
	require.NoError(t, <-ended)
	left, err := open(t, dir).Blocks(t.Context(), netip.MustParsePrefix("0.0.0.0/0"))
	require.NoError(t, err)
	require.Len(t, left, 1)
	assert.Equal(t, "second", left[0].Node)
	assert.FileExists(t, filepath.Join(dir, "nodes.json"))
}
