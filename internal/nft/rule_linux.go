package nft

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Rule is a rule to be made, or one that Rules has read. It is a [podweft.Object].
type Rule struct {
	Table   Table
	Chain   string
	Text    string     // the rule in nft's language, for people; a rule that was read has none
	Comment string     // what it is for; nft lists it
	Exprs   []expr.Any // what it does; a rule that was read has none

	Handle uint64 // of a rule that was read
	raw    []byte // its expressions
}

// ID returns the rule as nft names it. One that was read is named by its handle.
func (r Rule) ID() string { return "rule " + r.Table.path() + " " + r.Chain + " " + r.text() }

// String adds the comment.
func (r Rule) String() string {
	if r.Comment == "" {
		return r.ID()
	}
	return fmt.Sprintf("%s comment %q", r.ID(), r.Comment)
}

// text of a rule that was read says what can be said without decompiling it: its handle and the expressions' names.
func (r Rule) text() string {
	if r.Text != "" || r.Handle == 0 {
		return r.Text
	}
	var names []string
	for a := range attrs(r.raw) {
		names = append(names, str(find(a.value, unix.NFTA_EXPR_NAME)))
	}
	return fmt.Sprintf("handle %d (%s)", r.Handle, strings.Join(names, ", "))
}

// AddRule puts the rule behind the others of its chain.
func (b *Batch) AddRule(r Rule) {
	b.request(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, r.Table.Family, "create", r, func(m *message) {
		m.str(unix.NFTA_RULE_TABLE, r.Table.Name)
		m.str(unix.NFTA_RULE_CHAIN, r.Chain)
		list := m.open(unix.NFTA_RULE_EXPRESSIONS)
		if err := m.expressions(r.Table.Family, r.Exprs); err != nil {
			m.err = cmp.Or(m.err, err)
		}
		m.close(list)
		if r.Comment != "" {
			m.bytes(unix.NFTA_RULE_USERDATA, comment(r.Comment))
		}
	})
}

// DeleteRule deletes a rule that Rules has read.
func (b *Batch) DeleteRule(r Rule) {
	b.request(unix.NFT_MSG_DELRULE, 0, r.Table.Family, "delete", r, func(m *message) {
		m.str(unix.NFTA_RULE_TABLE, r.Table.Name)
		m.str(unix.NFTA_RULE_CHAIN, r.Chain)
		m.u64(unix.NFTA_RULE_HANDLE, r.Handle)
	})
}

// maxComment is the longest comment nft shows: NFTNL_UDATA_COMMENT_MAXLEN, with the zero at its end.
const maxComment = 128

// comment wraps a comment as libnftnl's user data does: type NFTNL_UDATA_RULE_COMMENT, length, text with a zero.
func comment(text string) []byte {
	text = text[:min(len(text), maxComment-1)]
	return append(append([]byte{0, byte(len(text) + 1)}, text...), 0)
}

func parseComment(b []byte) string {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == 0 {
			return str(b[2 : 2+int(b[1])])
		}
		b = b[2+int(b[1]):]
	}
	return ""
}

// The source address in a direction of a connection of that family, NFT_CT_SRC_IP and NFT_CT_SRC_IP6 since Linux 4.17; missing in
// google/nftables. In tables of family inet the older key is that of IPv6 only (nft_ct_get_init).
const (
	CtSourceIPv4 expr.CtKey = 19
	CtSourceIPv6 expr.CtKey = 21
)

// directed reports whether c reads one direction of a connection.
func directed(c *expr.Ct) bool {
	switch c.Key {
	case expr.CtKeySRC, expr.CtKeyDST, expr.CtKeyPROTOSRC, expr.CtKeyPROTODST, CtSourceIPv4, CtSourceIPv6:
		return !c.SourceRegister
	}
	return false
}

func parseRule(r reply) (Rule, bool) {
	if !r.is(unix.NFT_MSG_NEWRULE) {
		return Rule{}, false
	}
	rule := Rule{Table: Table{Family: r.family()}}
	for a := range attrs(r.attrs()) {
		switch a.kind {
		case unix.NFTA_RULE_TABLE:
			rule.Table.Name = str(a.value)
		case unix.NFTA_RULE_CHAIN:
			rule.Chain = str(a.value)
		case unix.NFTA_RULE_HANDLE:
			rule.Handle = u64(a.value)
		case unix.NFTA_RULE_USERDATA:
			rule.Comment = parseComment(a.value)
		case unix.NFTA_RULE_EXPRESSIONS:
			rule.raw = bytes.Clone(a.value)
		}
	}
	return rule, true
}

// Target is the chain that a rule that was read jumps or goes to; empty if it does neither.
func (r Rule) Target() string {
	for a := range attrs(r.raw) {
		if str(find(a.value, unix.NFTA_EXPR_NAME)) != "immediate" {
			continue
		}
		value := find(find(a.value, unix.NFTA_EXPR_DATA), unix.NFTA_IMMEDIATE_DATA)
		if chain := find(find(value, unix.NFTA_DATA_VERDICT), unix.NFTA_VERDICT_CHAIN); chain != nil {
			return str(chain)
		}
	}
	return ""
}

// Names reports whether a rule that was read has this at the beginning of a value that it compares with or puts into registers, as an
// address that it is about.
func (r Rule) Names(value []byte) bool {
	for a := range attrs(r.raw) {
		data := find(a.value, unix.NFTA_EXPR_DATA)
		var in []byte
		switch str(find(a.value, unix.NFTA_EXPR_NAME)) {
		case "cmp":
			in = find(find(data, unix.NFTA_CMP_DATA), unix.NFTA_DATA_VALUE)
		case "immediate":
			in = find(find(data, unix.NFTA_IMMEDIATE_DATA), unix.NFTA_DATA_VALUE)
		}
		if in != nil && bytes.HasPrefix(in, value) {
			return true
		}
	}
	return false
}

// XTComment is what the match "comment" of iptables says in a rule that was read; empty if it has none. It is not the Comment.
func (r Rule) XTComment() string {
	for a := range attrs(r.raw) {
		data := find(a.value, unix.NFTA_EXPR_DATA)
		if str(find(a.value, unix.NFTA_EXPR_NAME)) == "match" && str(find(data, unix.NFTA_MATCH_NAME)) == "comment" {
			return str(find(data, unix.NFTA_MATCH_INFO))
		}
	}
	return ""
}

// Counter returns what the first counter of a rule that was read has counted; ok is false if there is none.
func (r Rule) Counter() (packets, bytes uint64, ok bool) {
	for a := range attrs(r.raw) {
		if str(find(a.value, unix.NFTA_EXPR_NAME)) == "counter" {
			data := find(a.value, unix.NFTA_EXPR_DATA)
			return u64(find(data, unix.NFTA_COUNTER_PACKETS)), u64(find(data, unix.NFTA_COUNTER_BYTES)), true
		}
	}
	return 0, 0, false
}

// Same reports whether have, which Rules has read, does what r says: the same expressions in the same order, with the
// attributes that we give them. What the kernel or nft adds must be zero, which is what missing means; a counter's numbers
// and comments do not count.
//
// Registers must be written as the kernel writes them back: NFT_REG_1 to NFT_REG_4 for the first of each four words,
// NFT_REG32_00 and up for the others only (net/netfilter/nf_tables_api.c, nft_dump_register).
func (r Rule) Same(have Rule) bool {
	if r.Chain != have.Chain || r.Table != have.Table {
		return false
	}
	var m message
	if m.expressions(r.Table.Family, r.Exprs) != nil {
		return false
	}
	return slices.EqualFunc(slices.Collect(attrs(m.buf)), slices.Collect(attrs(have.raw)), func(want, have attr) bool {
		return sameExpr(want.value, have.value)
	})
}

func sameExpr(want, have []byte) bool {
	name := find(want, unix.NFTA_EXPR_NAME)
	if !bytes.Equal(name, find(have, unix.NFTA_EXPR_NAME)) {
		return false
	}
	w, h := find(want, unix.NFTA_EXPR_DATA), find(have, unix.NFTA_EXPR_DATA)
	switch str(name) {
	case "counter":
		return true
	case "lookup":
		return sameAttrs(w, h, unix.NFTA_LOOKUP_SET_ID) // stands for the name while a set is being made; never read back
	case "nat":
		return sameAttrs(w, h, unix.NFTA_NAT_FLAGS) && natFlags(w) == natFlags(h)
	}
	return sameAttrs(w, h, 0)
}

// natFlags are the flags that somebody asks for; the kernel adds those that follow from the registers (nft_nat_init in
// net/netfilter/nft_nat.c).
func natFlags(data []byte) uint32 {
	raw := find(data, unix.NFTA_NAT_FLAGS)
	if len(raw) != 4 {
		return 0
	}
	return network.Uint32(raw) &^ (unix.NF_NAT_RANGE_MAP_IPS | unix.NF_NAT_RANGE_PROTO_SPECIFIED)
}

// sameAttrs compares all attributes but those of the kind skipped. Only want says reliably which ones are made of others.
func sameAttrs(want, have []byte, skip uint16) bool {
	for w := range attrs(want) {
		value := find(have, w.kind)
		switch {
		case w.kind == skip:
		case value == nil:
			return false
		case w.nested && !sameAttrs(w.value, value, 0), !w.nested && !bytes.Equal(w.value, value):
			return false
		}
	}
	for h := range attrs(have) {
		if h.kind != skip && find(want, h.kind) == nil && !zero(h.value) {
			return false
		}
	}
	return true
}

func zero(b []byte) bool { return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) }
