package block_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipam"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/memory"
)

func pod(name string) ipam.Owner {
	return ipam.Owner{Network: "pods", Container: name, Interface: "eth0"}
}

// fastDir is a directory of the test in memory where there is one: a change of ranges waits until it is written.
func fastDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "blocks")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func allocator(t testing.TB, cfg block.AllocatorConfig) *block.Allocator {
	t.Helper()
	if cfg.IPAM.Path == "" {
		cfg.IPAM.Path = filepath.Join(fastDir(t), "ipam")
	}
	a, err := block.NewAllocator(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { a.Close() })
	return a
}

func addrs(a ipam.Allocation) (text string) {
	for _, held := range a.Addresses {
		text += held.Prefix.String() + " "
	}
	return text
}

func TestAllocator(t *testing.T) {
	s := memory.New()
	v4 := claimer(t, s, "node-1", block.Pool{Prefix: prefix("10.0.0.0/27"), BlockBits: 30})
	v6 := claimer(t, s, "node-1", block.Pool{Prefix: prefix("fd00::/64")})
	path := filepath.Join(fastDir(t), "ipam")
	cfg := block.AllocatorConfig{
		Claimers: []*block.Claimer{v4, v6}, Gateways: []netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")},
		IPAM: ipam.Config{Path: path},
	}
	a := allocator(t, cfg)
	assert.Empty(t, stored(t, s), "nothing is claimed before it is needed")

	seen := map[netip.Addr]bool{}
	for i := range 32 {
		given, err := a.Allocate(t.Context(), pod(fmt.Sprint(i)))
		require.NoError(t, err)
		again, err := a.Allocate(t.Context(), pod(fmt.Sprint(i)))
		require.NoError(t, err)
		assert.Equal(t, given, again)
		require.Len(t, given.Addresses, 2)
		assert.Equal(t, 32, given.Addresses[0].Prefix.Bits())
		assert.Equal(t, 128, given.Addresses[1].Prefix.Bits())
		assert.Equal(t, cfg.Gateways, []netip.Addr{given.Addresses[0].Gateway, given.Addresses[1].Gateway})
		for _, held := range given.Addresses {
			assert.NotContains(t, seen, held.Prefix.Addr())
			seen[held.Prefix.Addr()] = true
		}
		assert.Len(t, shares(t, v4), i/4+1, "as many blocks as it takes")
	}
	assert.Len(t, shares(t, v6), 1)
	_, err := a.Allocate(t.Context(), pod("one too many"))
	require.ErrorIs(t, err, block.ErrExhausted)

	require.NoError(t, a.Close())
	a = allocator(t, cfg) // the agent is started anew
	_, err = a.Allocate(t.Context(), pod("one too many"))
	require.ErrorIs(t, err, block.ErrExhausted)
	require.NoError(t, a.Release(t.Context(), pod("7")))
	_, err = a.Allocate(t.Context(), pod("7 again"))
	require.NoError(t, err)
}

// TestAllocatorOfScatteredBlocks: however small a node's blocks are and however far apart, it gives out all addresses of its own, and none
// of those between.
func TestAllocatorOfScatteredBlocks(t *testing.T) {
	s := memory.New()
	pool := block.Pool{Prefix: prefix("10.0.0.0/24"), BlockBits: 32}
	theirs := claimer(t, s, "node-2", pool)
	others := map[netip.Addr]bool{}
	for a := pool.Prefix.Addr(); pool.Prefix.Contains(a); a = a.Next() {
		if a.As4()[3]%3 == 0 {
			_, err := theirs.Claim(t.Context(), a)
			require.NoError(t, err)
			others[a] = true
		}
	}
	v6 := block.Pool{Prefix: prefix("fd00::/112"), BlockBits: 127}
	for i := range 256 {
		a := v6.Prefix.Addr().As16()
		a[15] = byte(i)
		if i%8 == 0 {
			_, err := claimer(t, s, "node-2", v6).Claim(t.Context(), netip.AddrFrom16(a))
			require.NoError(t, err)
		}
	}
	cfg := block.AllocatorConfig{
		Claimers: []*block.Claimer{claimer(t, s, "node-1", pool), claimer(t, s, "node-1", v6)}, IPAM: ipam.Config{Path: filepath.Join(fastDir(t), "ipam")},
	}
	a := allocator(t, cfg)
	held := map[netip.Addr]bool{}
	for i := range 256 - len(others) {
		given, err := a.Allocate(t.Context(), pod(fmt.Sprint(i)))
		require.NoError(t, err, "%d", i)
		require.Len(t, given.Addresses, 2)
		assert.False(t, others[given.Addr()], "%s is another's", given.Addr())
		for _, has := range given.Addresses {
			assert.False(t, held[has.Prefix.Addr()], "%s twice", has.Prefix)
			held[has.Prefix.Addr()] = true
		}
	}
	_, err := a.Allocate(t.Context(), pod("one too many"))
	require.ErrorIs(t, err, block.ErrExhausted)
	require.NoError(t, a.Release(t.Context(), pod("77")))
	_, err = a.Allocate(t.Context(), pod("another"))
	require.NoError(t, err)
	_, err = a.Allocate(t.Context(), pod("wanting"), netip.MustParseAddr("10.0.0.3"))
	require.ErrorIs(t, err, block.ErrTaken)
}

// TestAllocatorOfAnotherFamily: a second family has come, of which the node has nothing yet. Who has an address keeps it, as ever, and needs
// nothing else.
func TestAllocatorOfAnotherFamily(t *testing.T) {
	s := memory.New()
	v4 := claimer(t, s, "node-1", block.Pool{Prefix: prefix("10.0.0.0/24")})
	cfg := block.AllocatorConfig{Claimers: []*block.Claimer{v4}, IPAM: ipam.Config{Path: filepath.Join(fastDir(t), "ipam")}}
	a := allocator(t, cfg)
	had, err := a.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)
	require.NoError(t, a.Close())

	v6 := claimer(t, s, "node-1", block.Pool{Prefix: prefix("fd00::/64")})
	cfg.Claimers = append(cfg.Claimers, v6)
	a = allocator(t, cfg)
	for range 2 {
		given, err := a.Allocate(t.Context(), pod("a"))
		require.NoError(t, err)
		assert.Equal(t, had, given)
		given, err = a.AllocateOf(t.Context(), pod("a"), []netip.Prefix{prefix("fd00::/64")}, had.Addr())
		require.NoError(t, err)
		assert.Equal(t, had, given)
	}
	_, err = a.Allocate(t.Context(), pod("a"), netip.MustParseAddr("fd00::7"))
	require.ErrorIs(t, err, podweft.ErrInvalid, "it has another")
	assert.Empty(t, shares(t, v6), "nothing is claimed in vain")
	given, err := a.Allocate(t.Context(), pod("b"))
	require.NoError(t, err)
	require.Len(t, given.Addresses, 2)
}

func TestAllocatorWantedAddress(t *testing.T) {
	s := memory.New()
	c := claimer(t, s, "node-1", pools("10.0.0.0/16")...)
	a := allocator(t, block.AllocatorConfig{Claimers: []*block.Claimer{c}})
	given, err := a.Allocate(t.Context(), pod("a"), netip.MustParseAddr("10.0.5.77"))
	require.NoError(t, err)
	assert.Equal(t, "10.0.5.77/32 ", addrs(given))
	assert.Equal(t, []netip.Prefix{prefix("10.0.5.64/26")}, shares(t, c))
	_, err = a.Allocate(t.Context(), pod("b"), netip.MustParseAddr("10.0.5.77"))
	require.ErrorIs(t, err, ipam.ErrTaken)
	_, err = a.Allocate(t.Context(), pod("a"), netip.MustParseAddr("10.0.9.9"))
	require.ErrorIs(t, err, podweft.ErrInvalid, "it has another")
	assert.Len(t, shares(t, c), 1, "nothing is claimed in vain")
	_, err = a.Allocate(t.Context(), pod("c"), netip.MustParseAddr("192.0.2.1"))
	require.ErrorIs(t, err, podweft.ErrInvalid)
	other := allocator(t, block.AllocatorConfig{Claimers: []*block.Claimer{claimer(t, s, "node-2", pools("10.0.0.0/16")...)}})
	_, err = other.Allocate(t.Context(), pod("d"), netip.MustParseAddr("10.0.5.78"))
	require.ErrorIs(t, err, block.ErrTaken)
}

// A node gets all that is left of its pools, in however many pieces: here every other block, and every other address. What lies in
// between is another's.
func TestAllocatorTakesWhatIsScattered(t *testing.T) {
	s := memory.New()
	pieces := func(first string, bits, apart, n int) (mine, others []netip.Prefix) {
		addr := netip.MustParseAddr(first)
		for i := range n * apart {
			if i%apart == 0 {
				mine = append(mine, netip.PrefixFrom(addr, bits))
			} else {
				others = append(others, netip.PrefixFrom(addr, bits))
			}
			for range 1 << (addr.BitLen() - bits) {
				addr = addr.Next()
			}
		}
		return mine, others
	}
	write := func(b block.Block, shares []netip.Prefix) {
		t.Helper()
		for _, p := range shares {
			b.Shares = append(b.Shares, block.Share{Prefix: p, Node: "other"})
		}
		_, err := s.Write(t.Context(), b)
		require.NoError(t, err)
	}
	blocks, others := pieces("10.0.0.0", 31, 2, 16)
	for _, p := range others {
		write(block.Block{Prefix: p, Node: "other"}, []netip.Prefix{p})
	}
	borrowed, lent := pieces("fd00::", 128, 2, 32)
	write(block.Block{Prefix: prefix("fd00::/122"), Node: "other"}, lent)

	cfg := block.AllocatorConfig{
		Claimers: []*block.Claimer{
			claimer(t, s, "node-1", block.Pool{Prefix: prefix("10.0.0.0/26"), BlockBits: 31}),
			claimer(t, s, "node-1", block.Pool{Prefix: prefix("fd00::/122"), BlockBits: 125, Borrow: true}),
		},
		IPAM: ipam.Config{Path: filepath.Join(fastDir(t), "ipam")},
	}
	a := allocator(t, cfg)
	got := map[netip.Prefix]bool{}
	for i := range 32 {
		given, err := a.Allocate(t.Context(), pod(fmt.Sprint(i)))
		require.NoError(t, err, "number %d", i)
		require.Len(t, given.Addresses, 2)
		got[given.Addresses[0].Prefix], got[given.Addresses[1].Prefix] = true, true
	}
	for _, p := range blocks {
		assert.True(t, got[netip.PrefixFrom(p.Addr(), 32)] && got[netip.PrefixFrom(p.Addr().Next(), 32)], "%s", p)
	}
	for _, p := range borrowed {
		assert.True(t, got[p], "%s", p)
	}
	_, err := a.Allocate(t.Context(), pod("one too many"))
	require.ErrorIs(t, err, block.ErrExhausted)
	require.NoError(t, a.Close())

	a = allocator(t, cfg) // the agent is started anew
	require.NoError(t, a.Release(t.Context(), pod("7")))
	for _, between := range []netip.Addr{others[3].Addr(), lent[3].Addr()} {
		_, err = a.Allocate(t.Context(), pod("7 again"), between)
		require.ErrorIs(t, err, block.ErrTaken)
		_, err = a.AllocateOf(t.Context(), pod("7 again"), []netip.Prefix{prefix("10.0.0.0/26"), prefix("fd00::/122")}, between)
		require.ErrorIs(t, err, block.ErrTaken)
	}
	_, err = a.AllocateOf(t.Context(), pod("7 again"), []netip.Prefix{prefix("10.0.0.0/26"), prefix("fd00::/122")})
	require.NoError(t, err)
}

// Of two pools one is not for everybody: those that may have the other alone never get an address of it, whatever the node has claimed.
func TestAllocateOf(t *testing.T) {
	s := memory.New()
	common, reserved := prefix("10.0.0.0/29"), prefix("10.0.1.0/29")
	c := claimer(t, s, "node-1", block.Pool{Prefix: common, BlockBits: 31}, block.Pool{Prefix: reserved, BlockBits: 31})
	six := claimer(t, s, "node-1", pools("fd00::/64")...)
	a := allocator(t, block.AllocatorConfig{Claimers: []*block.Claimer{c, six}})
	of := func(owner string, from ...netip.Prefix) (netip.Addr, error) {
		given, err := a.AllocateOf(t.Context(), pod(owner), append(from, prefix("fd00::/64")))
		if err != nil {
			return netip.Addr{}, err
		}
		require.Len(t, given.Addresses, 2)
		return given.Addr(), nil
	}
	for i := range 8 { // by turns, so that the node has shares of both all the time
		for owner, pool := range map[string]netip.Prefix{"anybody": common, "chosen": reserved} {
			addr, err := of(fmt.Sprint(owner, i), pool)
			require.NoError(t, err)
			assert.True(t, pool.Contains(addr), "%s has %s", owner, addr)
			assert.LessOrEqual(t, len(shares(t, c)), 2*(i/2+1), "as many blocks as it takes")
		}
	}
	_, err := of("anybody8", common)
	require.ErrorIs(t, err, block.ErrExhausted)
	_, err = of("nobody")
	require.ErrorIs(t, err, block.ErrExhausted, "no pool of the family is for it")
	require.NoError(t, a.Release(t.Context(), pod("chosen3")))
	_, err = of("anybody8", common)
	require.ErrorIs(t, err, block.ErrExhausted, "what is free is not for it")
	_, err = a.AllocateOf(t.Context(), pod("anybody8"), []netip.Prefix{common, prefix("fd00::/64")}, netip.MustParseAddr("10.0.1.1"))
	require.ErrorIs(t, err, podweft.ErrInvalid)
	kept, err := of("chosen4", common)
	require.NoError(t, err)
	assert.True(t, reserved.Contains(kept), "what somebody has he keeps")
	addr, err := of("both", common, reserved)
	require.NoError(t, err)
	assert.True(t, reserved.Contains(addr))
	_, err = a.Allocate(t.Context(), pod("one too many"))
	require.ErrorIs(t, err, block.ErrExhausted)
}

func TestAllocatorConfig(t *testing.T) {
	_, err := block.NewAllocator(t.Context(), block.AllocatorConfig{
		Claimers: []*block.Claimer{nil}, IPAM: ipam.Config{Path: filepath.Join(fastDir(t), "ipam"), Prefixes: []netip.Prefix{prefix("10.0.0.0/24")}},
	})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	require.EqualError(t, err, "Claimers[0]: is missing\nIPAM.Sets: are given; they come from the Claimers")
}

func TestTrim(t *testing.T) {
	s := memory.New()
	c := claimer(t, s, "node-1", block.Pool{Prefix: prefix("10.0.0.0/24"), BlockBits: 31})
	a := allocator(t, block.AllocatorConfig{Claimers: []*block.Claimer{c}})
	for i := range 8 {
		_, err := a.Allocate(t.Context(), pod(fmt.Sprint(i)))
		require.NoError(t, err)
	}
	trim := func(keep int) int {
		t.Helper()
		returned, err := a.Trim(t.Context(), keep)
		require.NoError(t, err)
		return len(returned)
	}
	assert.Zero(t, trim(0))
	freed, err := a.Collect(t.Context(), func(_ context.Context, held []ipam.Allocation) (dead []ipam.Owner, err error) {
		for _, h := range held[2:] { // all but the first block's
			dead = append(dead, h.Owner)
		}
		return dead, nil
	})
	require.NoError(t, err)
	assert.Len(t, freed, 6)
	assert.Equal(t, 2, trim(1))
	assert.Len(t, shares(t, c), 2)
	assert.Equal(t, 1, trim(0))
	all := shares(t, c)
	require.Len(t, all, 1)
	assert.True(t, all[0].Contains(freed[0].Addr().Prev()))

	_, err = a.Allocate(t.Context(), pod("new"))
	require.NoError(t, err, "it claims again")
	require.NoError(t, a.Release(t.Context(), pod("new")))
	for i := range 8 {
		require.NoError(t, a.Release(t.Context(), pod(fmt.Sprint(i))))
	}
	assert.Equal(t, 2, trim(0))
	assert.Empty(t, stored(t, s))
	_, err = a.Allocate(t.Context(), pod("new"))
	require.NoError(t, err)
}

// An address that is kept back for the grace is not another node's to give.
func TestTrimKeepsGrace(t *testing.T) {
	s := memory.New()
	c := claimer(t, s, "node-1", pools("10.0.0.0/24")...)
	a := allocator(t, block.AllocatorConfig{Claimers: []*block.Claimer{c}, IPAM: ipam.Config{Grace: time.Hour}})
	_, err := a.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)
	require.NoError(t, a.Release(t.Context(), pod("a")))
	_, err = a.Trim(t.Context(), -1)
	require.ErrorIs(t, err, podweft.ErrInvalid)
	returned, err := a.Trim(t.Context(), 0)
	require.NoError(t, err)
	assert.Empty(t, returned)
}

// Idle shares are kept of the pools that are named, and of no others.
func TestTrimOf(t *testing.T) {
	s := memory.New()
	old, next := prefix("10.0.0.0/24"), prefix("10.0.1.0/24")
	c := claimer(t, s, "node-1", block.Pool{Prefix: old, BlockBits: 31}, block.Pool{Prefix: next, BlockBits: 31})
	a := allocator(t, block.AllocatorConfig{Claimers: []*block.Claimer{c}})
	for _, of := range []netip.Prefix{old, next} {
		for i := range 4 {
			_, err := a.AllocateOf(t.Context(), pod(fmt.Sprint(of, i)), []netip.Prefix{of})
			require.NoError(t, err)
		}
	}
	for _, of := range []netip.Prefix{old, next} {
		for i := range 4 {
			if of == next || i > 0 {
				require.NoError(t, a.Release(t.Context(), pod(fmt.Sprint(of, i))))
			}
		}
	}
	returned, err := a.TrimOf(t.Context(), 1, []netip.Prefix{next})
	require.NoError(t, err)
	assert.NotEmpty(t, returned)
	var kept []netip.Prefix
	for _, share := range a.Shares() {
		kept = append(kept, share.Prefix)
	}
	require.Len(t, kept, 2)
	assert.True(t, old.Overlaps(kept[0]), "one of it is used")
	assert.True(t, next.Overlaps(kept[1]))

	require.NoError(t, a.Release(t.Context(), pod(fmt.Sprint(old, 0))))
	_, err = a.TrimOf(t.Context(), 1, nil)
	require.NoError(t, err)
	assert.Empty(t, a.Shares(), "no pool is none")
}

// A node that was away for so long that others took its blocks learns which of its pods have lost their address.
func TestSyncFindsWhatIsLost(t *testing.T) {
	s := memory.New()
	c := claimer(t, s, "node-1", pools("10.0.0.0/24")...)
	a := allocator(t, block.AllocatorConfig{Claimers: []*block.Claimer{c}})
	given, err := a.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)
	_, err = block.Collect(t.Context(), s, 0, dead("node-1"))
	require.NoError(t, err)
	lost, err := a.Sync(t.Context())
	require.NoError(t, err)
	assert.Empty(t, lost, "doubts are dispelled")
	for range 2 {
		_, err = block.Collect(t.Context(), s, 0, dead("node-1"))
		require.NoError(t, err)
	}
	lost, err = a.Sync(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []ipam.Allocation{given}, lost)

	other := allocator(t, block.AllocatorConfig{Claimers: []*block.Claimer{claimer(t, s, "node-2", pools("10.0.0.0/24")...)}})
	taken, err := other.Allocate(t.Context(), pod("b"), given.Addr())
	require.NoError(t, err)
	assert.Equal(t, given.Addr(), taken.Addr())
	next, err := a.Allocate(t.Context(), pod("c"))
	require.NoError(t, err)
	assert.NotEqual(t, given.Addr(), next.Addr())
}

func TestAllocatorConfigIsChecked(t *testing.T) {
	c := claimer(t, memory.New(), "a", pools("10.0.0.0/24")...)
	_, err := block.NewAllocator(t.Context(), block.AllocatorConfig{})
	require.ErrorContains(t, err, "Claimers: are missing")
	_, err = block.NewAllocator(t.Context(), block.AllocatorConfig{
		Claimers: []*block.Claimer{c, c}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")},
		IPAM: ipam.Config{Prefixes: []netip.Prefix{prefix("10.0.0.0/24")}},
	})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	for _, want := range []string{"Claimers[1]: is of the same family", "Gateways[1]: 10.0.0.2 is of the same family", "IPAM.Sets: are given"} {
		assert.ErrorContains(t, err, want)
	}
	_, err = block.NewAllocator(t.Context(), block.AllocatorConfig{Claimers: []*block.Claimer{c}})
	require.ErrorIs(t, err, podweft.ErrInvalid, "no path")
}

// Twenty nodes give out, take back and trim at the same time, of a pool that is too small: no address is ever two pods'.
func TestNodesShareOnePool(t *testing.T) {
	for _, borrow := range []bool{false, true} {
		t.Run(fmt.Sprint("borrow ", borrow), func(t *testing.T) {
			s := memory.New()
			var mu sync.Mutex
			holders := map[netip.Addr]string{}
			var nodes sync.WaitGroup
			for n := range 20 {
				name := fmt.Sprint("node-", n)
				c := claimer(t, s, name, block.Pool{Prefix: prefix("10.0.0.0/26"), BlockBits: 29, Borrow: borrow})
				a := allocator(t, block.AllocatorConfig{Claimers: []*block.Claimer{c}})
				random := rand.New(rand.NewPCG(1, uint64(n)))
				nodes.Go(func() {
					held := map[string]netip.Addr{}
					for i := range 40 {
						if random.IntN(3) > 0 {
							owner := fmt.Sprint(i)
							given, err := a.Allocate(t.Context(), pod(owner))
							if errors.Is(err, block.ErrExhausted) {
								continue
							}
							if !assert.NoError(t, err) {
								return
							}
							mu.Lock()
							assert.NotContains(t, holders, given.Addr(), "%s has it, %s got it", holders[given.Addr()], name)
							holders[given.Addr()] = name
							mu.Unlock()
							held[owner] = given.Addr()
							continue
						}
						for owner, addr := range held {
							mu.Lock()
							delete(holders, addr)
							mu.Unlock()
							delete(held, owner)
							assert.NoError(t, a.Release(t.Context(), pod(owner)))
							break
						}
						_, err := a.Trim(t.Context(), 0)
						assert.NoError(t, err)
					}
				})
			}
			nodes.Wait()
		})
	}
}

// hung is a Store that does not answer as long as it is held.
type hung struct {
	block.Store
	asked chan struct{} // size 1: somebody waits
	held  chan struct{} // closed: it answers
}

func (h *hung) Blocks(ctx context.Context, p netip.Prefix) ([]block.Block, error) {
	select {
	case h.asked <- struct{}{}:
	default:
	}
	select {
	case <-h.held:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return h.Store.Blocks(ctx, p)
}

// Nobody is told that addresses are lost of a family that the node has no pools of any more: no one looks whose they are.
func TestSyncLeavesAFamilyWithoutPools(t *testing.T) {
	s := memory.New()
	v4, v6 := claimer(t, s, "node-1", pools("10.0.0.0/24")...), claimer(t, s, "node-1", pools("fd00::/64")...)
	file := ipam.Config{Path: filepath.Join(fastDir(t), "ipam")}
	both := allocator(t, block.AllocatorConfig{Claimers: []*block.Claimer{v4, v6}, IPAM: file})
	given, err := both.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)
	require.Len(t, given.Addresses, 2)
	a := allocator(t, block.AllocatorConfig{Claimers: []*block.Claimer{v4}, IPAM: file})
	lost, err := a.Sync(t.Context())
	require.NoError(t, err)
	assert.Empty(t, lost)
	_, err = block.Free(t.Context(), s, "node-1")
	require.NoError(t, err)
	lost, err = a.Sync(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []ipam.Allocation{given}, lost, "its IPv4 is")
}

// While a Sync waits for the store, pods get addresses of what is claimed, and what another claim has added meanwhile is not lost.
func TestSyncHoldsNobodyUp(t *testing.T) {
	s := &hung{Store: memory.New(), asked: make(chan struct{}, 1), held: make(chan struct{})}
	close(s.held)
	c := claimer(t, s, "node-1", block.Pool{Prefix: prefix("10.0.0.0/24"), BlockBits: 30})
	a := allocator(t, block.AllocatorConfig{Claimers: []*block.Claimer{c}})
	_, err := a.Allocate(t.Context(), pod("a"))
	require.NoError(t, err)

	s.held = make(chan struct{})
	<-s.asked
	synced := make(chan error, 1)
	go func() {
		_, err := a.Sync(t.Context())
		synced <- err
	}()
	<-s.asked
	for i := range 3 {
		_, err := a.Allocate(t.Context(), pod(fmt.Sprint(i)))
		require.NoError(t, err)
	}
	claimed := make(chan error, 1)
	go func() {
		_, err := a.Allocate(t.Context(), pod("of another block"))
		claimed <- err
	}()
	close(s.held)
	require.NoError(t, <-claimed)
	require.NoError(t, <-synced)
	assert.Len(t, a.Shares(), 2)
	assert.Equal(t, shares(t, c), []netip.Prefix{a.Shares()[0].Prefix, a.Shares()[1].Prefix})
}
