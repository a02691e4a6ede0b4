package peers_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/fib"
	"github.com/podweft/podweft/internal/nl"
	"github.com/podweft/podweft/internal/peers"
	"github.com/podweft/podweft/internal/sabotage"
	"github.com/podweft/podweft/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// spec is the smallest that has both: a link by name, and peers that are prefixes behind a neighbour.
type spec struct {
	link  string
	peers []peer
}

type peer struct {
	prefix  netip.Prefix
	gateway netip.Addr
}

// layout is the link's index.
type layout int

func (l layout) Equal(o layout) bool { return l == o }

func (l layout) Scope() fib.Scope { return fib.Scope{Others: map[int]string{int(l): "eth0"}} }

// index is the prefixes that are somebody's.
type index map[netip.Prefix]bool

var errTwice = errors.New("there twice")

func (x index) replace(removed, added []peer) error {
	for _, p := range removed {
		delete(x, p.prefix)
	}
	for _, p := range added {
		if x[p.prefix] {
			return fmt.Errorf("%s: %w", p.prefix, errTwice)
		}
		x[p.prefix] = true
	}
	return nil
}

// driver is a Keeper as a podweft.Driver, and what its Kind was asked for.
type driver struct {
	*peers.Keeper[spec, peer, layout, index]
	node   *testnet.Node
	table  *fib.Table
	laid   []int // how many peers' entries were asked for, each time
	linked int   // how often the links were looked at
	finish podweft.Plan
}

func newDriver(t *testing.T) *driver {
	t.Helper()
	node := testnet.NewFabric(t, testnet.FabricConfig{Nodes: 1, V4: netip.MustParsePrefix(testnet.DefaultV4)}).Nodes[0]
	conn := sabotage.Dial(t, node)
	d := &driver{node: node, table: fib.New(conn, fib.MarkOf("peers test"), nil)}
	d.Keeper = peers.New(d.table, peers.Kind[spec, peer, layout, index]{
		Peers: func(s *spec) *[]peer { return &s.peers },
		Order: func(a, b peer) int { return a.prefix.Compare(b.prefix) },
		Same:  func(a, b *peer) bool { return *a == *b },

		SameLinks: func(a, b spec) bool { return a.link == b.link },
		Check: func(s spec) (index, error) {
			x := index{}
			return x, x.replace(nil, s.peers)
		},
		Recheck: index.replace,
		Names:   func(s spec) []string { return []string{s.link} },
		Links: func(_ context.Context, s spec, _ bool) (podweft.Plan, layout, error) {
			d.linked++
			l, err := conn.Link(s.link)
			return nil, layout(l.Index), err
		},
		Entry: func(l layout, _ spec, some []peer) (e fib.Entry) {
			d.laid = append(d.laid, len(some))
			for _, p := range some {
				e.Routes = append(e.Routes, fib.Route{Prefix: p.prefix, Gateway: p.gateway, Link: int(l)})
			}
			return e
		},
		Finish: func(context.Context, layout, bool) podweft.Plan { return d.finish },
	})
	return d
}

func (d *driver) Watch(ctx context.Context, changed func()) error {
	return nl.Watch(ctx, d.node.NetNS(), d.table.Events(changed), changed)
}

func peerOf(i int) peer {
	return peer{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24), netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})}
}

func (d *driver) routes(t *testing.T) map[netip.Prefix]bool {
	t.Helper()
	found := map[netip.Prefix]bool{}
	require.NoError(t, sabotage.Dial(t, d.node).Routes(t.Context(), func() { clear(found) }, func(r nl.Route) {
		if r.Nexthop != 0 {
			found[r.Prefix] = true
		}
	}))
	return found
}

// TestDifferenceAlone: in a Loop at rest, a Spec of other peers costs those peers and nothing is read; of a bad one nothing is
// applied, and the good one after it is looked at in full.
func TestDifferenceAlone(t *testing.T) {
	d := newDriver(t)
	one, two, three := peerOf(1), peerOf(2), peerOf(3)
	loop := sabotage.Keep(t, podweft.Driver[spec](d), spec{"eth0", []peer{two, one}}) // in any order
	sabotage.Settle(t, loop)
	reads, linked := d.table.Reads(), d.linked
	d.laid = nil

	require.NoError(t, loop.Wait(t.Context(), loop.Set(spec{"eth0", []peer{one, three}})))
	assert.Equal(t, []int{1, 1}, d.laid, "one peer left, one came")
	assert.Equal(t, map[netip.Prefix]bool{one.prefix: true, three.prefix: true}, d.routes(t))
	assert.Equal(t, reads, d.table.Reads())
	assert.Equal(t, linked, d.linked)

	require.ErrorIs(t, loop.Wait(t.Context(), loop.Set(spec{"eth0", []peer{one, two, two}})), errTwice)
	assert.Equal(t, map[netip.Prefix]bool{one.prefix: true, three.prefix: true}, d.routes(t))
	require.NoError(t, loop.Wait(t.Context(), loop.Set(spec{"eth0", []peer{one, two}})))
	assert.Equal(t, map[netip.Prefix]bool{one.prefix: true, two.prefix: true}, d.routes(t))
	assert.Greater(t, d.table.Reads(), reads)
}

// TestSameSpecAgain: without a Loop everything is read each time, but the entries are not laid out again.
func TestSameSpecAgain(t *testing.T) {
	d := newDriver(t)
	s := spec{"eth0", []peer{peerOf(1), peerOf(2)}}
	plan, err := d.Plan(t.Context(), s)
	require.NoError(t, err)
	assert.Len(t, plan, 4)
	assert.Empty(t, d.routes(t))
	_, err = d.Apply(t.Context(), s)
	require.NoError(t, err)
	d.laid = nil
	reads := d.table.Reads()
	sabotage.Do(t, d.node, func(b *nl.Batch) { b.DeleteNexthop(sabotage.RouteTo(t, d.node, peerOf(1).prefix).Nexthop) })
	plan, err = d.Apply(t.Context(), s)
	require.NoError(t, err)
	assert.Len(t, plan, 2, "a nexthop object and its route:\n%s", plan)
	assert.Empty(t, d.laid)
	assert.Greater(t, d.table.Reads(), reads)
	assert.Len(t, slices.Collect(maps.Keys(d.routes(t))), 2)
}

// TestFailedFinish: a pass whose last step failed is not believed, and the next looks at everything.
func TestFailedFinish(t *testing.T) {
	d := newDriver(t)
	s := spec{"eth0", []peer{peerOf(1)}}
	stuck := podweft.Change{Op: podweft.Delete, Object: podweft.Named("old link"), Err: errors.New("stuck")}
	d.finish = podweft.Plan{stuck}
	plan, err := d.Apply(t.Context(), s)
	require.NoError(t, err)
	assert.Equal(t, stuck, plan[len(plan)-1])
	d.finish, d.laid = nil, nil
	plan, err = d.Apply(t.Context(), s)
	require.NoError(t, err)
	assert.Empty(t, plan)
	assert.Equal(t, []int{1}, d.laid, "laid out anew")
}

// TestNoLink: the error of Links is the pass's.
func TestNoLink(t *testing.T) {
	d := newDriver(t)
	_, err := d.Apply(t.Context(), spec{link: "eth9"})
	require.ErrorIs(t, err, nl.ErrNoLink)
	_, err = d.Plan(t.Context(), spec{link: "eth9"})
	require.ErrorIs(t, err, nl.ErrNoLink)
	_, err = d.Plan(t.Context(), spec{"eth0", []peer{peerOf(1), peerOf(1)}})
	require.ErrorIs(t, err, errTwice)
}
