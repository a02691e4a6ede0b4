package nat

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nft"
)

// table is our table, as it should be or as it is.
type table struct {
	flags    nft.TableFlags
	owner    uint32 // netlink port of the one who may change it, if not everybody
	sets     []nft.Set
	chains   []nft.Chain
	rules    []nft.Rule
	elements map[nft.Set][]nft.Element
}

// tableName is the name of an owner's table for one purpose.
func tableName(owner, purpose string) nft.Table {
	if owner == DefaultOwner {
		return nft.Table{Family: nft.INet, Name: "podweft-" + purpose}
	}
	return nft.Table{Family: nft.INet, Name: "podweft-" + owner + "-" + purpose}
}

// kubeMark is the mark of packets that kube-proxy masquerades: its masqueradeBit, 14 unless configured otherwise.
const kubeMark = 0x4000

// wanted is the table that spec asks for; nil is none.
func wanted(name nft.Table, spec Spec) *table {
	if len(spec.Masquerade) == 0 {
		return nil
	}
	pods4, exempt4, rule4 := family{name, "4", nft.IPv4Addr, "ip", unix.NFPROTO_IPV4, 12, 4}.masquerade()
	pods6, exempt6, rule6 := family{name, "6", nft.IPv6Addr, "ip6", unix.NFPROTO_IPV6, 8, 16}.masquerade()
	pods := disjoint(spec.Masquerade)
	exempt := disjoint(slices.Concat(spec.Exempt, spec.Masquerade, multicast()))
	return &table{
		sets:   []nft.Set{exempt4, exempt6, pods4, pods6},
		chains: []nft.Chain{postrouting(name)},
		rules:  []nft.Rule{leaveToKubeProxy(name), rule4, rule6},
		elements: map[nft.Set][]nft.Element{
			exempt4: elements(exempt, netip.Addr.Is4), exempt6: elements(exempt, netip.Addr.Is6),
			pods4: elements(pods, netip.Addr.Is4), pods6: elements(pods, netip.Addr.Is6),
		},
	}
}

func elements(prefixes []netip.Prefix, of func(netip.Addr) bool) []nft.Element {
	var all []nft.Element
	for _, p := range prefixes {
		if of(p.Addr()) {
			all = append(all, nft.Prefix(p))
		}
	}
	return all
}

func postrouting(name nft.Table) nft.Chain {
	return nft.Chain{Table: name, Name: "postrouting", Base: nft.Base{
		Type: "nat", Hook: nft.Postrouting, Priority: nft.PrioritySrcNAT, Policy: nft.Accept,
	}}
}

// leaveToKubeProxy ends the chain for marked packets. Whichever of the two chains came first at this hook would decide
// otherwise, and kube-proxy's way is to masquerade even packets between pods when they came through a Service.
func leaveToKubeProxy(name nft.Table) nft.Rule {
	mark := binary.NativeEndian.AppendUint32(nil, kubeMark)
	return nft.Rule{
		Table: name, Chain: postrouting(name).Name,
		Text:    "meta mark & 0x00004000 == 0x00004000 return",
		Comment: "left to kube-proxy",
		Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG_1},
			&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: mark, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: mark},
			&expr.Verdict{Kind: expr.VerdictReturn},
		},
	}
}

// family is what differs between IPv4 and IPv6.
type family struct {
	table    nft.Table
	suffix   string // of its sets' names
	addr     nft.Type
	word     string // in nft's language
	protocol byte   // as netfilter numbers it
	source   uint32 // where in the header the source address is; the destination follows
	size     uint32 // of an address
}

// masquerade is the family's two sets, and the rule that uses them.
func (f family) masquerade() (pods, exempt nft.Set, rule nft.Rule) {
	pods = nft.Set{Table: f.table, Name: "pods" + f.suffix, Key: f.addr, Interval: true}
	exempt = nft.Set{Table: f.table, Name: "exempt" + f.suffix, Key: f.addr, Interval: true}
	rule = nft.Rule{
		Table: f.table, Chain: postrouting(f.table).Name,
		Text:    f.word + " saddr @" + pods.Name + " " + f.word + " daddr != @" + exempt.Name + " masquerade fully-random",
		Comment: "pods leave the cluster",
		Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{f.protocol}},
			f.address(f.source),
			&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: pods.Name},
			f.address(f.source + f.size),
			&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: exempt.Name, Invert: true},
			&expr.Masq{FullyRandom: true},
		},
	}
	return pods, exempt, rule
}

func (f family) address(offset uint32) expr.Any {
	return &expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size}
}
