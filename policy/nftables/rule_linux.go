package nftables

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nft"
	"github.com/podweft/podweft/policy"
)

// family is what differs between IPv4 and IPv6.
type family struct {
	suffix   string // of the names of its chains, sets and maps
	addr     nft.Type
	word     string // in nft's language
	protocol byte   // as netfilter numbers it
	source   uint32 // where in the header the source address is; the destination follows
	size     uint32 // of an address
	second   uint32 // register for what stands behind an address
	nfproto  string // as `meta nfproto` calls it
}

var families = [...]family{
	{suffix: "4", addr: nft.IPv4Addr, word: "ip", protocol: unix.NFPROTO_IPV4, source: 12, size: 4, second: unix.NFT_REG32_01, nfproto: "ipv4"},
	{suffix: "6", addr: nft.IPv6Addr, word: "ip6", protocol: unix.NFPROTO_IPV6, source: 8, size: 16, second: unix.NFT_REG_2, nfproto: "ipv6"},
}

// statement is a part of a rule: expressions, and what nft calls them. Its text tells rules apart that we have made.
type statement struct {
	text  string
	exprs []expr.Any
}

// rule joins statements to a rule for the chain of that name.
func (r *renderer) rule(chain, comment string, statements ...statement) nft.Rule {
	rule := nft.Rule{Table: r.table, Chain: chain, Comment: printable(comment)}
	var texts []string
	for _, s := range statements {
		if s.text == "" {
			continue
		}
		texts = append(texts, s.text)
		rule.Exprs = append(rule.Exprs, s.exprs...)
	}
	rule.Text = strings.Join(texts, " ")
	return rule
}

func (f family) is() statement {
	return statement{"meta nfproto " + f.nfproto, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
		equal([]byte{f.protocol}),
	}}
}

func (f family) saddr() *expr.Payload {
	return &expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: f.source, Len: f.size}
}

func (f family) daddr() *expr.Payload {
	return &expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: f.source + f.size, Len: f.size}
}

// own is the address of the end that direction d is about, remote that of the other.
func (f family) own(d policy.Direction) (*expr.Payload, string) {
	if d == policy.Egress {
		return f.saddr(), f.word + " saddr"
	}
	return f.daddr(), f.word + " daddr"
}

func (f family) remote(d policy.Direction) (*expr.Payload, string) {
	if d == policy.Egress {
		return f.daddr(), f.word + " daddr"
	}
	return f.saddr(), f.word + " saddr"
}

func (f family) ownIn(d policy.Direction, set string) statement {
	address, text := f.own(d)
	return lookup(text, set, address)
}

func (f family) remoteIn(d policy.Direction, set string) statement {
	address, text := f.remote(d)
	return lookup(text, set, address)
}

func (f family) dispatch(d policy.Direction, verdicts string) statement {
	address, text := f.own(d)
	return statement{text + " vmap @" + verdicts, []expr.Any{
		address, &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: verdicts, IsDestRegSet: true},
	}}
}

// toItself is a packet whose two addresses stand beside each other in the set.
func (f family) toItself(set string) statement {
	second := f.daddr()
	second.DestRegister = f.second
	return lookup(f.word+" saddr . "+f.word+" daddr", set, f.saddr(), second)
}

// namedPort is a packet whose destination stands beside its port in the set.
func (f family) namedPort(set string) statement {
	port := dport()
	port.DestRegister = f.second
	return lookup(f.word+" daddr . th dport", set, f.daddr(), port)
}

func lookup(what, set string, load ...expr.Any) statement {
	return statement{what + " @" + set, append(load, &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: set})}
}

func equal(data []byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: data}
}

// underWay is every packet of a connection but those that begin it, and the errors that belong to one.
func underWay() statement {
	bits := binary.NativeEndian.AppendUint32(nil, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	return statement{"ct state established,related", []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG_1},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: bits, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: make([]byte, 4)},
	}}
}

// fromHere is a packet whose source is an address of this machine.
func fromHere() statement {
	return statement{"fib saddr type local", []expr.Any{
		&expr.Fib{Register: unix.NFT_REG_1, ResultADDRTYPE: true, FlagSADDR: true},
		equal(binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)),
	}}
}

// neighborDiscovery is what ports of one bridge need to find each other: router and neighbour solicitations and advertisements
// (RFC 4861, section 4), which conntrack does not follow. They are never forwarded, and forwarding lowers the hop limit.
func neighborDiscovery() statement {
	return statement{"meta l4proto ipv6-icmp icmpv6 type 133-136 ip6 hoplimit 255", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		equal([]byte{unix.IPPROTO_ICMPV6}),
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpGte, Register: unix.NFT_REG_1, Data: []byte{133}},
		&expr.Cmp{Op: expr.CmpOpLte, Register: unix.NFT_REG_1, Data: []byte{136}},
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: 7, Len: 1},
		equal([]byte{255}),
	}}
}

func protocolIs(p policy.Protocol) statement {
	return statement{"meta l4proto " + strings.ToLower(p.String()), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1}, equal([]byte{byte(p)}),
	}}
}

// dport loads the destination's port, which TCP, UDP and SCTP have at one place.
func dport() *expr.Payload {
	return &expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func portIs(p policy.PortRange) statement {
	from, to := binary.BigEndian.AppendUint16(nil, p.From), binary.BigEndian.AppendUint16(nil, p.To)
	if p.From == p.To {
		return statement{"th dport " + p.String(), []expr.Any{dport(), equal(from)}}
	}
	return statement{"th dport " + p.String(), []expr.Any{
		dport(),
		&expr.Cmp{Op: expr.CmpOpGte, Register: unix.NFT_REG_1, Data: from},
		&expr.Cmp{Op: expr.CmpOpLte, Register: unix.NFT_REG_1, Data: to},
	}}
}

func counter() statement { return statement{"counter", []expr.Any{&expr.Counter{}}} }

func accept() statement {
	return statement{"accept", []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}
}

func drop() statement {
	return statement{"drop", []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}}
}

func jump(chain string) statement {
	return statement{"jump " + chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}}
}

func goTo(chain string) statement {
	return statement{"goto " + chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}}
}

// longest is how many characters of a comment nft shows (NFTNL_UDATA_COMMENT_MAXLEN) and of a prefix the kernel logs
// (NF_LOG_PREFIXLEN), less the zero at their end.
const longest = 127

// printable is text that can stand between the quotes of nft's language, which knows no way to write a quote.
func printable(text string) string {
	clean := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return '?'
		}
		return c
	}, text)
	return clean[:min(len(clean), longest)]
}

func logTo(group uint16, prefix string) statement {
	prefix = printable(prefix)
	return statement{fmt.Sprintf("log prefix %q group %d", prefix, group), []expr.Any{&expr.Log{
		Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX, Group: group, Data: []byte(prefix),
	}}}
}
