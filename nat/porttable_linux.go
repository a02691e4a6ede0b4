package nat

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft/internal/nft"
)

// loopback4 is where packets of the node to itself come from; they could not be answered in a pod.
var loopback4 = netip.MustParsePrefix("127.0.0.0/8")

// portTable is the sets of the table of host ports.
type portTable struct {
	table nft.Table
	// By protocol and port, to the pod; and the same for ports that are open on one address.
	any4, any6, one4, one6 nft.Set
	// Protocol, host port, pod, pod's port: what was translated here, and not by kube-proxy, say, and may get the node's address.
	ours4, ours6 nft.Set
	near4, near6 nft.Set
}

func newPortTable(name nft.Table) portTable {
	ports := func(suffix string, addr nft.Type) (anyAddr, one, ours, near nft.Set) {
		port := nft.Concat(nft.InetProto, nft.InetService)
		pod := nft.Concat(addr, nft.InetService)
		return nft.Set{Table: name, Name: "ports" + suffix, Key: port, Data: pod},
			nft.Set{Table: name, Name: "addrports" + suffix, Key: nft.Concat(addr, nft.InetProto, nft.InetService), Data: pod},
			nft.Set{Table: name, Name: "published" + suffix, Key: nft.Concat(nft.InetProto, nft.InetService, addr, nft.InetService)},
			nft.Set{Table: name, Name: "near" + suffix, Key: addr, Interval: true}
	}
	t := portTable{table: name}
	t.any4, t.one4, t.ours4, t.near4 = ports("4", nft.IPv4Addr)
	t.any6, t.one6, t.ours6, t.near6 = ports("6", nft.IPv6Addr)
	return t
}

// sets are in the order in which elements may be added: a packet that is led to a pod must find the rest in place.
func (t portTable) sets() []nft.Set {
	return []nft.Set{t.near4, t.near6, t.ours4, t.ours6, t.any4, t.any6, t.one4, t.one6}
}

// elementsOf are the elements for spec, but for those that the table always has.
func (t portTable) elementsOf(spec PortSpec) map[nft.Set][]nft.Element {
	all := map[nft.Set][]nft.Element{}
	near := disjoint(spec.Near)
	all[t.near4], all[t.near6] = elements(near, netip.Addr.Is4), elements(near, netip.Addr.Is6)
	known := make(map[string]bool, 2*len(spec.Ports))
	add := func(set nft.Set, e nft.Element) {
		if in := set.Name + e.Key; !known[in] { // a port may be open on several addresses
			known[in] = true
			all[set] = append(all[set], e)
		}
	}
	for _, h := range spec.Ports {
		anyAddr, one, ours := t.any4, t.one4, t.ours4
		if h.Pod.Addr().Is6() {
			anyAddr, one, ours = t.any6, t.one6, t.ours6
		}
		proto, host := []byte{byte(h.Protocol)}, binary.BigEndian.AppendUint16(nil, h.Port)
		addr, port := h.Pod.Addr().AsSlice(), binary.BigEndian.AppendUint16(nil, h.Pod.Port())
		pod := nft.Key(addr, port)
		if h.any() {
			add(anyAddr, nft.Element{Key: nft.Key(proto, host), Data: pod})
		} else {
			add(one, nft.Element{Key: nft.Key(h.HostIP.AsSlice(), proto, host), Data: pod})
		}
		if !h.KeepSource {
			add(ours, nft.Element{Key: nft.Key(proto, host, addr, port)})
		}
	}
	return all
}

// published is the table that spec asks for; nil is none.
func published(name nft.Table, spec PortSpec) *table {
	if spec.Ports == nil {
		return nil
	}
	t := newPortTable(name)
	want := &table{sets: t.sets(), elements: t.elementsOf(spec)}
	slices.SortFunc(want.sets, func(a, b nft.Set) int { return compareText(a.Name, b.Name) })
	want.elements[t.near4] = elements(disjoint(append([]netip.Prefix{loopback4}, spec.Near...)), netip.Addr.Is4)
	base := func(chain, kind string, hook nft.Hook, priority int32) nft.Chain {
		return nft.Chain{Table: name, Name: chain, Base: nft.Base{Type: kind, Hook: hook, Priority: priority, Policy: nft.Accept}}
	}
	want.chains = []nft.Chain{
		{Table: name, Name: "hostports"},
		base("guard", "filter", nft.Prerouting, priorityRaw),
		base("output", "nat", nft.Output, nft.PriorityDstNAT),
		base("postrouting", "nat", nft.Postrouting, nft.PrioritySrcNAT),
		base("prerouting", "nat", nft.Prerouting, nft.PriorityDstNAT),
	}
	v4 := portFamily{family{name, "4", nft.IPv4Addr, "ip", unix.NFPROTO_IPV4, 12, 4}, t.any4, t.one4, t.ours4, t.near4}
	v6 := portFamily{family{name, "6", nft.IPv6Addr, "ip6", unix.NFPROTO_IPV6, 8, 16}, t.any6, t.one6, t.ours6, t.near6}
	want.rules = []nft.Rule{
		v4.lead(v4.one), v4.lead(v4.any), v6.lead(v6.one), v6.lead(v6.any),
		guard(name), toNode(name, "output"), toNode(name, "prerouting"), v4.hide(), v6.hide(),
	}
	return want
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// priorityRaw comes before connection tracking: NF_IP_PRI_RAW of linux/netfilter_ipv4.h.
const priorityRaw = -300

// guard drops what comes from elsewhere for the node's loopback addresses. The kernel itself does so unless route_localnet
// is on for the link, which answers to connections from 127.0.0.1 need. At this place none of those has its address back yet.
func guard(name nft.Table) nft.Rule {
	return nft.Rule{
		Table: name, Chain: "guard",
		Text:    "meta iif != 1 ip daddr 127.0.0.0/8 drop",
		Comment: "nobody else's loopback",
		Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIF, Register: unix.NFT_REG_1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: binary.NativeEndian.AppendUint32(nil, 1)},
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{unix.NFPROTO_IPV4}},
			&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{127}},
			&expr.Verdict{Kind: expr.VerdictDrop},
		},
	}
}

// toNode looks a packet up that is for one of the node's own addresses.
func toNode(name nft.Table, chain string) nft.Rule {
	return nft.Rule{
		Table: name, Chain: chain,
		Text:    "fib daddr type local jump hostports",
		Comment: "to this node",
		Exprs: []expr.Any{
			&expr.Fib{Register: unix.NFT_REG_1, ResultADDRTYPE: true, FlagDADDR: true},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
			&expr.Verdict{Kind: expr.VerdictJump, Chain: "hostports"},
		},
	}
}

// portFamily is what differs between IPv4 and IPv6.
type portFamily struct {
	family
	any, one, ours, near nft.Set
}

// fieldRegister is the register of the n-th word of four bytes, as the kernel writes it back.
func fieldRegister(n uint32) uint32 {
	if n%4 == 0 {
		return unix.NFT_REG_1 + n/4
	}
	return unix.NFT_REG32_00 + n
}

// words is how many registers of four bytes an address takes.
func (f portFamily) words() uint32 { return f.size / 4 }

func (f portFamily) only() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{f.protocol}},
	}
}

func destinationPort(word uint32) expr.Any {
	return &expr.Payload{DestRegister: fieldRegister(word), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

// lead translates the destination of a packet whose port is in the map.
func (f portFamily) lead(ports nft.Set) nft.Rule {
	var word uint32
	key := "meta l4proto . th dport"
	exprs := f.only()
	if ports == f.one {
		key = f.word + " daddr . " + key
		exprs = append(exprs, f.address(f.source+f.size))
		word = f.words()
	}
	exprs = append(exprs,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: fieldRegister(word)},
		destinationPort(word+1),
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, IsDestRegSet: true, SetName: ports.Name},
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: uint32(f.protocol), RegAddrMin: unix.NFT_REG_1, RegAddrMax: unix.NFT_REG_1,
			RegProtoMin: fieldRegister(f.words()), RegProtoMax: fieldRegister(f.words()),
		},
	)
	return nft.Rule{
		Table: f.table, Chain: "hostports", Exprs: exprs,
		Text: "dnat " + f.word + " to " + key + " map @" + ports.Name,
	}
}

// hide gives packets that were led to a pod the node's address if their answers would not come back this way.
func (f portFamily) hide() nft.Rule {
	return nft.Rule{
		Table: f.table, Chain: "postrouting",
		Text: f.word + " saddr @" + f.near.Name + " ct status dnat meta l4proto . ct original proto-dst . " + f.word +
			" daddr . th dport @" + f.ours.Name + " masquerade fully-random",
		Comment: "so that answers come back here",
		Exprs: append(f.only(),
			f.address(f.source),
			&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: f.near.Name},
			&expr.Ct{Key: expr.CtKeySTATUS, Register: unix.NFT_REG_1},
			&expr.Bitwise{
				SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4,
				Mask: binary.NativeEndian.AppendUint32(nil, statusDNAT), Xor: make([]byte, 4),
			},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: make([]byte, 4)},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
			&expr.Ct{Key: expr.CtKeyPROTODST, Register: fieldRegister(1)},
			&expr.Payload{DestRegister: fieldRegister(2), Base: expr.PayloadBaseNetworkHeader, Offset: f.source + f.size, Len: f.size},
			destinationPort(2+f.words()),
			&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: f.ours.Name},
			&expr.Masq{FullyRandom: true},
		),
	}
}

// statusDNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const statusDNAT = 1 << 5
