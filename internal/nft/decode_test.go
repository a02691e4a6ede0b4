package nft

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

func TestPrefix(t *testing.T) {
	tests := []struct {
		prefix      string
		first, last string
	}{
		{"10.244.1.0/24", "\x0a\xf4\x01\x00", "\x0a\xf4\x01\xff"},
		{"10.244.1.7/24", "\x0a\xf4\x01\x00", "\x0a\xf4\x01\xff"},
		{"10.244.1.128/29", "\x0a\xf4\x01\x80", "\x0a\xf4\x01\x87"},
		{"10.244.1.7/32", "\x0a\xf4\x01\x07", ""},
		{"0.0.0.0/0", "\x00\x00\x00\x00", "\xff\xff\xff\xff"},
		{"fd00::/8", "\xfd" + strings.Repeat("\x00", 15), "\xfd" + strings.Repeat("\xff", 15)},
	}
	for _, test := range tests {
		t.Run(test.prefix, func(t *testing.T) {
			p := netip.MustParsePrefix(test.prefix)
			e := Prefix(p)
			assert.Equal(t, Element{Key: test.first, Last: test.last}, e)
			back, ok := e.AsPrefix()
			assert.True(t, ok)
			assert.Equal(t, p.Masked(), back)
		})
	}
}

func TestNoPrefix(t *testing.T) {
	for _, e := range []Element{
		{Key: "\x0a\x00\x00\x01", Last: "\x0a\x00\x00\x02"},
		{Key: "\x0a\x00\x00\x00", Last: "\x0a\x00\x00\x02"},
		{Key: "\x0a\x00\x00\x00", Last: "\x09\x00\x00\x00"},
		{Key: "\x00\x50"},
		{},
	} {
		_, ok := e.AsPrefix()
		assert.False(t, ok, "%x", e)
	}
}

// listed builds the message with which the kernel lists elements.
func listed(s Set, elements ...Element) []byte {
	var b Batch
	b.AddElements(s, elements...)
	return messages(&b)
}

// messages are what a batch sends, without the envelope.
func messages(b *Batch) []byte {
	var m message
	for i := range b.requests {
		if err := b.requests[i].write(&m); err != nil {
			panic(err)
		}
	}
	return m.buf
}

func decodeElements(s Set, buf []byte) []Element {
	var ends []end
	for r := range replies(buf) {
		ends = parseElements(r, ends)
	}
	sortEnds(ends)
	return join(s, ends)
}

func TestRangesFromTheirEnds(t *testing.T) {
	set := Set{Key: InetService, Interval: true}
	key := func(n uint16) string { return string([]byte{byte(n >> 8), byte(n)}) }
	opens := func(n uint16) end { return end{Element: Element{Key: key(n)}} }
	closes := func(n uint16) end { return end{Element: Element{Key: key(n)}, closes: true} }
	tests := []struct {
		name string
		ends []end
		want []string
	}{
		{"one", []end{opens(80), closes(90)}, []string{"80-89"}},
		{"a single key", []end{opens(80), closes(81)}, []string{"80"}},
		{"in any order", []end{closes(90), opens(443), opens(80), closes(444)}, []string{"80-89", "443"}},
		{"neighbours", []end{opens(80), closes(90), opens(90), closes(100)}, []string{"80-89", "90-99"}},
		{"the end that nft puts before the first", []end{closes(0), opens(80), closes(90)}, []string{"80-89"}},
		{"open", []end{opens(65000)}, []string{"65000-65535"}},
		{"the last key alone", []end{opens(65535)}, []string{"65535"}},
		{"no end but the next beginning", []end{opens(80), opens(90), closes(100)}, []string{"80-89", "90-99"}},
		{"only ends", []end{closes(80)}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			sortEnds(test.ends)
			var got []string
			for _, e := range join(set, test.ends) {
				got = append(got, SetElement{set, e}.key())
			}
			assert.Equal(t, test.want, got)
		})
	}
}

func TestWhatIsListedTwiceIsNoList(t *testing.T) {
	once := []end{{Element: Element{Key: "a"}}, {Element: Element{Key: "b"}}, {Element: Element{Key: "b"}, closes: true}}
	assert.True(t, sortEnds(slices.Clone(once)))
	assert.False(t, sortEnds(append(once, end{Element: Element{Key: "a"}})))
}

func TestSame(t *testing.T) {
	rule := func(exprs ...expr.Any) Rule { return Rule{Chain: "c", Exprs: exprs} }
	// asRead is the rule as the kernel lists it, with attributes of its own behind ours in each expression.
	asRead := func(r Rule, extra func(m *message)) Rule {
		var list message
		for _, e := range r.Exprs {
			raw, err := expr.Marshal(0, e)
			require.NoError(t, err)
			var one message
			one.bytes(unix.NFTA_EXPR_NAME, find(raw, unix.NFTA_EXPR_NAME))
			data := one.open(unix.NFTA_EXPR_DATA)
			one.buf = append(one.buf, find(raw, unix.NFTA_EXPR_DATA)...)
			extra(&one)
			one.close(data)
			list.bytes(unix.NFTA_LIST_ELEM, one.buf)
		}
		return Rule{Chain: r.Chain, Handle: 7, raw: list.buf}
	}
	nothing := func(*message) {}
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
	lookup := &expr.Lookup{SourceRegister: 1, SetName: "peers"}
	tests := []struct {
		name  string
		wish  Rule
		there Rule
		want  bool
	}{
		{"equal", rule(load, lookup), asRead(rule(load, lookup), nothing), true},
		{"a default of the kernel's", rule(load), asRead(rule(load), func(m *message) { m.u32(50, 0) }), true},
		{"another meaning", rule(load), asRead(rule(load), func(m *message) { m.u32(50, 1) }), false},
		{"inverted", rule(lookup), asRead(rule(&expr.Lookup{SourceRegister: 1, SetName: "peers", Invert: true}), nothing), false},
		{"another set", rule(lookup), asRead(rule(&expr.Lookup{SourceRegister: 1, SetName: "others"}), nothing), false},
		{"one more", rule(load), asRead(rule(load, lookup), nothing), false},
		{"one less", rule(load, lookup), asRead(rule(load), nothing), false},
		{"another kind", rule(load), asRead(rule(lookup), nothing), false},
		{"another order", rule(load, lookup), asRead(rule(lookup, load), nothing), false},
		{"a counter that has counted", rule(&expr.Counter{}), asRead(rule(&expr.Counter{Packets: 9, Bytes: 99}), nothing), true},
		{"masquerade less random", rule(&expr.Masq{FullyRandom: true}), asRead(rule(&expr.Masq{Random: true}), nothing), false},
		{"masquerade not random", rule(&expr.Masq{FullyRandom: true}), asRead(rule(&expr.Masq{}), nothing), false},
		{"another value", rule(&expr.Cmp{Register: 1, Data: []byte{1}}), asRead(rule(&expr.Cmp{Register: 1, Data: []byte{2}}), nothing), false},
		{"another chain", rule(load), Rule{Chain: "d", raw: asRead(rule(load), nothing).raw}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { assert.Equal(t, test.want, test.wish.Same(test.there)) })
	}
}

// TestExpressions: those that we write ourselves are what google/nftables makes of them.
func TestExpressions(t *testing.T) {
	tests := []struct {
		name string
		expr expr.Any
		ours bool
	}{
		{"payload", &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, true},
		{"payload written", &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Len: 2, CsumType: expr.CsumTypeInet}, false},
		{"meta", &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, true},
		{"meta set", &expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true}, true},
		{"cmp", &expr.Cmp{Op: expr.CmpOpNeq, Register: 2, Data: []byte{1, 2, 3}}, true},
		{"cmp of nothing", &expr.Cmp{Register: 1}, true},
		{"lookup", &expr.Lookup{SourceRegister: 1, SetName: "peers"}, true},
		{"lookup inverted", &expr.Lookup{SourceRegister: 1, SetName: "peers4", SetID: 7, Invert: true}, true},
		{"map", &expr.Lookup{SourceRegister: 2, DestRegister: 1, IsDestRegSet: true, SetName: "ports"}, true},
		{"verdict map", &expr.Lookup{SourceRegister: 1, IsDestRegSet: true, SetName: "verdicts"}, true},
		{"counter", &expr.Counter{Packets: 3, Bytes: 1 << 40}, true},
		{"accept", &expr.Verdict{Kind: expr.VerdictAccept}, true},
		{"return", &expr.Verdict{Kind: expr.VerdictReturn}, true},
		{"goto", &expr.Verdict{Kind: expr.VerdictGoto, Chain: "web"}, true},
		{"ct", &expr.Ct{Key: expr.CtKeySTATE, Register: 1}, false},
		{"masquerade", &expr.Masq{FullyRandom: true}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			raw, err := expr.Marshal(byte(INet), test.expr)
			require.NoError(t, err)
			var want, got, ours message
			want.bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, raw)
			require.NoError(t, got.expressions(INet, []expr.Any{test.expr}))
			assert.Equal(t, want.buf, got.buf)
			assert.Equal(t, test.ours, ours.usual(test.expr))
		})
	}
}

func TestLongCommentsAreCut(t *testing.T) {
	assert.Equal(t, strings.Repeat("x", 127), parseComment(comment(strings.Repeat("x", 300))))
	assert.Equal(t, "why", parseComment(append([]byte{5, 2, 1, 1}, comment("why")...)))
}

// FuzzReplies feeds the decoders whatever a kernel might say, and wants the ranges they make to survive being written and
// read again.
func FuzzReplies(f *testing.F) {
	ports := Set{Key: Concat(IPv4Addr, InetService), Interval: true, Data: Verdict}
	f.Add(listed(Set{Key: IPv4Addr, Interval: true}, Element{Key: "\x0a\x00\x00\x00", Last: "\x0a\xff\xff\xff"}, Element{Key: "\xff\x00\x00\x00", Last: "\xff\xff\xff\xff"}))
	f.Add(listed(ports, Element{Key: "\x0a\x00\x00\x00\x00\x50\x00\x00", Last: "\x0a\x00\x00\xff\x00\x50\x00\x00", Verdict: expr.Verdict{Kind: expr.VerdictJump, Chain: "web"}}))
	var b Batch
	b.AddTable(Table{INet, "t"}, Dormant)
	b.AddChain(Chain{Table: Table{INet, "t"}, Name: "c", Base: Base{Type: "nat", Hook: Postrouting, Priority: PrioritySrcNAT}})
	b.AddSet(ports)
	b.AddRule(Rule{Table: Table{INet, "t"}, Chain: "c", Comment: "why", Exprs: []expr.Any{&expr.Masq{FullyRandom: true}}})
	f.Add(messages(&b))
	f.Add([]byte("\x10\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x24\x00\x00\x00\x02\x00\x00\x02\x01\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, buf []byte) {
		for r := range replies(buf) {
			if f, refused := parseFailure(r); refused {
				_ = f.err().Error()
				_, _ = elementAt(buf, int(f.offset))
			}
			_ = refusalOf(r)
			_ = breakOf(r)
			if info, ok := parseTable(r); ok {
				_ = info.String() + info.Flags.String()
			}
			if c, ok := parseChain(r); ok {
				_ = c.String()
			}
			if s, ok := parseSet(r); ok {
				_ = s.String()
			}
			if rule, ok := parseRule(r); ok {
				_ = rule.String()
				_ = Rule{Table: rule.Table, Chain: rule.Chain, Exprs: []expr.Any{&expr.Masq{}}}.Same(rule)
			}
		}
		concerns(buf, []Table{{INet, "t"}}, 1)
		for _, s := range []Set{{Key: IPv4Addr, Interval: true}, ports, {Key: IPv6Addr, Data: IPv4Addr}} {
			for _, e := range decodeElements(s, buf) {
				_ = SetElement{s, e}.String()
			}
		}
	})
}

// FuzzElements writes ranges as we send them and reads them as the kernel lists them.
func FuzzElements(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0, 10, 0, 0, 255, 10, 0, 1, 0, 10, 0, 1, 0})
	f.Add([]byte{0, 0, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		set := Set{Table: Table{INet, "t"}, Name: "s", Key: IPv4Addr, Interval: true}
		var want []Element
		after := "" // ranges must not overlap
		for ; len(b) >= 8; b = b[8:] {
			first, last := string(b[:4]), string(b[4:8])
			if first > last || first < after {
				continue
			}
			e := Element{Key: first}
			if last != first {
				e.Last = last
			}
			want = append(want, e)
			var ok bool
			if after, ok = next(last); !ok {
				break
			}
		}
		if got := decodeElements(set, listed(set, want...)); len(want) > 0 {
			assert.Equal(t, want, got)
		}
	})
}

// refusal is an NLMSG_ERROR as the kernel sends it, with what explains it.
func refusal(errno unix.Errno, text string, offset uint32) reply {
	var m message
	m.buf = native.AppendUint32(m.buf, uint32(-int32(errno)))
	m.buf = append(m.buf, make([]byte, unix.NLMSG_HDRLEN)...)
	m.str(unix.NLMSGERR_ATTR_MSG, text)
	m.bytes(unix.NLMSGERR_ATTR_OFFS, native.AppendUint32(nil, offset))
	return reply{kind: unix.NLMSG_ERROR, flags: nlmsgFlagAckTLVs | nlmsgFlagCapped, body: m.buf}
}

func TestRefusals(t *testing.T) {
	f, refused := parseFailure(refusal(unix.EBUSY, "still in use", 36))
	require.True(t, refused)
	assert.Equal(t, failure{unix.EBUSY, "still in use", 36}, f)
	require.ErrorIs(t, f.err(), unix.EBUSY)
	require.EqualError(t, f.err(), "device or resource busy (still in use)")
	_, refused = parseFailure(refusal(0, "", 0))
	assert.False(t, refused, "an acknowledgement")
	_, refused = parseFailure(reply{kind: unix.NLMSG_ERROR})
	assert.True(t, refused, "nonsense is no success")
}

func TestKernelsWithoutNfTables(t *testing.T) {
	f, _ := parseFailure(refusal(unix.EOPNOTSUPP, "", 0))
	require.ErrorIs(t, transactionError(f), podweft.ErrNotSupported)
	require.ErrorIs(t, refusalOf(refusal(unix.EINVAL, "", 0)), podweft.ErrNotSupported)
	require.NotErrorIs(t, refusalOf(refusal(unix.ENOENT, "", 0)), podweft.ErrNotSupported)
	require.NotErrorIs(t, refusalOf(refusal(unix.EINVAL, "bad attribute", 0)), podweft.ErrNotSupported)
}
