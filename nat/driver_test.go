package nat_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io/fs"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/nat"
	"github.com/podweft/podweft/testnet"
)

var created = lines(
	`+ table inet podweft-nat`,
	`+ set inet podweft-nat exempt4 { type ipv4_addr; flags interval; }`,
	`+ set inet podweft-nat exempt6 { type ipv6_addr; flags interval; }`,
	`+ set inet podweft-nat pods4 { type ipv4_addr; flags interval; }`,
	`+ set inet podweft-nat pods6 { type ipv6_addr; flags interval; }`,
	`+ element inet podweft-nat exempt4 { 10.244.0.0/16 }`,
	`+ element inet podweft-nat exempt4 { 224.0.0.0/4 }`,
	`+ element inet podweft-nat exempt6 { fd00:244::/48 }`,
	`+ element inet podweft-nat exempt6 { ff00::/8 }`,
	`+ element inet podweft-nat pods4 { 10.244.1.0/24 }`,
	`+ element inet podweft-nat pods6 { fd00:244:0:1::/64 }`,
	`+ chain inet podweft-nat postrouting { type nat hook postrouting priority 100; policy accept; }`,
	`+ rule inet podweft-nat postrouting meta mark & 0x00004000 == 0x00004000 return comment "left to kube-proxy"`,
	`+ rule inet podweft-nat postrouting ip saddr @pods4 ip daddr != @exempt4 masquerade fully-random comment "pods leave the cluster"`,
	`+ rule inet podweft-nat postrouting ip6 saddr @pods6 ip6 daddr != @exempt6 masquerade fully-random comment "pods leave the cluster"`,
)

// writtenAgain is how a plan shows that our rules were out of the way for a moment that no packet sees.
const writtenAgain = `~ chain inet podweft-nat postrouting { type nat hook postrouting priority 100; policy accept; }  # rules written again`

// from is what is created from the first line on that begins with text.
func from(text string) string { return created[strings.Index(created, text):] }

func TestApply(t *testing.T) {
	n := testnet.NewNode(t, "node")
	d := newDriver(t, nat.Config{NetNS: n.NetNS()})
	plan, err := d.Plan(t.Context(), nodeSpec())
	require.NoError(t, err)
	assert.Equal(t, created, plan.String())
	assert.Equal(t, created, apply(t, d, nodeSpec()))
	assert.Empty(t, apply(t, d, nodeSpec()), "twice")

	if list, ok := ruleset(t, n); ok {
		assert.Equal(t, `table inet podweft-nat {
	set exempt4 {
		type ipv4_addr
		flags interval
		elements = { 10.244.0.0/16, 224.0.0.0/4 }
	}

	set exempt6 {
		type ipv6_addr
		flags interval
		elements = { fd00:244::/48,
			     ff00::/8 }
	}

	set pods4 {
		type ipv4_addr
		flags interval
		elements = { 10.244.1.0/24 }
	}

	set pods6 {
		type ipv6_addr
		flags interval
		elements = { fd00:244:0:1::/64 }
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x00004000 == 0x00004000 return comment "left to kube-proxy"
		ip saddr @pods4 ip daddr != @exempt4 masquerade fully-random comment "pods leave the cluster"
		ip6 saddr @pods6 ip6 daddr != @exempt6 masquerade fully-random comment "pods leave the cluster"
	}
}
`, list)
	}
}

func TestOnlyElementsChangeWhenPrefixesDo(t *testing.T) {
	tests := []struct {
		name       string
		spec       nat.Spec
		wantChange string
	}{
		{
			"another pod prefix", nat.Spec{Masquerade: prefixes("10.244.1.0/24", "10.244.9.0/24", "fd00:244:0:1::/64"), Exempt: nodeSpec().Exempt},
			lines(`+ element inet podweft-nat pods4 { 10.244.9.0/24 }`),
		},
		{
			"a wider and a narrower one", nat.Spec{Masquerade: prefixes("10.244.1.0/25", "fd00:244::/63"), Exempt: nodeSpec().Exempt},
			lines(
				`- element inet podweft-nat pods4 { 10.244.1.0/24 }`, `+ element inet podweft-nat pods4 { 10.244.1.0/25 }`,
				`- element inet podweft-nat pods6 { fd00:244:0:1::/64 }`, `+ element inet podweft-nat pods6 { fd00:244::/63 }`,
			),
		},
		{
			"pods of one family only", nat.Spec{Masquerade: prefixes("fd00:244:0:1::/64"), Exempt: nodeSpec().Exempt},
			lines(`- element inet podweft-nat pods4 { 10.244.1.0/24 }`),
		},
		{
			"no exemptions but what pods need", nat.Spec{Masquerade: nodeSpec().Masquerade},
			lines(
				`- element inet podweft-nat exempt4 { 10.244.0.0/16 }`, `+ element inet podweft-nat exempt4 { 10.244.1.0/24 }`,
				`- element inet podweft-nat exempt6 { fd00:244::/48 }`, `+ element inet podweft-nat exempt6 { fd00:244:0:1::/64 }`,
			),
		},
		{
			"an exemption that another contains", nat.Spec{Masquerade: nodeSpec().Masquerade, Exempt: prefixes("10.244.0.0/16", "10.244.7.0/24", "fd00:244::/48")},
			"",
		},
		{
			"everything is exempt", nat.Spec{Masquerade: nodeSpec().Masquerade, Exempt: prefixes("0.0.0.0/0", "fd00:244::/48")},
			lines(
				`- element inet podweft-nat exempt4 { 10.244.0.0/16 }`, `- element inet podweft-nat exempt4 { 224.0.0.0/4 }`,
				`+ element inet podweft-nat exempt4 { 0.0.0.0/0 }`,
			),
		},
		{"nothing", nat.Spec{Exempt: nodeSpec().Exempt}, lines(`- table inet podweft-nat`)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := testnet.NewNode(t, "node")
			d := newDriver(t, nat.Config{NetNS: n.NetNS()})
			apply(t, d, nodeSpec())
			plan, err := d.Plan(t.Context(), test.spec)
			require.NoError(t, err)
			assert.Equal(t, test.wantChange, plan.String())
			assert.Equal(t, test.wantChange, apply(t, d, test.spec))
			assert.Empty(t, apply(t, d, test.spec))
		})
	}
}

func TestWhatSomeoneDidIsRepaired(t *testing.T) {
	accept := nft.Rule{Table: ours, Chain: "postrouting", Exprs: []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}}
	theirRules := func(t *testing.T, c *nft.Conn) []nft.Rule {
		rules, err := c.Rules(t.Context(), ours)
		require.NoError(t, err)
		return rules
	}
	tests := []struct {
		name string
		deed func(t *testing.T, c *nft.Conn, b *nft.Batch)
		want string
	}{
		{
			name: "table deleted",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) { b.DeleteTable(ours) },
			want: created,
		},
		{
			name: "table deleted and an empty one made",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) { b.DeleteTable(ours); b.AddTable(ours, 0) },
			want: from("+ set"),
		},
		{
			name: "table put to sleep",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) { b.AddTable(ours, nft.Dormant) },
			want: lines(`~ table inet podweft-nat  # was dormant`),
		},
		{
			name: "rule deleted",
			deed: func(t *testing.T, c *nft.Conn, b *nft.Batch) { b.DeleteRule(theirRules(t, c)[1]) },
			want: lines(`+ rule inet podweft-nat postrouting ip saddr @pods4 ip daddr != @exempt4 masquerade fully-random comment "pods leave the cluster"`),
		},
		{
			name: "rules flushed",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) { b.FlushChain(postrouting) },
			want: from("+ rule"),
		},
		{
			name: "rule added",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) { b.AddRule(accept) },
			want: lines(`- rule inet podweft-nat postrouting handle N (counter, immediate)  # not ours`),
		},
		{
			name: "rules in another order",
			deed: func(t *testing.T, c *nft.Conn, b *nft.Batch) {
				rules := theirRules(t, c)
				b.DeleteRule(rules[0])
				b.AddRule(leaveToKubeProxy())
			},
			want: lines(`~ chain inet podweft-nat postrouting { type nat hook postrouting priority 100; policy accept; }  # has our rules, but not each of the 3 once and in order`),
		},
		{
			name: "a rule twice",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) { b.AddRule(leaveToKubeProxy()) },
			want: lines(`~ chain inet podweft-nat postrouting { type nat hook postrouting priority 100; policy accept; }  # has our rules, but not each of the 3 once and in order`),
		},
		{
			name: "element deleted, another added",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) {
				b.DeleteElements(pods4, nft.Prefix(prefixes("10.244.1.0/24")[0]))
				b.AddElements(pods4, nft.Prefix(prefixes("10.244.0.0/16")[0]))
			},
			want: lines(`- element inet podweft-nat pods4 { 10.244.0.0/16 }`, `+ element inet podweft-nat pods4 { 10.244.1.0/24 }`),
		},
		{
			name: "chain deleted",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) { b.DeleteChain(postrouting) },
			want: from("+ chain"),
		},
		{
			name: "chain added",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) { b.AddChain(nft.Chain{Table: ours, Name: "theirs"}) },
			want: lines(`- chain inet podweft-nat theirs  # not ours`, writtenAgain),
		},
		{
			name: "chain at another priority",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) {
				b.DeleteChain(postrouting)
				late := postrouting
				late.Base.Priority = 200
				b.AddChain(late)
			},
			want: lines(`- chain inet podweft-nat postrouting { type nat hook postrouting priority 200; policy accept; }  # not ours`) + from("+ chain"),
		},
		{
			name: "chain that drops",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) {
				drops := postrouting
				drops.Base.Policy = nft.Drop
				b.AddChain(drops)
			},
			want: lines(`- chain inet podweft-nat postrouting { type nat hook postrouting priority 100; policy drop; }  # not ours`) + from("+ chain"),
		},
		{
			name: "set of another type",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) {
				b.FlushChain(postrouting)
				b.DeleteSet(exempt4)
				plain := exempt4
				plain.Interval = false
				b.AddSet(plain)
			},
			want: lines(
				`- set inet podweft-nat exempt4 { type ipv4_addr; }  # not ours`,
				`+ set inet podweft-nat exempt4 { type ipv4_addr; flags interval; }`,
				`+ element inet podweft-nat exempt4 { 10.244.0.0/16 }`,
				`+ element inet podweft-nat exempt4 { 224.0.0.0/4 }`,
			) + from("+ rule"),
		},
		{
			name: "set added",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) {
				b.AddSet(nft.Set{Table: ours, Name: "theirs", Key: nft.InetService, Data: nft.Verdict})
			},
			want: lines(`- map inet podweft-nat theirs { type inet_service : verdict; }  # not ours`, writtenAgain),
		},
		{
			name: "a whole firewall, all of it entangled",
			deed: func(_ *testing.T, _ *nft.Conn, b *nft.Batch) {
				web, jumps := nft.Chain{Table: ours, Name: "web"}, nft.Set{Table: ours, Name: "jumps", Key: nft.InetService, Data: nft.Verdict}
				input := nft.Chain{Table: ours, Name: "input", Base: nft.Base{Type: "filter", Hook: nft.Input, Policy: nft.Drop}}
				toWeb := expr.Verdict{Kind: expr.VerdictJump, Chain: "web"}
				b.AddChain(web)
				b.AddChain(input)
				b.AddSet(jumps)
				b.AddElements(jumps, nft.Element{Key: "\x00\x50", Verdict: toWeb})
				b.AddRule(nft.Rule{Table: ours, Chain: "input", Exprs: []expr.Any{&toWeb}})
				b.AddRule(nft.Rule{Table: ours, Chain: "postrouting", Exprs: []expr.Any{&toWeb}})
				b.AddRule(nft.Rule{Table: ours, Chain: "web", Exprs: []expr.Any{
					&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
					&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: "pods4", Invert: true},
				}})
			},
			want: lines(
				`- map inet podweft-nat jumps { type inet_service : verdict; }  # not ours`,
				`- chain inet podweft-nat web  # not ours`,
				`- chain inet podweft-nat input { type filter hook input priority 0; policy drop; }  # not ours`,
				`- rule inet podweft-nat postrouting handle N (immediate)  # not ours`,
			),
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n := testnet.NewNode(t, "node")
			d := newDriver(t, nat.Config{NetNS: n.NetNS()})
			apply(t, d, nodeSpec())
			them := someone(t, n)
			change(t, them, func(b *nft.Batch) { test.deed(t, them, b) })
			got := regexp.MustCompile(`handle \d+`).ReplaceAllString(apply(t, d, nodeSpec()), "handle N")
			assert.Equal(t, test.want, got)
			assert.Empty(t, apply(t, d, nodeSpec()))
			assert.Len(t, theirRules(t, them), 3)
		})
	}
}

// leaveToKubeProxy is our first rule, as someone else could write it.
func leaveToKubeProxy() nft.Rule {
	mark := binary.NativeEndian.AppendUint32(nil, 0x4000)
	return nft.Rule{Table: ours, Chain: "postrouting", Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG_1},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: mark, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: mark},
		&expr.Verdict{Kind: expr.VerdictReturn},
	}}
}

func TestOthersAreLeftAlone(t *testing.T) {
	n := testnet.NewNode(t, "node")
	them := someone(t, n)
	theirs := nft.Table{Family: nft.INet, Name: "theirs"}
	change(t, them, func(b *nft.Batch) {
		b.AddTable(theirs, 0)
		b.AddChain(nft.Chain{Table: theirs, Name: "c"})
		b.AddTable(nft.Table{Family: nft.IPv4, Name: ours.Name}, 0)
	})
	one := newDriver(t, nat.Config{NetNS: n.NetNS()})
	two := newDriver(t, nat.Config{NetNS: n.NetNS(), Owner: "blue"})
	apply(t, one, nodeSpec())
	apply(t, two, nat.Spec{Masquerade: prefixes("10.99.0.0/16")})
	assert.Empty(t, apply(t, one, nodeSpec()))

	tables, err := them.Tables(t.Context(), nft.INet)
	require.NoError(t, err)
	assert.Equal(t, []nft.TableInfo{{Table: theirs}, {Table: ours}, {Table: nft.Table{Family: nft.INet, Name: "podweft-blue-nat"}}}, tables)

	plan, err := one.Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, lines("- table inet podweft-nat"), plan.String())
	plan, err = one.Teardown(t.Context())
	require.NoError(t, err)
	assert.Empty(t, plan)
	assert.Empty(t, apply(t, two, nat.Spec{Masquerade: prefixes("10.99.0.0/16")}))
	plan, err = two.Teardown(t.Context())
	require.NoError(t, err)
	assert.Equal(t, lines("- table inet podweft-blue-nat"), plan.String())
	tables, err = them.Tables(t.Context(), nft.INet)
	require.NoError(t, err)
	assert.Equal(t, []nft.TableInfo{{Table: theirs}}, tables)
	chains, err := them.Chains(t.Context(), theirs)
	require.NoError(t, err)
	assert.Len(t, chains, 1)
	_, err = them.Table(t.Context(), nft.Table{Family: nft.IPv4, Name: ours.Name})
	require.NoError(t, err)
}

func TestCloseLeavesTheTableAndANewDriverAdoptsIt(t *testing.T) {
	n := testnet.NewNode(t, "node")
	them := someone(t, n)
	first, err := nat.New(nat.Config{NetNS: n.NetNS()})
	require.NoError(t, err)
	apply(t, first, nodeSpec())
	rules, err := them.Rules(t.Context(), ours)
	require.NoError(t, err)
	generation, err := them.Generation(t.Context())
	require.NoError(t, err)
	require.NoError(t, first.Close())

	second := newDriver(t, nat.Config{NetNS: n.NetNS()})
	assert.Empty(t, apply(t, second, nodeSpec()))
	after, err := them.Rules(t.Context(), ours)
	require.NoError(t, err)
	assert.Equal(t, rules, after, "the very same rules, by handle")
	unchanged, err := them.Generation(t.Context())
	require.NoError(t, err)
	assert.Equal(t, generation, unchanged)
}

func TestATableOwnedByAnotherProcessIsAConflict(t *testing.T) {
	n := testnet.NewNode(t, "node")
	d := newDriver(t, nat.Config{NetNS: n.NetNS()})
	them := someone(t, n)
	change(t, them, func(b *nft.Batch) { b.AddTable(ours, nft.Owned) })

	plan, err := d.Plan(t.Context(), nodeSpec())
	require.NoError(t, err)
	require.Len(t, plan, 1)
	require.ErrorIs(t, plan[0].Err, podweft.ErrConflict)
	plan, err = d.Apply(t.Context(), nodeSpec())
	require.ErrorIs(t, err, podweft.ErrConflict)
	assert.Regexp(t, `^~ table inet podweft-nat { flags owner; }  ! update table inet podweft-nat: another program's object is in the way: netlink port \d+ owns the table: end that program first\n$`, plan.String())
	sets, err := them.Sets(t.Context(), ours)
	require.NoError(t, err)
	assert.Empty(t, sets, "it is left untouched")
}

func TestASpecThatMakesNoSenseChangesNothing(t *testing.T) {
	n := testnet.NewNode(t, "node")
	d := newDriver(t, nat.Config{NetNS: n.NetNS()})
	bad := nat.Spec{Masquerade: prefixes("10.244.1.1/24")}
	_, err := d.Plan(t.Context(), bad)
	require.ErrorIs(t, err, podweft.ErrInvalid)
	_, err = d.Apply(t.Context(), bad)
	require.ErrorIs(t, err, podweft.ErrInvalid)
	_, err = someone(t, n).Table(t.Context(), ours)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestAnEndedContext(t *testing.T) {
	n := testnet.NewNode(t, "node")
	d := newDriver(t, nat.Config{NetNS: n.NetNS()})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := d.Apply(ctx, nodeSpec())
	require.ErrorIs(t, err, context.Canceled)
	_, err = someone(t, n).Table(t.Context(), ours)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestChangesAreLogged(t *testing.T) {
	n := testnet.NewNode(t, "node")
	var log bytes.Buffer
	d := newDriver(t, nat.Config{NetNS: n.NetNS(), Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	apply(t, d, nodeSpec())
	assert.Contains(t, log.String(), `level=DEBUG msg="table changed" op=create object="element inet podweft-nat pods4 { 10.244.1.0/24 }"`)
	log.Reset()
	apply(t, d, nodeSpec())
	assert.Empty(t, log.String())
}

func TestStamp(t *testing.T) {
	n := testnet.NewNode(t, "node")
	d := newDriver(t, nat.Config{NetNS: n.NetNS()})
	_, err := d.Stamp(t.Context())
	require.ErrorIs(t, err, fs.ErrNotExist)
	them := someone(t, n)
	stamp := func() string {
		t.Helper()
		s, err := d.Stamp(t.Context())
		require.NoError(t, err)
		return s
	}
	apply(t, d, nodeSpec())
	whole := stamp()
	change(t, them, func(b *nft.Batch) {
		b.AddTable(nft.Table{Family: nft.INet, Name: "another"}, 0)
		b.DeleteElements(pods4, nft.Prefix(prefixes("10.244.1.0/24")[0]))
	})
	assert.Equal(t, whole, stamp(), "neither another's table nor an element counts")
	for _, tt := range []struct {
		name   string
		change func(b *nft.Batch)
	}{
		{"rules gone", func(b *nft.Batch) { b.FlushChain(postrouting) }},
		{"a set more", func(b *nft.Batch) { b.AddSet(nft.Set{Table: ours, Name: "more", Key: nft.IPv4Addr}) }},
		{"dormant", func(b *nft.Batch) { b.AddTable(ours, nft.Dormant) }},
		{"made anew", func(b *nft.Batch) { b.DeleteTable(ours) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			apply(t, d, nodeSpec())
			before := stamp()
			assert.Equal(t, before, stamp())
			change(t, them, tt.change)
			if tt.name == "made anew" {
				_, err := d.Stamp(t.Context())
				require.ErrorIs(t, err, fs.ErrNotExist)
				apply(t, d, nodeSpec())
			}
			assert.NotEqual(t, before, stamp())
		})
	}
}
