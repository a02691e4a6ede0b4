package nft_test

import (
	"context"
	"errors"
	"io/fs"
	"regexp"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
)

func TestWhatIsMadeIsReadBack(t *testing.T) {
	c, n := dial(t)
	jumped := nft.Chain{Table: ours, Name: "web"}
	commit(t, c, func(b *nft.Batch) {
		b.AddTable(ours, 0)
		b.AddSet(peers)
		b.AddSet(hosts)
		b.AddChain(post)
		b.AddChain(jumped)
		b.AddElements(peers, prefixes("10.244.1.0/24", "10.244.2.0/24", "192.0.2.7/32")...)
		b.AddRule(fromPeers(false))
	})

	table, err := c.Table(t.Context(), ours)
	require.NoError(t, err)
	assert.Equal(t, nft.TableInfo{Table: ours}, table)
	chains, err := c.Chains(t.Context(), ours)
	require.NoError(t, err)
	assert.ElementsMatch(t, []nft.Chain{post, jumped}, chains)
	sets, err := c.Sets(t.Context(), ours)
	require.NoError(t, err)
	assert.ElementsMatch(t, []nft.Set{peers, hosts}, sets)
	elements, err := c.Elements(t.Context(), peers)
	require.NoError(t, err)
	assert.Equal(t, prefixes("10.244.1.0/24", "10.244.2.0/24", "192.0.2.7/32"), elements)
	rules, err := c.Rules(t.Context(), ours)
	require.NoError(t, err)
	require.Len(t, rules, 1)
	assert.True(t, fromPeers(false).Same(rules[0]))
	assert.False(t, fromPeers(true).Same(rules[0]), "inverted")
	assert.Equal(t, "pods leave", rules[0].Comment)

	if list, ok := nftList(t, n, ours); ok {
		assert.Contains(t, list, `ip saddr @peers masquerade fully-random comment "pods leave"`)
		assert.Contains(t, list, "elements = { 10.244.1.0/24, 10.244.2.0/24,\n\t\t\t     192.0.2.7 }")
		assert.Contains(t, list, "type nat hook postrouting priority srcnat; policy accept;")
	}
}

func TestEveryKindOfSet(t *testing.T) {
	key := func(ip [4]byte, port uint16) string {
		return nft.Key(ip[:], []byte{byte(port >> 8), byte(port)})
	}
	tests := []struct {
		name     string
		set      nft.Set
		elements []nft.Element
		want     []string
	}{
		{
			name:     "v6 ranges, to the very last address",
			set:      nft.Set{Key: nft.IPv6Addr, Interval: true},
			elements: prefixes("2001:db8:1::/64", "2001:db8:2::/64", "ff00::/8"),
			want:     []string{"{ 2001:db8:1::/64 }", "{ 2001:db8:2::/64 }", "{ ff00::/8 }"},
		},
		{
			name:     "everything",
			set:      nft.Set{Key: nft.IPv4Addr, Interval: true},
			elements: prefixes("0.0.0.0/0"),
			want:     []string{"{ 0.0.0.0/0 }"},
		},
		{
			name:     "a range that is no prefix, and its neighbour",
			set:      nft.Set{Key: nft.IPv4Addr, Interval: true},
			elements: []nft.Element{{Key: "\x0a\x00\x00\x01", Last: "\x0a\x00\x00\x09"}, {Key: "\x0a\x00\x00\x0a"}},
			want:     []string{"{ 10.0.0.1-10.0.0.9 }", "{ 10.0.0.10 }"},
		},
		{
			name:     "ports",
			set:      nft.Set{Key: nft.InetService, Interval: true},
			elements: []nft.Element{{Key: "\x00\x50"}, {Key: "\x1f\x40", Last: "\x1f\x4a"}},
			want:     []string{"{ 80 }", "{ 8000-8010 }"},
		},
		{
			name:     "map to addresses",
			set:      nft.Set{Key: nft.InetService, Data: nft.IPv4Addr},
			elements: []nft.Element{{Key: "\x00\x50", Data: "\x0a\xf4\x01\x02"}},
			want:     []string{"{ 80 : 10.244.1.2 }"},
		},
		{
			name: "map of a concatenation to a concatenation",
			set:  nft.Set{Key: nft.Concat(nft.InetProto, nft.InetService), Data: nft.Concat(nft.IPv4Addr, nft.InetService)},
			elements: []nft.Element{
				{Key: nft.Key([]byte{unix.IPPROTO_TCP}, []byte{0, 80}), Data: key([4]byte{10, 244, 1, 2}, 8080)},
			},
			want: []string{"{ tcp . 80 : 10.244.1.2 . 8080 }"},
		},
		{
			name: "verdict map",
			set:  nft.Set{Key: nft.IPv4Addr, Data: nft.Verdict},
			elements: []nft.Element{
				{Key: "\x0a\xf4\x01\x02", Verdict: expr.Verdict{Kind: expr.VerdictJump, Chain: "web"}},
				{Key: "\x0a\xf4\x01\x03", Verdict: expr.Verdict{Kind: expr.VerdictAccept}},
				{Key: "\x0a\xf4\x01\x04", Verdict: expr.Verdict{Kind: expr.VerdictDrop}},
			},
			want: []string{"{ 10.244.1.2 : jump web }", "{ 10.244.1.3 : accept }", "{ 10.244.1.4 : drop }"},
		},
		{
			name: "verdict map of ranges",
			set:  nft.Set{Key: nft.IPv4Addr, Data: nft.Verdict, Interval: true},
			elements: []nft.Element{
				{Key: "\x0a\xf4\x01\x00", Last: "\x0a\xf4\x01\xff", Verdict: expr.Verdict{Kind: expr.VerdictGoto, Chain: "web"}},
			},
			want: []string{"{ 10.244.1.0/24 : goto web }"},
		},
		{
			name: "ranges in each field of a concatenation",
			set:  nft.Set{Key: nft.Concat(nft.IPv4Addr, nft.InetService), Interval: true},
			elements: []nft.Element{
				{Key: key([4]byte{10, 0, 0, 0}, 80), Last: key([4]byte{10, 0, 0, 255}, 90)},
				{Key: key([4]byte{10, 0, 1, 1}, 443)},
			},
			want: []string{"{ 10.0.0.0 . 80-10.0.0.255 . 90 }", "{ 10.0.1.1 . 443 }"},
		},
		{
			name:     "Ethernet addresses",
			set:      nft.Set{Key: nft.EtherAddr},
			elements: []nft.Element{{Key: "\x0e\x1d\x2c\x3b\x4a\x59"}},
			want:     []string{"{ 0x0e1d2c3b4a59 }"},
		},
	}
	c, n := dial(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			set := test.set
			set.Table, set.Name = ours, "elements"
			commit(t, c, func(b *nft.Batch) {
				b.AddTable(ours, 0)
				b.AddChain(nft.Chain{Table: ours, Name: "web"})
				b.AddSet(set)
				b.AddElements(set, test.elements...)
			})
			defer commit(t, c, func(b *nft.Batch) { b.DeleteTable(ours) })

			sets, err := c.Sets(t.Context(), ours)
			require.NoError(t, err)
			assert.Equal(t, []nft.Set{set}, sets)
			elements, err := c.Elements(t.Context(), set)
			require.NoError(t, err)
			assert.ElementsMatch(t, test.elements, elements)
			var got []string
			for _, e := range elements {
				got = append(got, nft.SetElement{Set: set, Element: e}.String())
			}
			for i := range test.want {
				test.want[i] = "element inet ours elements " + test.want[i]
			}
			assert.ElementsMatch(t, test.want, got)
			nftList(t, n, ours) // nft can read it

			commit(t, c, func(b *nft.Batch) { b.DeleteElements(set, test.elements...) })
			elements, err = c.Elements(t.Context(), set)
			require.NoError(t, err)
			assert.Empty(t, elements)
		})
	}
}

func TestATransactionReplacesOverlappingRanges(t *testing.T) {
	c, _ := dial(t)
	commit(t, c, func(b *nft.Batch) {
		b.AddTable(ours, 0)
		b.AddSet(peers)
		b.AddElements(peers, prefixes("10.244.0.0/16")...)
	})
	commit(t, c, func(b *nft.Batch) {
		b.DeleteElements(peers, prefixes("10.244.0.0/16")...)
		b.AddElements(peers, prefixes("10.244.0.0/24", "10.244.128.0/17")...)
	})
	elements, err := c.Elements(t.Context(), peers)
	require.NoError(t, err)
	assert.Equal(t, prefixes("10.244.0.0/24", "10.244.128.0/17"), elements)
}

func TestErrorsNameWhatWasAtFault(t *testing.T) {
	web := nft.Chain{Table: ours, Name: "web"}
	tests := []struct {
		name  string
		fill  func(b *nft.Batch)
		want  []string
		errno error
	}{
		{
			name:  "a set that is not there",
			fill:  func(b *nft.Batch) { b.AddSet(hosts); b.AddElements(peers, prefixes("10.0.0.0/8")...) },
			want:  []string{"create element inet ours peers { 10.0.0.0/8 }: no such file or directory"},
			errno: unix.ENOENT,
		},
		{
			name: "one element among many",
			fill: func(b *nft.Batch) {
				b.AddSet(peers)
				b.AddElements(peers, prefixes("10.1.0.0/16", "10.2.0.0/16")...)
				b.AddElements(peers, prefixes("10.3.0.0/16", "10.4.0.0/16", "10.2.128.0/17", "10.5.0.0/16")...)
			},
			want:  []string{"create element inet ours peers { 10.2.128.0/17 }: file exists"},
			errno: unix.EEXIST,
		},
		{
			name: "two at once",
			fill: func(b *nft.Batch) {
				b.AddSet(hosts)
				b.DeleteElements(hosts, addresses(1)...)
				b.DeleteSet(peers)
				b.AddChain(web)
			},
			want: []string{
				"delete element inet ours hosts { 10.0.0.0 }: no such file or directory",
				"delete set inet ours peers { type ipv4_addr; flags interval; }: no such file or directory",
			},
			errno: unix.ENOENT,
		},
		{
			name: "the last",
			fill: func(b *nft.Batch) {
				b.AddSet(hosts)
				b.AddRule(fromPeers(false))
			},
			want:  []string{`create rule inet ours post meta nfproto ipv4 ip saddr @peers masquerade fully-random comment "pods leave": no such file or directory`},
			errno: unix.ENOENT,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, _ := dial(t)
			var b nft.Batch
			b.AddTable(ours, 0)
			b.AddChain(post)
			test.fill(&b)
			err := c.Commit(t.Context(), &b)

			var refused *nft.TransactionError
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, test.want, messages(refused))
			require.ErrorIs(t, err, test.errno)
			var op *podweft.OpError
			require.ErrorAs(t, err, &op)
			_, err = c.Table(t.Context(), ours)
			require.ErrorIs(t, err, fs.ErrNotExist, "nothing of it was done")
		})
	}
}

func messages(e *nft.TransactionError) []string {
	var texts []string
	for _, f := range e.Failed {
		texts = append(texts, f.Error())
	}
	return texts
}

func TestEveryAnswerIsRead(t *testing.T) {
	// More failures than the receive buffer holds: whatever was lost, the transaction has failed, and the socket goes on.
	c, _ := dial(t)
	var b nft.Batch
	for range 30_000 {
		b.DeleteTable(ours)
	}
	err := c.Load(t.Context(), &b)
	require.ErrorIs(t, err, unix.ENOENT)
	commit(t, c, func(b *nft.Batch) { b.AddTable(ours, 0) })
}

func TestNotThere(t *testing.T) {
	c, _ := dial(t)
	_, err := c.Table(t.Context(), ours)
	require.EqualError(t, err, "list table inet ours: no such file or directory")
	_, err = c.Elements(t.Context(), peers)
	require.ErrorIs(t, err, fs.ErrNotExist)
	rules, err := c.Rules(t.Context(), ours)
	assert.Empty(t, rules)
	assert.True(t, err == nil || errors.Is(err, fs.ErrNotExist), "%v", err)
}

func TestTableFlags(t *testing.T) {
	c, n := dial(t)
	commit(t, c, func(b *nft.Batch) { b.AddTable(ours, nft.Dormant); b.AddChain(post) })
	info, err := c.Table(t.Context(), ours)
	require.NoError(t, err)
	assert.Equal(t, "dormant", info.Flags.String())
	commit(t, c, func(b *nft.Batch) { b.AddTable(ours, 0) })
	info, err = c.Table(t.Context(), ours)
	require.NoError(t, err)
	assert.Zero(t, info.Flags)

	theirs := nft.Table{Family: nft.IPv4, Name: "theirs"}
	commit(t, c, func(b *nft.Batch) { b.AddTable(theirs, nft.Owned) })
	other := open(t, n)
	info, err = other.Table(t.Context(), theirs)
	require.NoError(t, err)
	assert.Equal(t, nft.Owned, info.Flags)
	assert.True(t, c.Owns(info))
	assert.False(t, other.Owns(info))
	assert.False(t, info.Orphan())
	var b nft.Batch
	b.AddSet(nft.Set{Table: theirs, Name: "s", Key: nft.IPv4Addr})
	require.ErrorIs(t, other.Commit(t.Context(), &b), unix.EPERM)
	tables, err := other.Tables(t.Context(), nft.IPv4)
	require.NoError(t, err)
	assert.Equal(t, []nft.TableInfo{info}, tables)
}

func TestRulesAreDeletedAndFlushed(t *testing.T) {
	c, _ := dial(t)
	commit(t, c, func(b *nft.Batch) {
		b.AddTable(ours, 0)
		b.AddSet(peers)
		b.AddChain(post)
		b.AddRule(fromPeers(false))
		b.AddRule(fromPeers(true))
	})
	rules, err := c.Rules(t.Context(), ours)
	require.NoError(t, err)
	require.Len(t, rules, 2)
	commit(t, c, func(b *nft.Batch) { b.DeleteRule(rules[0]) })
	rules, err = c.Rules(t.Context(), ours)
	require.NoError(t, err)
	require.Len(t, rules, 1)
	assert.True(t, fromPeers(true).Same(rules[0]))
	assert.Equal(t, `rule inet ours post handle N (meta, cmp, payload, lookup, masq) comment "pods leave"`, regexp.MustCompile(`handle \d+`).ReplaceAllString(rules[0].String(), "handle N"))
	commit(t, c, func(b *nft.Batch) { b.FlushChain(post); b.DeleteSet(peers); b.DeleteChain(post) })
	chains, err := c.Chains(t.Context(), ours)
	require.NoError(t, err)
	assert.Empty(t, texts(chains))
}

func TestGenerationCountsTransactions(t *testing.T) {
	c, _ := dial(t)
	before, err := c.Generation(t.Context())
	require.NoError(t, err)
	commit(t, c, func(b *nft.Batch) { b.AddTable(ours, 0) })
	after, err := c.Generation(t.Context())
	require.NoError(t, err)
	assert.Equal(t, before+1, after)
}

func TestAnEndedContextSendsNothing(t *testing.T) {
	c, _ := dial(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var b nft.Batch
	b.AddTable(ours, 0)
	require.ErrorIs(t, c.Commit(ctx, &b), context.Canceled)
	require.ErrorIs(t, c.Load(ctx, &b), context.Canceled)
	_, err := c.Table(ctx, ours)
	require.ErrorIs(t, err, context.Canceled)
	_, err = c.Table(t.Context(), ours)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestRemoveChains: chains go in one transaction with the rules that lead to them from elsewhere, and with those that lead from one
// to another.
func TestRemoveChains(t *testing.T) {
	c, _ := dial(t)
	chain := func(name string) nft.Chain { return nft.Chain{Table: ours, Name: name} }
	jump := func(from, to string) nft.Rule {
		return nft.Rule{Table: ours, Chain: from, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: to}}}
	}
	commit(t, c, func(b *nft.Batch) {
		b.AddTable(ours, 0)
		for _, name := range []string{"stays", "gone", "gone-too"} {
			b.AddChain(chain(name))
		}
		b.AddRule(jump("stays", "gone"))
		b.AddRule(nft.Rule{Table: ours, Chain: "stays", Comment: "stays", Exprs: []expr.Any{&expr.Counter{}}})
		b.AddRule(jump("gone", "gone-too"))
	})
	var nothing nft.Batch
	require.NoError(t, c.RemoveChains(t.Context(), &nothing, ours, "never"))
	require.NoError(t, c.RemoveChains(t.Context(), &nothing, nft.Table{Family: nft.IPv6, Name: "never"}, "gone"))
	assert.Zero(t, nothing.Len())
	commit(t, c, func(b *nft.Batch) {
		require.NoError(t, c.RemoveChains(t.Context(), b, ours, "gone-too", "never", "gone"))
	})
	chains, err := c.Chains(t.Context(), ours)
	require.NoError(t, err)
	assert.Equal(t, []nft.Chain{chain("stays")}, chains)
	rules, err := c.Rules(t.Context(), ours)
	require.NoError(t, err)
	require.Len(t, rules, 1)
	assert.Equal(t, "stays", rules[0].Comment)
}
