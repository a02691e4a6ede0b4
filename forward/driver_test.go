package forward_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/forward"
	"github.com/podweft/podweft/testnet"
)

// kinds are the two programs of that name, each with its tables.
var kinds = []struct{ name, v4, v6 string }{
	{"nf_tables", "iptables-nft", "ip6tables-nft"},
	{"old tables", "iptables-legacy", "ip6tables-legacy"},
}

// drop does what Docker does.
func (w *world) drop(t *testing.T, v4, v6 string) {
	t.Helper()
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock")) // an ordinary user may not open the host's
	w.run(t, v4+" -P FORWARD DROP")
	w.run(t, v6+" -P FORWARD DROP")
}

func TestOpensWhatDrops(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			needs(t, kind.v6)
			w := newWorld(t)
			d := newDriver(t, w)
			plan, err := d.Apply(t.Context(), spec())
			require.NoError(t, err)
			require.Empty(t, plan, "there is no firewall")
			w.opens(t)
			w.drop(t, kind.v4, kind.v6)
			w.closed(t, "the firewall drops")

			plan, err = d.Plan(t.Context(), spec())
			require.NoError(t, err)
			assert.Len(t, plan, 4)
			w.closed(t, "a plan changes nothing")
			applied, err := d.Apply(t.Context(), spec())
			require.NoError(t, err)
			assert.Equal(t, plan.String(), applied.String())
			w.opens(t)
			applied, err = d.Apply(t.Context(), spec())
			require.NoError(t, err)
			require.Empty(t, applied, "twice")

			assert.Contains(t, w.run(t, kind.v4+" -S FORWARD"), "-A FORWARD -s 10.244.0.0/16 ", "iptables can read it")
			assert.Contains(t, w.run(t, kind.v6+" -S FORWARD"), "-A FORWARD -d fd00:244::/47 ")
			w.run(t, kind.v4+" -I FORWARD -d "+w.pods[1].V4.String()+" -j DROP")
			require.False(t, w.passes(t, w.pods[1].V4), "what somebody refuses stays refused")
			w.run(t, kind.v4+" -D FORWARD 1")

			w.run(t, kind.v4+" -P FORWARD ACCEPT")
			applied, err = d.Apply(t.Context(), spec())
			require.NoError(t, err)
			assert.Len(t, applied, 2, "not needed any more: %s", applied)
			w.run(t, kind.v4+" -P FORWARD DROP")
			_, err = d.Apply(t.Context(), spec())
			require.NoError(t, err)

			applied, err = d.Teardown(t.Context())
			require.NoError(t, err)
			assert.Len(t, applied, 4)
			w.closed(t, "torn down")
			assert.Equal(t, "-P FORWARD DROP\n", w.run(t, kind.v4+" -S FORWARD"))
		})
	}
}

// TestLoopRepairs: what others do to the chain is mended, also when there was no table at the start.
func TestLoopRepairs(t *testing.T) {
	needs(t, "iptables-nft")
	w := newWorld(t)
	loop := podweft.NewLoop(newDriver(t, w), podweft.LoopConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	require.NoError(t, loop.Wait(ctx, loop.Set(spec())))
	w.drop(t, "iptables-nft", "ip6tables-nft")
	w.opens(t)
	for _, deed := range []string{"iptables-nft -F FORWARD", "iptables-nft -D FORWARD 1", "nft flush ruleset"} {
		if strings.HasPrefix(deed, "nft ") {
			needs(t, "nft")
		}
		w.run(t, deed)
		w.drop(t, "iptables-nft", "ip6tables-nft")
		w.opens(t)
		// One rule is enough for packets between pods of the network, which are both from it and to it.
		for deadline := time.Now().Add(patience); strings.Count(w.run(t, "iptables-nft -S FORWARD"), "podweft-forward-podweft") < 2; {
			require.True(t, time.Now().Before(deadline), "a rule is missing after %s", deed)
		}
	}
}

// TestTwoOwners do not touch each other's rules, nor anybody's that looks like theirs.
func TestTwoOwners(t *testing.T) {
	needs(t, "iptables-nft")
	w := newWorld(t)
	w.drop(t, "iptables-nft", "ip6tables-nft")
	w.run(t, "iptables-nft -A FORWARD -s 10.244.0.0/16 -j ACCEPT")
	ours := newDriver(t, w)
	other, err := forward.New(forward.Config{Owner: "an.other", NetNS: w.host.NetNS()})
	require.NoError(t, err)
	defer other.Close()
	for _, d := range []*forward.Driver{ours, other} {
		plan, err := d.Apply(t.Context(), spec())
		require.NoError(t, err)
		require.Len(t, plan, 4)
	}
	_, err = ours.Teardown(t.Context())
	require.NoError(t, err)
	plan, err := other.Plan(t.Context(), spec())
	require.NoError(t, err)
	assert.Empty(t, plan)
	_, err = other.Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "-P FORWARD DROP\n-A FORWARD -s 10.244.0.0/16 -j ACCEPT\n", w.run(t, "iptables-nft -S FORWARD"))
}

// TestWithoutProgram: old tables are in use, and what could look into them is not installed.
func TestWithoutProgram(t *testing.T) {
	needs(t, "ip6tables-legacy")
	w := newWorld(t)
	w.drop(t, "iptables-legacy", "ip6tables-legacy")
	t.Setenv("PATH", t.TempDir())
	d := newDriver(t, w)
	plan, err := d.Apply(t.Context(), spec())
	require.ErrorIs(t, err, podweft.ErrNotSupported)
	assert.ErrorContains(t, err, "install it")
	assert.Len(t, plan, 4)
	plan, err = d.Teardown(t.Context())
	require.ErrorIs(t, err, podweft.ErrNotSupported, "rules of ours may be left")
	assert.Len(t, plan, 2)
}

// TestWithoutNFTables: the old tables are all that the kernel has.
func TestWithoutNFTables(t *testing.T) {
	needs(t, "ip6tables-legacy")
	w := newWorld(t)
	w.drop(t, "iptables-legacy", "ip6tables-legacy")
	d := newDriver(t, w)
	require.NoError(t, d.WithoutNFTables())
	plan, err := d.Apply(t.Context(), spec())
	require.NoError(t, err)
	assert.Len(t, plan, 4)
	w.opens(t)
	listens, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- d.Watch(t.Context(), func() { close(listens) }) }()
	<-listens
	require.NoError(t, d.Close())
	require.ErrorIs(t, <-ended, os.ErrClosed)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, newDriver(t, w).Watch(ctx, func() {}))
}

func TestNonsense(t *testing.T) {
	_, err := forward.New(forward.Config{Owner: "a b"})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	d := newDriver(t, &world{host: testnet.NewNode(t, "host")})
	for _, text := range []string{"10.244.0.1/16", "0.0.0.0/0", "::ffff:10.0.0.0/104"} {
		_, err := d.Apply(t.Context(), forward.Spec{Networks: []netip.Prefix{netip.MustParsePrefix(text)}})
		require.ErrorIs(t, err, podweft.ErrInvalid, text)
	}
}
