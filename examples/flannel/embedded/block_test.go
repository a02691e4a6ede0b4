package embedded_test

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/examples/flannel/embedded"
	"github.com/podweft/podweft/examples/internal/loopback"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/blocktest"
	"github.com/podweft/podweft/ipam/block/etcd"
)

func blockStore(t testing.TB, url, prefix string) *etcd.Store {
	t.Helper()
	s, err := etcd.New(etcd.Config{Endpoints: []string{url}, Prefix: prefix})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestBlockStore: 50 nodes race for the blocks of a pool, among other things.
func TestBlockStore(t *testing.T) {
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			url := server.start(t)
			operator(t, url) // waits for it
			var mu sync.Mutex
			prefixes := map[block.Store]string{}
			blocktest.Run(t, blocktest.Config{
				New: func(t *testing.T) block.Store {
					s := blockStore(t, url, prefix(t))
					mu.Lock()
					defer mu.Unlock()
					prefixes[s] = prefix(t)
					return s
				},
				Another:  func(t *testing.T, s block.Store) block.Store { return blockStore(t, url, prefixes[s]) },
				Patience: 30 * time.Second,
			})
		})
	}
}

// TestBlocksOutage: etcd goes away and comes back. What was claimed stays, and the watch tells that it may have changed.
func TestBlocksOutage(t *testing.T) {
	cfg := embedded.Config{Dir: t.TempDir(), Client: loopback.FreeURL(t)}
	server := startMember(t, cfg)
	operator(t, cfg.Client)
	s := blockStore(t, cfg.Client, "/outage")
	pools := []block.Pool{{Prefix: netip.MustParsePrefix("10.244.0.0/16")}}
	c, err := block.New(block.Config{Store: s, Node: "node-1", Pools: pools})
	require.NoError(t, err)
	share, err := c.Claim(t.Context(), netip.Addr{})
	require.NoError(t, err)
	hints, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- s.Watch(t.Context(), func() {
			select {
			case hints <- struct{}{}:
			default:
			}
		})
	}()
	hint := func(what string) {
		t.Helper()
		select {
		case <-hints:
		case err := <-ended:
			t.Fatalf("the watch ended before %s: %v", what, err)
		case <-time.After(patience):
			t.Fatalf("no hint of %s", what)
		}
	}
	hint("its beginning")
	server.kill()
	startMember(t, cfg)
	operator(t, cfg.Client)
	hint("the return")
	mine, err := c.Shares(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []block.Share{share}, mine)
	_, err = c.Claim(t.Context(), netip.Addr{})
	require.NoError(t, err)
	hint("another block")
}

// TestBlocksByHand: what people and strangers do to the keys.
func TestBlocksByHand(t *testing.T) {
	url := startEmbedded(t)
	op := operator(t, url)
	s := blockStore(t, url, "/hand")
	pool := netip.MustParsePrefix("10.244.0.0/24")
	c, err := block.New(block.Config{Store: s, Node: "node-1", Pools: []block.Pool{{Prefix: pool}}})
	require.NoError(t, err)
	share, err := c.Claim(t.Context(), netip.Addr{})
	require.NoError(t, err)
	put(t, op, "/hand/blocks/hello", "world")
	mine, err := c.Shares(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []block.Share{share}, mine, "strangers' keys are left alone")

	for key, value := range map[string]string{
		"/hand/blocks/ipv4/010.244.000.000-023":   `{"prefix":"10.9.0.0/23"}`,
		"/hand/blocks/ipv4/010.244.000.000-hello": "world",
	} {
		put(t, op, key, value)
		for _, fail := range []func() error{
			func() error { _, err := c.Shares(t.Context()); return err },
			func() error { _, err := c.Claim(t.Context(), netip.Addr{}); return err },
		} {
			err := fail()
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.ErrorContains(t, err, key)
		}
		_, err = op.Delete(t.Context(), key)
		require.NoError(t, err)
	}
	_, err = c.Claim(t.Context(), netip.Addr{})
	require.NoError(t, err)
}
