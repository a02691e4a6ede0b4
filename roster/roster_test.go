package roster_test

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/roster"
	"github.com/podweft/podweft/roster/memory"
	"github.com/podweft/podweft/subnet"
)

const ttl = 30 * time.Second

func named(name string) roster.Node { return roster.Node{Name: name} }

// start runs a Member until stop.
func start(t *testing.T, s roster.Store, n roster.Node) (m *roster.Member, stop func()) {
	m, err := roster.NewMember(roster.MemberConfig{Store: s, Node: n, TTL: ttl})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	synctest.Wait()
	return m, func() {
		cancel()
		assert.NoError(t, <-ended)
	}
}

func read(t *testing.T, s roster.Store) roster.Nodes {
	nodes, err := s.Nodes(t.Context())
	require.NoError(t, err)
	return nodes
}

func TestMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		m, stop := start(t, s, named("a"))
		time.Sleep(100 * ttl)
		n, _ := read(t, s).Node("a")
		require.True(t, n.Alive)

		changed := named("a")
		changed.AS = 7
		require.NoError(t, m.Publish(changed))
		synctest.Wait()
		n, _ = read(t, s).Node("a")
		require.True(t, n.Says(changed), "at once")

		require.NoError(t, s.Forget(t.Context(), "a"))
		time.Sleep(ttl)
		_, known := read(t, s).Node("a")
		require.True(t, known, "who lives joins again")

		stop()
		n, _ = read(t, s).Node("a")
		assert.True(t, n.Alive, "for a restart")
		time.Sleep(ttl)
		n, known = read(t, s).Node("a")
		assert.False(t, n.Alive)
		assert.True(t, known)
	})
}

func TestMemberIsChecked(t *testing.T) {
	bad := roster.Node{
		Underlay: subnet.Addrs{V4: netip.MustParseAddr("2001:db8::1"), V6: netip.MustParseAddr("192.0.2.1")},
		Cluster:  netip.MustParseAddr("::1"), Data: subnet.Data{V6: []byte("{")},
	}
	_, err := roster.NewMember(roster.MemberConfig{Node: bad, TTL: -1})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	for _, field := range []string{"Name", "Underlay.V4", "Underlay.V6", "Cluster", "Data.V6", "Store", "TTL"} {
		assert.ErrorContains(t, err, field)
	}
	m, err := roster.NewMember(roster.MemberConfig{Store: memory.New(), Node: named("a")})
	require.NoError(t, err)
	require.ErrorContains(t, m.Publish(named("b")), "is not that of a")
}

var errAway = errors.New("away")

// flaky is a Store that is away at times.
type flaky struct {
	roster.Store
	away atomic.Bool
}

func (f *flaky) answer() error {
	if f.away.Load() {
		return errAway
	}
	return nil
}

func (f *flaky) Nodes(ctx context.Context) (roster.Nodes, error) {
	if err := f.answer(); err != nil {
		return nil, err
	}
	return f.Store.Nodes(ctx)
}

func (f *flaky) Join(ctx context.Context, n roster.Node, ttl time.Duration) error {
	if err := f.answer(); err != nil {
		return err
	}
	return f.Store.Join(ctx, n, ttl)
}

func (f *flaky) Watch(ctx context.Context, changed func()) error {
	if err := f.answer(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // the watch breaks now and then
	defer cancel()
	_ = f.Store.Watch(ctx, changed)
	return f.answer()
}

func TestStoreThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &flaky{Store: memory.New()}
		s.away.Store(true)
		_, stop := start(t, s, named("a"))
		defer stop()
		ctx, cancel := context.WithCancel(t.Context())
		var seen []roster.Nodes
		failed := 0
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for nodes, err := range roster.Follow(ctx, s) {
				if err != nil {
					assert.ErrorIs(t, err, errAway)
					failed++
					continue
				}
				seen = append(seen, nodes)
			}
		}()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Empty(t, seen)
		require.Positive(t, failed)
		s.away.Store(false)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		told := len(seen) // without the node, it may be, and with it
		require.LessOrEqual(t, told, 2, "a watch begun again tells nothing twice")
		before := seen[told-1][0]
		require.True(t, before.Alive)
		s.away.Store(true)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.Len(t, seen, told, "what was seen last stays")
		s.away.Store(false)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		after := seen[len(seen)-1][0]
		require.True(t, after.Alive)
		require.Greater(t, after.Rank, before.Rank, "it has been dead")
		cancel()
		<-ended
	})
}

func TestFollowCanBeLeft(t *testing.T) {
	for nodes, err := range roster.Follow(t.Context(), memory.New()) {
		require.NoError(t, err)
		require.Empty(t, nodes)
		break
	}
}

func TestWhoseTurnItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		leads := func(name string) bool {
			leads, err := roster.Leads(s, name)(t.Context())
			require.NoError(t, err)
			return leads
		}
		require.False(t, leads("b"), "nobody is there")
		_, stopB := start(t, s, named("b"))
		_, stopA := start(t, s, named("a"))
		defer stopA()
		require.True(t, leads("b"))
		require.False(t, leads("a"))
		stopB()
		require.True(t, leads("b"), "for a restart")
		time.Sleep(ttl)
		require.True(t, leads("a"))
		_, stopB = start(t, s, named("b"))
		defer stopB()
		require.True(t, leads("a"), "who comes back is the last")
		require.False(t, leads("b"))
	})
}

func TestWhoIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		require.NoError(t, s.Join(t.Context(), named("lives"), time.Hour))
		require.NoError(t, s.Join(t.Context(), named("silent"), time.Second))
		time.Sleep(time.Minute)
		names := []string{"lives", "never seen", "silent"}
		got, err := roster.Silent(s)(t.Context(), names)
		require.NoError(t, err)
		assert.Equal(t, []string{"never seen", "silent"}, got)
		got, err = roster.Gone(s)(t.Context(), names)
		require.NoError(t, err)
		assert.Equal(t, []string{"never seen"}, got)
		require.NoError(t, s.Join(t.Context(), named("silent too"), time.Second))
		time.Sleep(time.Minute)
		_, err = roster.Silent(s)(t.Context(), names)
		require.ErrorIs(t, err, roster.ErrCut, "two of three at once")
		require.NoError(t, s.Forget(t.Context(), "silent too"))
		got, err = roster.Silent(s)(t.Context(), append(names, "silent too"))
		require.NoError(t, err)
		assert.Equal(t, []string{"never seen", "silent", "silent too"}, got, "an operator has said so")
		away := &flaky{}
		away.away.Store(true)
		_, err = roster.Gone(away)(t.Context(), names)
		require.ErrorIs(t, err, errAway, "which is nobody's death")
	})
}

func TestLease(t *testing.T) {
	n := roster.Node{
		Name: "a", Underlay: subnet.Addrs{V4: netip.MustParseAddr("192.0.2.1"), V6: netip.MustParseAddr("2001:db8::1")},
		Backend: "vxlan", Data: subnet.Data{V4: []byte("{}")}, Revision: 7,
	}
	want := &subnet.Lease{Key: "a", Node: "a", Underlay: n.Underlay, Backend: "vxlan", Data: n.Data, Revision: 7}
	assert.Equal(t, want, n.Lease(netip.Prefix{}))
	v4, v6 := netip.MustParsePrefix("10.244.0.0/26"), netip.MustParsePrefix("fd00::/122")
	want.Key, want.Prefixes = "10.244.0.0/26", subnet.Prefixes{V4: v4}
	assert.Equal(t, want, n.Lease(v4))
	want.Key, want.Prefixes = "fd00::/122", subnet.Prefixes{V6: v6}
	assert.Equal(t, want, n.Lease(v6))
}
