package block_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/ipam/block"
	"github.com/podweft/podweft/ipam/block/memory"
)

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func pools(texts ...string) (pools []block.Pool) {
	for _, text := range texts {
		pools = append(pools, block.Pool{Prefix: prefix(text)})
	}
	return pools
}

func claimer(t require.TestingT, s block.Store, node string, pools ...block.Pool) *block.Claimer {
	c, err := block.New(block.Config{Store: s, Node: node, Pools: pools})
	require.NoError(t, err)
	return c
}

// anywhere is no address asked for by name.
var anywhere netip.Addr

func claim(t *testing.T, c *block.Claimer) netip.Prefix {
	t.Helper()
	s, err := c.Claim(t.Context(), anywhere)
	require.NoError(t, err)
	return s.Prefix
}

func shares(t *testing.T, c *block.Claimer) (all []netip.Prefix) {
	t.Helper()
	mine, err := c.Shares(t.Context())
	require.NoError(t, err)
	for _, s := range mine {
		all = append(all, s.Prefix)
	}
	return all
}

func stored(t require.TestingT, s block.Store) []block.Block {
	v4, err := s.Blocks(context.Background(), prefix("0.0.0.0/0"))
	require.NoError(t, err)
	v6, err := s.Blocks(context.Background(), prefix("::/0"))
	require.NoError(t, err)
	return slices.Concat(v4, v6)
}

func TestClaim(t *testing.T) {
	tests := []struct {
		name  string
		pools []block.Pool
		bits  int // of the share
		total int // that there are
	}{
		{"IPv4", pools("10.0.0.0/24"), 26, 4},
		{"IPv6", pools("fd00::/120"), 122, 4},
		{"a large IPv6 pool", pools("fd00::/48"), 122, 9},
		{"two pools", pools("10.0.0.0/25", "10.9.0.0/25"), 26, 4},
		{"a pool of one block", pools("10.0.0.0/26"), 26, 1},
		{"a pool shorter than a block", pools("10.0.0.0/28"), 28, 1},
		{"small blocks", []block.Pool{{Prefix: prefix("10.0.0.0/26"), BlockBits: 28}}, 28, 4},
		{"blocks of one address", []block.Pool{{Prefix: prefix("10.0.0.0/30"), BlockBits: 32}}, 32, 4},
		{"the last addresses", pools("255.255.255.0/24"), 26, 4},
		{"every address", []block.Pool{{Prefix: prefix("0.0.0.0/0"), BlockBits: 2}}, 2, 4},
		{"parts", []block.Pool{{Prefix: prefix("10.0.0.0/25"), Borrow: true}}, 29, 16},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := claimer(t, memory.New(), "node-1", tt.pools...)
			seen := map[netip.Prefix]bool{}
			for range tt.total {
				p := claim(t, c)
				assert.Equal(t, tt.bits, p.Bits())
				assert.True(t, slices.ContainsFunc(tt.pools, func(pool block.Pool) bool { return pool.Prefix.Contains(p.Addr()) }))
				assert.NotContains(t, seen, p)
				seen[p] = true
			}
			all := shares(t, c)
			assert.Len(t, all, tt.total)
			assert.True(t, slices.IsSortedFunc(all, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) }))
			if tt.name == "a large IPv6 pool" {
				return
			}
			_, err := c.Claim(t.Context(), anywhere)
			require.ErrorIs(t, err, block.ErrExhausted)
			for _, p := range all {
				require.NoError(t, c.Return(t.Context(), p))
				require.NoError(t, c.Return(t.Context(), p), "again")
			}
			assert.Empty(t, shares(t, c))
		})
	}
}

func TestFirstPoolComesFirst(t *testing.T) {
	s := memory.New()
	c := claimer(t, s, "node-1", pools("10.0.0.0/26", "10.9.0.0/26")...)
	assert.Equal(t, prefix("10.0.0.0/26"), claim(t, c))
	assert.Equal(t, prefix("10.9.0.0/26"), claim(t, c))
	other := claimer(t, s, "node-2", pools("10.9.0.0/26")...)
	_, err := other.Claim(t.Context(), anywhere)
	require.EqualError(t, err, "claim for node-2: no free block in 10.9.0.0/26")
}

func TestReturnedBlockIsFoundAgain(t *testing.T) {
	c := claimer(t, memory.New(), "node-1", pools("10.0.0.0/8")...)
	first := claim(t, c)
	require.NoError(t, c.Return(t.Context(), first))
	assert.Equal(t, first, claim(t, c))
}

func TestStrictBlocksAreNotShared(t *testing.T) {
	s := memory.New()
	claim(t, claimer(t, s, "node-1", pools("10.0.0.0/26")...))
	borrower := claimer(t, s, "node-2", block.Pool{Prefix: prefix("10.0.0.0/26"), Borrow: true})
	_, err := borrower.Claim(t.Context(), anywhere)
	require.ErrorIs(t, err, block.ErrExhausted)
}

func TestBorrow(t *testing.T) {
	s := memory.New()
	pool := block.Pool{Prefix: prefix("10.0.0.0/25"), Borrow: true} // two blocks, eight parts each
	a, b, c := claimer(t, s, "a", pool), claimer(t, s, "b", pool), claimer(t, s, "c", pool)
	own := func(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr(), 26).Masked() }
	blockA, blockB := own(claim(t, a)), own(claim(t, b))
	assert.NotEqual(t, blockA, blockB, "while there are blocks, each node has its own")
	borrowed := claim(t, c)
	assert.Contains(t, []netip.Prefix{blockA, blockB}, own(borrowed))
	for range 7 - 1 {
		assert.Equal(t, blockA, own(claim(t, a)), "its own block comes first")
	}
	for {
		if _, err := c.Claim(t.Context(), anywhere); err != nil {
			require.ErrorIs(t, err, block.ErrExhausted)
			break
		}
	}
	total := len(shares(t, a)) + len(shares(t, b)) + len(shares(t, c))
	assert.Equal(t, 16, total, "no part lies idle")

	// A node that returns the last part of its block has none; the borrowers stay, and one of them may take it over.
	for _, p := range shares(t, b) {
		require.NoError(t, b.Return(t.Context(), p))
	}
	blocks, err := s.Blocks(t.Context(), blockB)
	require.NoError(t, err)
	require.Len(t, blocks, 1)
	assert.Empty(t, blocks[0].Node)
	p := claim(t, c)
	assert.Equal(t, blockB, own(p))
	blocks, err = s.Blocks(t.Context(), blockB)
	require.NoError(t, err)
	assert.Equal(t, "c", blocks[0].Node)
}

func TestWantedAddress(t *testing.T) {
	s := memory.New()
	c := claimer(t, s, "node-1", pools("10.0.0.0/16", "10.9.0.0/26")...)
	want := netip.MustParseAddr("10.0.77.130")
	got, err := c.Claim(t.Context(), want)
	require.NoError(t, err)
	assert.Equal(t, block.Share{Prefix: prefix("10.0.77.128/26"), Node: "node-1"}, got)
	again, err := c.Claim(t.Context(), netip.MustParseAddr("::ffff:10.0.77.131"))
	require.NoError(t, err)
	assert.Equal(t, got, again)
	_, err = claimer(t, s, "node-2", pools("10.0.0.0/16")...).Claim(t.Context(), want)
	require.ErrorIs(t, err, block.ErrTaken)
	require.EqualError(t, err, "claim for node-2: 10.0.77.130: block is taken: 10.0.77.128/26 of node-1")
	_, err = c.Claim(t.Context(), netip.MustParseAddr("192.0.2.1"))
	require.ErrorIs(t, err, podweft.ErrInvalid)
	_, err = c.Claim(t.Context(), netip.MustParseAddr("fd00::1"))
	require.ErrorIs(t, err, podweft.ErrInvalid)

	lent := claimer(t, s, "node-3", block.Pool{Prefix: prefix("10.5.0.0/24"), Borrow: true})
	got, err = lent.Claim(t.Context(), netip.MustParseAddr("10.5.0.77"))
	require.NoError(t, err)
	assert.Equal(t, prefix("10.5.0.72/29"), got.Prefix)
}

// A pool's blocks may get another length while nodes hold blocks of the old one.
func TestBlockLengthChanges(t *testing.T) {
	s := memory.New()
	old := claimer(t, s, "old", block.Pool{Prefix: prefix("10.0.0.0/24"), BlockBits: 27})
	want, err := old.Claim(t.Context(), netip.MustParseAddr("10.0.0.70"))
	require.NoError(t, err)
	for _, bits := range []int{25, 29} {
		c := claimer(t, s, fmt.Sprint("new-", bits), block.Pool{Prefix: prefix("10.0.0.0/24"), BlockBits: bits})
		for {
			got, err := c.Claim(t.Context(), anywhere)
			if errors.Is(err, block.ErrExhausted) {
				break
			}
			require.NoError(t, err)
			assert.False(t, got.Prefix.Overlaps(want.Prefix))
		}
	}
	total := 0
	for _, b := range stored(t, s) {
		total += 1 << (32 - b.Prefix.Bits())
	}
	assert.Equal(t, 256, total, "all of the pool is claimed")
	require.NoError(t, old.Return(t.Context(), want.Prefix))
}

func TestNodeKeepsWhatItHasOfOtherPools(t *testing.T) {
	s := memory.New()
	p := claim(t, claimer(t, s, "node-1", pools("10.0.0.0/24")...))
	moved := claimer(t, s, "node-1", pools("10.9.0.0/24")...)
	assert.Equal(t, []netip.Prefix{p}, shares(t, moved))
	require.NoError(t, moved.Return(t.Context(), p))
	assert.Empty(t, stored(t, s))
}

func TestReturnLeavesOthersAlone(t *testing.T) {
	s := memory.New()
	p := claim(t, claimer(t, s, "node-1", pools("10.0.0.0/26")...))
	require.NoError(t, claimer(t, s, "node-2", pools("10.0.0.0/26")...).Return(t.Context(), p))
	assert.Len(t, stored(t, s), 1)
}

func TestConfigIsChecked(t *testing.T) {
	_, err := block.New(block.Config{})
	require.ErrorIs(t, err, podweft.ErrInvalid)
	for _, want := range []string{"Store: is missing", "Node: is missing", "Pools: are missing"} {
		assert.ErrorContains(t, err, want)
	}
	tests := []struct {
		name  string
		pools []block.Pool
		want  string
	}{
		{"no prefix", make([]block.Pool, 1), "Pools[0].Prefix: invalid Prefix is not a prefix"},
		{"host bits", pools("10.0.0.1/24"), "Pools[0].Prefix: 10.0.0.1/24 has host bits"},
		{"mapped", pools("::ffff:10.0.0.0/120"), "holds IPv4 addresses in IPv6 form"},
		{"short blocks", []block.Pool{{Prefix: prefix("10.0.0.0/24"), BlockBits: 23}}, "Pools[0].BlockBits: 23 is not the length of a part of 10.0.0.0/24: use 24 to 32"},
		{"long blocks", []block.Pool{{Prefix: prefix("10.0.0.0/24"), BlockBits: 33}}, "use 24 to 32"},
		{"two families", pools("10.0.0.0/24", "fd00::/64"), "Pools[1].Prefix: fd00::/64 is of another family"},
		{"overlap", pools("10.0.0.0/24", "10.0.0.0/16"), "Pools[1].Prefix: 10.0.0.0/16 overlaps 10.0.0.0/24"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := block.New(block.Config{Store: memory.New(), Node: "a", Pools: tt.pools})
			require.ErrorIs(t, err, podweft.ErrInvalid)
			assert.ErrorContains(t, err, tt.want)
		})
	}
}

// dead is the word of one who knows which nodes are gone.
func dead(gone ...string) func(context.Context, []string) ([]string, error) {
	return func(context.Context, []string) ([]string, error) { return gone, nil }
}

func TestCollect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New()
		pool := block.Pool{Prefix: prefix("10.0.0.0/26"), Borrow: true}
		a, b, c := claimer(t, s, "a", pool), claimer(t, s, "b", pool), claimer(t, s, "c", pool)
		claim(t, a)
		lostB, lostC := claim(t, b), claim(t, c)
		collect := func(grace time.Duration, gone ...string) (freed []string) {
			t.Helper()
			all, err := block.Collect(t.Context(), s, grace, dead(gone...))
			require.NoError(t, err)
			for _, share := range all {
				freed = append(freed, share.Prefix.String()+" "+share.Node)
			}
			return freed
		}
		assert.Empty(t, collect(time.Hour, "b", "c", "unknown"))
		time.Sleep(59 * time.Minute)
		assert.Empty(t, collect(time.Hour, "b", "c"), "too early")
		assert.Equal(t, []netip.Prefix{lostC}, shares(t, c), "c lives, and says so by asking")
		time.Sleep(time.Minute)
		assert.Equal(t, []string{lostB.String() + " b"}, collect(time.Hour, "b", "c"), "c is doubted anew")
		time.Sleep(30 * time.Minute)
		assert.Empty(t, collect(time.Hour), "whoever knows says that c lives")
		time.Sleep(30 * time.Minute)
		assert.Empty(t, collect(time.Hour, "c"), "and doubts it anew")
		time.Sleep(time.Hour)
		assert.Equal(t, []string{lostC.String() + " c"}, collect(time.Hour, "c"))
		assert.Len(t, stored(t, s), 1)

		time.Sleep(time.Hour)
		collect(time.Hour, "a")
		time.Sleep(time.Hour)
		assert.Len(t, collect(time.Hour, "a"), 1)
		assert.Empty(t, stored(t, s), "a block of nobody is gone")
	})
}

func TestCollectNeedsTheWord(t *testing.T) {
	s := memory.New()
	claim(t, claimer(t, s, "a", pools("10.0.0.0/26")...))
	claim(t, claimer(t, s, "b", pools("fd00::/122")...))
	_, err := block.Collect(t.Context(), s, 0, func(_ context.Context, nodes []string) ([]string, error) {
		assert.Equal(t, []string{"a", "b"}, nodes)
		return nodes, errors.New("the API server is away")
	})
	require.EqualError(t, err, "collect blocks: the API server is away")
	for _, b := range stored(t, s) {
		assert.Zero(t, b.Shares[0].Doubted)
	}
}

// nothingLeft reports what a pool has to give nevertheless, by brute force: a block, or where it is lent a part of one.
func nothingLeft(t require.TestingT, s block.Store, p block.Pool) error {
	if p.BlockBits == 0 {
		p.BlockBits = p.Prefix.Addr().BitLen() - 6
	}
	blocks := stored(t, s)
	for a := p.Prefix.Addr(); p.Prefix.Contains(a); a = a.Next() {
		whole, part := netip.PrefixFrom(a, p.BlockBits), netip.PrefixFrom(a, p.BlockBits+3)
		at := slices.IndexFunc(blocks, func(b block.Block) bool { return b.Prefix.Overlaps(whole) })
		if at < 0 && whole == whole.Masked() {
			return fmt.Errorf("%s is free", whole)
		}
		if at < 0 || !p.Borrow || part != part.Masked() || !blocks[at].Prefix.Contains(a) || blocks[at].Prefix.Bits() > part.Bits() {
			continue
		}
		if !slices.ContainsFunc(blocks[at].Shares, func(s block.Share) bool { return s.Prefix.Overlaps(part) }) {
			return fmt.Errorf("%s is free in %s", part, blocks[at].Prefix)
		}
	}
	return nil
}

// TestClaimersAgainstModel lets nodes with various pools claim, return, die and be collected in any order.
func TestClaimersAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		s := memory.New()
		borrow := rapid.Bool().Draw(t, "borrow")
		sets := [][]block.Pool{
			{{Prefix: prefix("10.0.0.0/25"), Borrow: borrow}, {Prefix: prefix("10.9.0.0/27"), BlockBits: 29}},
			{{Prefix: prefix("10.0.0.0/25"), Borrow: !borrow, BlockBits: 27}},
			{{Prefix: prefix("10.9.0.0/27"), BlockBits: 29}},
			{{Prefix: prefix("fd00::/121"), Borrow: borrow}},
		}
		node := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		owners := map[netip.Prefix]string{} // the model: whose a share is
		free := func(p netip.Prefix) bool {
			for q := range owners {
				if q.Overlaps(p) {
					return false
				}
			}
			return true
		}
		draw := func(t *rapid.T) (*block.Claimer, string, []block.Pool) {
			n, set := node.Draw(t, "node"), rapid.SampledFrom(sets).Draw(t, "pools")
			return claimer(t, s, n, set...), n, set
		}
		t.Repeat(map[string]func(*rapid.T){
			"claim": func(t *rapid.T) {
				c, n, set := draw(t)
				got, err := c.Claim(ctx, anywhere)
				if err == nil {
					require.True(t, free(got.Prefix), "%s: %v", got, owners)
					require.True(t, slices.ContainsFunc(set, func(p block.Pool) bool { return p.Prefix.Contains(got.Prefix.Addr()) }))
					owners[got.Prefix] = n
					return
				}
				require.ErrorIs(t, err, block.ErrExhausted)
				for _, p := range set {
					require.NoError(t, nothingLeft(t, s, p))
				}
			},
			"claim an address": func(t *rapid.T) {
				c, n, _ := draw(t)
				want := netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "want") & 127})
				got, err := c.Claim(ctx, want)
				if err != nil {
					require.True(t, errors.Is(err, block.ErrTaken) || errors.Is(err, podweft.ErrInvalid), "%v", err)
					return
				}
				require.True(t, got.Prefix.Contains(want))
				if owners[got.Prefix] != n {
					require.True(t, free(got.Prefix))
				}
				owners[got.Prefix] = n
			},
			"return": func(t *rapid.T) {
				if len(owners) == 0 {
					t.Skip()
				}
				c, n, _ := draw(t)
				all := slices.Collect(func(yield func(netip.Prefix) bool) {
					for p := range owners {
						if !yield(p) {
							return
						}
					}
				})
				slices.SortFunc(all, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
				p := rapid.SampledFrom(all).Draw(t, "share")
				require.NoError(t, c.Return(ctx, p))
				if owners[p] == n {
					delete(owners, p)
				}
			},
			"die": func(t *rapid.T) {
				n := node.Draw(t, "node")
				for range 2 {
					_, err := block.Collect(ctx, s, 0, dead(n))
					require.NoError(t, err)
				}
				for p, owner := range owners {
					if owner == n {
						delete(owners, p)
					}
				}
			},
			"": func(t *rapid.T) {
				got := map[netip.Prefix]string{}
				for _, b := range stored(t, s) {
					require.NoError(t, b.Validate())
					require.NotEmpty(t, b.Shares)
					for _, share := range b.Shares {
						got[share.Prefix] = share.Node
					}
					if b.Node != "" {
						require.True(t, slices.ContainsFunc(b.Shares, func(s block.Share) bool { return s.Node == b.Node }))
					}
				}
				require.Equal(t, owners, got)
			},
		})
	})
}
