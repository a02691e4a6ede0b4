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
	header   uint32 // where in the header the source address is; the destination follows
	size     uint32 // of an address
	second   uint32 // register for what stands behind an address
	nfproto  string // as `meta nfproto` calls it
	tuple    expr.CtKey

	// tracked makes rules read what conntrack knows of a packet's connection: where its first packet came from, and where that
	// went behind the translation of Services, which is where replies come from. Otherwise they read the packet itself.
	tracked bool
}

var families = [...]family{
	{suffix: "4", addr: nft.IPv4Addr, word: "ip", protocol: unix.NFPROTO_IPV4, header: 12, size: 4, second: unix.NFT_REG32_01, nfproto: "ipv4", tuple: nft.CtSourceIPv4},
	{suffix: "6", addr: nft.IPv6Addr, word: "ip6", protocol: unix.NFPROTO_IPV6, header: 8, size: 16, second: unix.NFT_REG_2, nfproto: "ipv6", tuple: nft.CtSourceIPv6},
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

// The two directions of a connection, IP_CT_DIR_ORIGINAL and IP_CT_DIR_REPLY.
const original, reply = 0, 1

func (f family) source(register uint32) (load expr.Any, text string) {
	if f.tracked {
		return &expr.Ct{Key: f.tuple, Register: register, Direction: original}, "ct original " + f.word + " saddr"
	}
	return f.address(f.header, register), f.word + " saddr"
}

func (f family) destination(register uint32) (load expr.Any, text string) {
	if f.tracked {
		return &expr.Ct{Key: f.tuple, Register: register, Direction: reply}, "ct reply " + f.word + " saddr"
	}
	return f.address(f.header+f.size, register), f.word + " daddr"
}

func (f family) address(offset, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size}
}

// port is the destination's, which TCP, UDP and SCTP have at one place.
func (f family) port(register uint32) (load expr.Any, text string) {
	if f.tracked {
		return &expr.Ct{Key: expr.CtKeyPROTOSRC, Register: register, Direction: reply}, "ct reply proto-src"
	}
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, "th dport"
}

// own is the address of the end that direction d is about, remote that of the other.
func (f family) own(d policy.Direction) (load expr.Any, text string) {
	if d == policy.Egress {
		return f.source(unix.NFT_REG_1)
	}
	return f.destination(unix.NFT_REG_1)
}

func (f family) remote(d policy.Direction) (load expr.Any, text string) {
	if d == policy.Egress {
		return f.destination(unix.NFT_REG_1)
	}
	return f.source(unix.NFT_REG_1)
}

func (f family) ownIn(d policy.Direction, set string) statement {
	address, text := f.own(d)
	return lookup(text, set, address)
}

func (f family) remoteIn(d policy.Direction, set string) statement {
	address, text := f.remote(d)
	return lookup(text, set, address)
}

// toItself is a packet whose two addresses stand beside each other in the set.
func (f family) toItself(set string) statement {
	first, from := f.source(unix.NFT_REG_1)
	second, to := f.destination(f.second)
	return lookup(from+" . "+to, set, first, second)
}

// namedPort is a packet whose destination stands beside its port in the set.
func (f family) namedPort(set string) statement {
	address, to := f.destination(unix.NFT_REG_1)
	port, at := f.port(f.second)
	return lookup(to+" . "+at, set, address, port)
}

// portIn is a packet whose destination's port is in the set.
func (f family) portIn(set string) statement {
	port, text := f.port(unix.NFT_REG_1)
	return lookup(text, set, port)
}

func lookup(what, set string, load ...expr.Any) statement {
	return statement{what + " @" + set, append(load, &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: set})}
}

func equal(data []byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: data}
}

// stateIs is a packet whose connection is in just that state. A packet has one state: there is no need to mask it out, as nft does
// for "ct state established", and each packet of each connection is asked.
func stateIs(text string, bit uint32) statement {
	return statement{"ct state == " + text, []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG_1}, equal(binary.NativeEndian.AppendUint32(nil, bit)),
	}}
}

// problem is an error about a connection. Of what family it is, ICMP's number says.
func (f family) problem() statement {
	s := stateIs("related", expr.CtStateBitRELATED)
	number, name := byte(unix.IPPROTO_ICMP), "icmp"
	if f.addr == nft.IPv6Addr {
		number, name = unix.IPPROTO_ICMPV6, "ipv6-icmp"
	}
	return statement{s.text + " meta l4proto " + name, append(s.exprs, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1}, equal([]byte{number}))}
}

// unknown is a packet of no connection that conntrack follows.
func unknown() statement {
	mask := binary.NativeEndian.AppendUint32(nil, expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED)
	return statement{"ct state invalid,untracked", []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG_1},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
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

func protocolIn(set string) statement {
	return lookup("meta l4proto", set, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1})
}

func (f family) portIs(p policy.PortRange) statement {
	load, text := f.port(unix.NFT_REG_1)
	from, to := binary.BigEndian.AppendUint16(nil, p.From), binary.BigEndian.AppendUint16(nil, p.To)
	text += " " + p.String()
	if p.From == p.To {
		return statement{text, []expr.Any{load, equal(from)}}
	}
	return statement{text, []expr.Any{
		load,
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
