package links_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/fib"
	"github.com/podweft/podweft/internal/links"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// newStep is a pass over the links of a node that has a bridge of ours.
func newStep(t *testing.T, write bool) (s *links.Step, bridge int) {
	t.Helper()
	node := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1}).Nodes[0]
	sabotage.Do(t, node, func(b *nl.Batch) { b.AddBridge(nl.Link{Name: "ours0", Alias: "ours", Up: true}) })
	conn := sabotage.Dial(t, node)
	s = &links.Step{Conn: conn, Table: fib.New(conn, fib.MarkOf("links test"), nil), Alias: "ours", Write: write}
	bridge, err := s.IndexOf("ours0")
	require.NoError(t, err)
	require.Positive(t, bridge)
	return s, bridge
}

func TestAddresses(t *testing.T) {
	one, two, six := netip.MustParsePrefix("10.1.0.0/32"), netip.MustParsePrefix("10.2.0.0/32"), netip.MustParsePrefix("fd00:1::/128")
	for _, write := range []bool{false, true} {
		t.Run(fmt.Sprintf("write %v", write), func(t *testing.T) {
			s, bridge := newStep(t, write)
			require.NoError(t, s.Addresses(t.Context(), "ours0", bridge, []netip.Prefix{one, six}))
			require.NoError(t, s.Plan.Err())
			assert.Equal(t, "+ address 10.1.0.0/32 dev ours0\n+ address fd00:1::/128 dev ours0\n", s.Plan.String())
			s.Plan = nil
			require.NoError(t, s.Addresses(t.Context(), "ours0", bridge, []netip.Prefix{two, six}))
			if write {
				assert.Equal(t, "+ address 10.2.0.0/32 dev ours0\n- address 10.1.0.0/32 dev ours0\n", s.Plan.String())
			} else {
				assert.Equal(t, "+ address 10.2.0.0/32 dev ours0\n+ address fd00:1::/128 dev ours0\n", s.Plan.String())
			}
		})
	}
	t.Run("of a link that is yet to be made", func(t *testing.T) {
		s, _ := newStep(t, false)
		require.NoError(t, s.Addresses(t.Context(), "new0", -1, []netip.Prefix{one}))
		assert.Equal(t, "+ address 10.1.0.0/32 dev new0\n", s.Plan.String())
	})
}

// TestFailedChange: the errno stays, in the change and for the driver to explain.
func TestFailedChange(t *testing.T) {
	s, _ := newStep(t, true)
	bridge := podweft.Named("link ours0")
	s.Do(t.Context(), podweft.Create, bridge, "", func(b *nl.Batch) { b.AddBridge(nl.Link{Name: "ours0"}) })
	require.ErrorIs(t, s.Failed(), unix.EEXIST)
	require.ErrorIs(t, s.Plan.Err(), unix.EEXIST)
	explained := errors.New("that is why")
	s.Fail(explained)
	require.EqualError(t, s.Plan.Err(), "create link ours0: that is why")
	s.Refuse(podweft.Update, bridge, links.Foreign(nl.Link{Name: "ours0", Kind: "bridge", Alias: "theirs"}))
	require.ErrorIs(t, s.Failed(), podweft.ErrConflict)
	assert.ErrorContains(t, s.Failed(), `link ours0, of kind "bridge", alias "theirs"`)
	s.Do(t.Context(), podweft.Delete, podweft.Named("link gone"), "", func(b *nl.Batch) { b.DeleteLink(4711) })
	assert.NoError(t, s.Failed(), "what is gone is deleted")
}

// TestHeldIsNotTried: in a pass that holds the object back, unless the links have moved.
func TestHeldIsNotTried(t *testing.T) {
	s, bridge := newStep(t, true)
	s.Table.Follow([]string{"ours0"}, fib.Scope{})
	o := podweft.Named("stubborn link")
	tried, moved := 0, false
	loop := podweft.NewLoop(podweft.Driver[int](driver{func(ctx context.Context) podweft.Plan {
		if moved {
			s.Table.Events(func() {}).Link(bridge, "ours0")
		}
		s.Plan = nil
		s.Try(ctx, podweft.Update, o, "", func() error {
			tried++
			return unix.EBUSY
		})
		return s.Plan
	}}), podweft.LoopConfig{Coalesce: -1, RetryMin: 1 << 60, RetryMax: 1 << 60})
	sabotage.RunLoop(t, loop, 1)
	sabotage.Settle(t, loop)
	assert.Equal(t, 1, tried)
	require.ErrorIs(t, loop.Wait(t.Context(), loop.Set(2)), unix.EBUSY, "as it failed before")
	assert.Equal(t, 1, tried)
	moved = true
	require.Error(t, loop.Wait(t.Context(), loop.Set(3)))
	assert.Equal(t, 2, tried)
}

// driver is a function that makes a plan.
type driver struct {
	apply func(context.Context) podweft.Plan
}

func (d driver) Plan(ctx context.Context, _ int) (podweft.Plan, error)  { return nil, nil }
func (d driver) Apply(ctx context.Context, _ int) (podweft.Plan, error) { return d.apply(ctx), nil }
func (d driver) Watch(ctx context.Context, changed func()) error {
	changed()
	<-ctx.Done()
	return nil
}

func TestNamesAndNetworks(t *testing.T) {
	s, bridge := newStep(t, true)
	assert.Equal(t, "ours0", s.NameOf(bridge))
	assert.Equal(t, "4711", s.NameOf(4711))
	assert.Empty(t, s.NameOf(0))
	index, err := s.IndexOf("none0")
	require.NoError(t, err)
	assert.Zero(t, index)
	index, err = s.IndexOf("eth0")
	require.NoError(t, err)
	assert.Zero(t, index, "not ours")
	eth0, err := s.Conn.Link("eth0")
	require.NoError(t, err)
	on, err := s.Networks(eth0.Index)
	require.NoError(t, err)
	assert.ElementsMatch(t, []netip.Prefix{netip.MustParsePrefix(testnet.DefaultV4), netip.MustParsePrefix(testnet.DefaultV6)}, on)
}

func TestChanges(t *testing.T) {
	s, bridge := newStep(t, true)
	have, err := s.Conn.Link("ours0")
	require.NoError(t, err)
	var c links.Changes
	c.Common(nl.Link{MTU: have.MTU}, have)
	assert.Empty(t, c.Note)
	have.Up = false
	c.Common(nl.Link{MTU: 1400}, have)
	assert.Equal(t, fmt.Sprintf("was mtu %d, was down", have.MTU), c.Note)
	s.Do(t.Context(), podweft.Update, podweft.Named("link ours0"), c.Note, c.Put)
	require.NoError(t, s.Plan.Err())
	now, err := s.Conn.LinkAt(bridge)
	require.NoError(t, err)
	assert.Equal(t, 1400, now.MTU)
	assert.True(t, now.Up)
}
