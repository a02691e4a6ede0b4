package iptables_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/policy"
	"github.com/podweft/podweft/policy/internal/world"
	"github.com/podweft/podweft/policy/iptables"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// patience is how long a busy machine may take for what is certain to come.
const patience = world.Patience

var variants = []iptables.Variant{iptables.Legacy, iptables.NFT}

// eachVariant runs a test with the programs of both variants.
func eachVariant(t *testing.T, test func(t *testing.T, cfg iptables.Config)) {
	t.Helper()
	withPrograms(t)
	for _, v := range variants {
		t.Run(string(v), func(t *testing.T) { test(t, iptables.Config{Variant: v}) })
	}
}

// withPrograms finds the programs where ordinary users do not look, and has iptables lock a file of the test's: the one in /run is
// root's, and all of the machine wait for it.
func withPrograms(t testing.TB) {
	t.Helper()
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock"))
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	for _, program := range []string{"ipset", "iptables-legacy-restore", "iptables-nft-restore"} {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		if os.Getenv("PODWEFT_REQUIRE_KERNEL") != "" {
			t.Fatalf("%s is not installed", program)
		}
		t.Skipf("%s is not installed", program)
	}
}

func newDriver(t testing.TB, n *testnet.Node, cfg iptables.Config) *iptables.Driver {
	t.Helper()
	cfg.NetNS = n.NetNS()
	d, err := iptables.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func apply(t testing.TB, d *iptables.Driver, spec iptables.Spec) podweft.Plan {
	t.Helper()
	plan, err := d.Apply(t.Context(), spec)
	require.NoError(t, err)
	return plan
}

// inSync requires that there is nothing to do for spec, by all that is in the kernel.
func inSync(t testing.TB, d *iptables.Driver, spec iptables.Spec) {
	t.Helper()
	plan, err := d.Plan(t.Context(), spec)
	require.NoError(t, err)
	require.Empty(t, plan.String())
}

// keeper keeps a node's rules and sets for a world.
type keeper struct {
	cfg    iptables.Config
	driver *iptables.Driver
	spec   iptables.Spec
}

func keep(cfg iptables.Config) func(testing.TB, *testnet.Node) world.Keeper {
	return func(t testing.TB, n *testnet.Node) world.Keeper {
		cfg.NetNS = n.NetNS()
		return &keeper{cfg: cfg, driver: newDriver(t, n, cfg)}
	}
}

// restart has another driver, as of an agent that has been started again, make the filter what rules says.
func (k *keeper) restart(ctx context.Context, rules *policy.Ruleset) error {
	d, err := iptables.New(k.cfg)
	if err != nil {
		return err
	}
	_, err = d.Apply(ctx, iptables.Spec{Rules: rules})
	return errors.Join(err, d.Close())
}

func (k *keeper) Enforce(t testing.TB, rules *policy.Ruleset) {
	t.Helper()
	k.spec.Rules = rules
	apply(t, k.driver, k.spec)
	inSync(t, k.driver, k.spec)
}

func (k *keeper) Denied(t testing.TB) uint64 {
	t.Helper()
	stats, err := k.driver.Stats(t.Context(), k.spec)
	require.NoError(t, err)
	return stats.Denied().Packets
}

// running keeps a driver's rules by a loop until the test ends.
func running(t testing.TB, d *iptables.Driver) *podweft.Loop[iptables.Spec] {
	t.Helper()
	loop := podweft.NewLoop(d, podweft.LoopConfig{Coalesce: -1}) // no rest between passes
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	require.NoError(t, loop.Wait(ctx, loop.Set(iptables.Spec{})))
	require.Eventually(t, func() bool { return loop.Status().Listening }, patience, time.Millisecond)
	return loop
}

func set(t testing.TB, loop *podweft.Loop[iptables.Spec], spec iptables.Spec) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, loop.Wait(ctx, loop.Set(spec)))
}

// compiled is what the model says for the pods of node, or of all nodes.
func compiled(t testing.TB, m policy.Model, node string) *policy.Ruleset {
	t.Helper()
	rules, err := policy.NewCompiler(node).Update(m)
	require.NoError(t, err)
	return rules
}

// output is what a program in n writes.
func output(t testing.TB, n *testnet.Node, input []byte, name string, args ...string) string {
	t.Helper()
	cmd := n.Command(t.Context(), name, args...)
	if input != nil {
		in := filepath.Join(t.TempDir(), "input")
		require.NoError(t, os.WriteFile(in, input, 0o600))
		f, err := os.Open(in)
		require.NoError(t, err)
		defer f.Close()
		cmd.Stdin = f
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
	return string(out)
}
