package nl

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/podweft/podweft"
)

const (
	create  = netlink.Create | netlink.Excl
	replace = netlink.Create | netlink.Replace
)

// nhmsg is struct nhmsg of linux/nexthop.h, which x/sys/unix lacks.
type nhmsg struct {
	Family, Scope, Protocol, _ uint8
	Flags                      uint32
}

type attributes = func(*netlink.AttributeEncoder)

// requests are what the kernel is to be sent for each function of Batch, told in the words of x/sys/unix and
// mdlayher/netlink, which had no part in writing it.
var requests = []struct {
	name   string
	add    func(b *Batch)
	kind   netlink.HeaderType
	flags  netlink.HeaderFlags
	header any // the family's fixed header
	attrs  attributes
}{
	{
		"IPv4 route through a nexthop object",
		func(b *Batch) {
			b.AddRoute(Route{RouteKey: RouteKey{Table: 254, Prefix: netip.MustParsePrefix("10.244.2.0/24")}, Protocol: 200, Nexthop: 7, Onlink: true})
		},
		unix.RTM_NEWROUTE, create,
		unix.RtMsg{Family: unix.AF_INET, Dst_len: 24, Protocol: 200, Type: unix.RTN_UNICAST},
		func(e *netlink.AttributeEncoder) {
			e.Uint32(unix.RTA_TABLE, 254)
			e.Bytes(unix.RTA_DST, []byte{10, 244, 2, 0})
			e.Uint32(30, 7) // RTA_NH_ID
		},
	},
	{
		"IPv6 route through a gateway with a metric",
		func(b *Batch) {
			b.AddRoute(Route{
				RouteKey: RouteKey{Table: 1000, Prefix: netip.MustParsePrefix("fd00:2::/64"), Metric: 50},
				Protocol: 200, Gateway: netip.MustParseAddr("fe80::2"), Link: 4, Onlink: true,
			})
		},
		unix.RTM_NEWROUTE, create,
		unix.RtMsg{Family: unix.AF_INET6, Dst_len: 64, Protocol: 200, Type: unix.RTN_UNICAST, Flags: unix.RTNH_F_ONLINK},
		func(e *netlink.AttributeEncoder) {
			e.Uint32(unix.RTA_TABLE, 1000)
			e.Bytes(unix.RTA_DST, netip.MustParseAddr("fd00:2::").AsSlice())
			e.Uint32(unix.RTA_PRIORITY, 50)
			e.Bytes(unix.RTA_GATEWAY, netip.MustParseAddr("fe80::2").AsSlice())
			e.Uint32(unix.RTA_OIF, 4)
		},
	},
	{
		"route over a link",
		func(b *Batch) { b.ReplaceRoute(routeTo(1, 3, false)) },
		unix.RTM_NEWROUTE, replace,
		unix.RtMsg{Family: unix.AF_INET, Dst_len: 24, Protocol: protocol, Scope: unix.RT_SCOPE_LINK, Type: unix.RTN_UNICAST},
		func(e *netlink.AttributeEncoder) {
			e.Uint32(unix.RTA_TABLE, 254)
			e.Bytes(unix.RTA_DST, []byte{10, 0, 1, 0})
			e.Uint32(unix.RTA_OIF, 3)
		},
	},
	{
		"blackhole",
		func(b *Batch) {
			b.AddRoute(Route{RouteKey: RouteKey{Table: 254, Prefix: netip.MustParsePrefix("10.0.0.0/8")}, Protocol: 200, Type: unix.RTN_BLACKHOLE})
		},
		unix.RTM_NEWROUTE, create,
		unix.RtMsg{Family: unix.AF_INET, Dst_len: 8, Protocol: 200, Type: unix.RTN_BLACKHOLE},
		func(e *netlink.AttributeEncoder) {
			e.Uint32(unix.RTA_TABLE, 254)
			e.Bytes(unix.RTA_DST, []byte{10, 0, 0, 0})
		},
	},
	{
		"route to delete, by its mark",
		func(b *Batch) {
			b.DeleteRoute(Route{RouteKey: RouteKey{Table: 254, Prefix: netip.MustParsePrefix("10.244.2.0/24"), Metric: 9}, Protocol: 200, Nexthop: 7})
		},
		unix.RTM_DELROUTE, 0,
		unix.RtMsg{Family: unix.AF_INET, Dst_len: 24, Protocol: 200, Scope: unix.RT_SCOPE_NOWHERE},
		func(e *netlink.AttributeEncoder) {
			e.Uint32(unix.RTA_TABLE, 254)
			e.Bytes(unix.RTA_DST, []byte{10, 244, 2, 0})
			e.Uint32(unix.RTA_PRIORITY, 9)
			e.Uint32(30, 7)
		},
	},
	{
		"nexthop",
		func(b *Batch) {
			b.AddNexthop(Nexthop{ID: 1 << 30, Protocol: 200, Gateway: netip.MustParseAddr("10.244.2.0"), Link: 4, Onlink: true})
		},
		unix.RTM_NEWNEXTHOP, create,
		nhmsg{Family: unix.AF_INET, Protocol: 200, Flags: unix.RTNH_F_ONLINK},
		func(e *netlink.AttributeEncoder) {
			e.Uint32(1, 1<<30) // NHA_ID
			e.Uint32(5, 4)     // NHA_OIF
			e.Bytes(6, []byte{10, 244, 2, 0})
		},
	},
	{
		"nexthop to delete",
		func(b *Batch) { b.DeleteNexthop(9) },
		unix.RTM_DELNEXTHOP, 0, nhmsg{},
		func(e *netlink.AttributeEncoder) { e.Uint32(1, 9) },
	},
	{
		"neighbour",
		func(b *Batch) {
			b.SetNeighbor(Neighbor{NeighborKey{4, netip.MustParseAddr("fe80::2")}, podweft.MAC{0x0e, 1, 2, 3, 4, 5}})
		},
		unix.RTM_NEWNEIGH, replace,
		unix.NdMsg{Family: unix.AF_INET6, Ifindex: 4, State: unix.NUD_PERMANENT},
		func(e *netlink.AttributeEncoder) {
			e.Bytes(unix.NDA_DST, netip.MustParseAddr("fe80::2").AsSlice())
			e.Bytes(unix.NDA_LLADDR, []byte{0x0e, 1, 2, 3, 4, 5})
		},
	},
	{
		"neighbour to delete",
		func(b *Batch) { b.DeleteNeighbor(NeighborKey{4, netip.MustParseAddr("10.244.2.0")}) },
		unix.RTM_DELNEIGH, 0,
		unix.NdMsg{Family: unix.AF_INET, Ifindex: 4},
		func(e *netlink.AttributeEncoder) { e.Bytes(unix.NDA_DST, []byte{10, 244, 2, 0}) },
	},
	{
		"forwarding entry",
		func(b *Batch) {
			b.SetForward(Forward{ForwardKey: ForwardKey{4, podweft.MAC{0x0e, 1, 2, 3, 4, 5}}, To: netip.MustParseAddr("192.0.2.2")})
		},
		unix.RTM_NEWNEIGH, replace,
		unix.NdMsg{Family: unix.AF_BRIDGE, Ifindex: 4, State: unix.NUD_PERMANENT | unix.NUD_NOARP, Flags: unix.NTF_SELF},
		func(e *netlink.AttributeEncoder) {
			e.Bytes(unix.NDA_LLADDR, []byte{0x0e, 1, 2, 3, 4, 5})
			e.Bytes(unix.NDA_DST, []byte{192, 0, 2, 2})
		},
	},
	{
		"forwarding entry to delete",
		func(b *Batch) {
			b.DeleteForward(Forward{ForwardKey: ForwardKey{4, podweft.MAC{0x0e, 1, 2, 3, 4, 5}}, To: netip.MustParseAddr("2001:db8::2")})
		},
		unix.RTM_DELNEIGH, 0,
		unix.NdMsg{Family: unix.AF_BRIDGE, Ifindex: 4, Flags: unix.NTF_SELF},
		func(e *netlink.AttributeEncoder) {
			e.Bytes(unix.NDA_LLADDR, []byte{0x0e, 1, 2, 3, 4, 5})
			e.Bytes(unix.NDA_DST, netip.MustParseAddr("2001:db8::2").AsSlice())
		},
	},
	{
		"forwarding entry with a detour to delete",
		func(b *Batch) {
			b.DeleteForward(Forward{ForwardKey{4, podweft.MAC{0x0e, 1, 2, 3, 4, 5}}, netip.Addr{}, Detour{4789, 7, 3, 9}})
		},
		unix.RTM_DELNEIGH, 0,
		unix.NdMsg{Family: unix.AF_BRIDGE, Ifindex: 4, Flags: unix.NTF_SELF},
		func(e *netlink.AttributeEncoder) {
			e.Bytes(unix.NDA_LLADDR, []byte{0x0e, 1, 2, 3, 4, 5})
			e.Bytes(unix.NDA_PORT, []byte{0x12, 0xb5})
			e.Uint32(unix.NDA_VNI, 7)
			e.Uint32(unix.NDA_IFINDEX, 3)
			e.Uint32(13, 9)
		},
	},
	{
		"IPv6 address",
		func(b *Batch) { b.AddAddress(Address{Link: 4, Prefix: netip.MustParsePrefix("fd00:1::/128")}) },
		unix.RTM_NEWADDR, create,
		unix.IfAddrmsg{Family: unix.AF_INET6, Prefixlen: 128, Index: 4},
		func(e *netlink.AttributeEncoder) {
			e.Bytes(unix.IFA_LOCAL, netip.MustParseAddr("fd00:1::").AsSlice())
			e.Bytes(unix.IFA_ADDRESS, netip.MustParseAddr("fd00:1::").AsSlice())
			e.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
		},
	},
	{
		"IPv4 address to delete",
		func(b *Batch) { b.DeleteAddress(Address{Link: 4, Prefix: netip.MustParsePrefix("10.244.1.0/32")}) },
		unix.RTM_DELADDR, 0,
		unix.IfAddrmsg{Family: unix.AF_INET, Prefixlen: 32, Index: 4},
		func(e *netlink.AttributeEncoder) {
			e.Bytes(unix.IFA_LOCAL, []byte{10, 244, 1, 0})
			e.Bytes(unix.IFA_ADDRESS, []byte{10, 244, 1, 0})
		},
	},
	{
		"VTEP to change",
		func(b *Batch) {
			b.ChangeVXLAN(Link{Index: 4, VXLAN: VXLAN{VNI: 1, Local: netip.MustParseAddr("2001:db8::1"), Underlay: 2, Learning: true}})
		},
		unix.RTM_NEWLINK, 0,
		unix.IfInfomsg{Index: 4},
		func(e *netlink.AttributeEncoder) {
			e.Nested(unix.IFLA_LINKINFO, func(e *netlink.AttributeEncoder) error {
				e.String(1, "vxlan")
				e.Nested(2, func(e *netlink.AttributeEncoder) error {
					e.Uint32(1, 1)
					e.Uint32(3, 2)
					e.Bytes(17, netip.MustParseAddr("2001:db8::1").AsSlice())
					e.Uint8(7, 1)
					return nil
				})
				return nil
			})
		},
	},
	{
		"link down",
		func(b *Batch) { b.SetUp(4, false) },
		unix.RTM_NEWLINK, 0,
		unix.IfInfomsg{Index: 4, Change: unix.IFF_UP},
		func(*netlink.AttributeEncoder) {},
	},
	{
		"link's MTU",
		func(b *Batch) { b.SetMTU(4, 1450) },
		unix.RTM_NEWLINK, 0,
		unix.IfInfomsg{Index: 4},
		func(e *netlink.AttributeEncoder) { e.Uint32(unix.IFLA_MTU, 1450) },
	},
	{
		"group of links to delete",
		func(b *Batch) { b.DeleteGroup(77) },
		unix.RTM_DELLINK, 0,
		unix.IfInfomsg{},
		func(e *netlink.AttributeEncoder) { e.Uint32(unix.IFLA_GROUP, 77) },
	},
}

// encoded is the message as mdlayher/netlink writes it.
func encoded(t *testing.T, kind netlink.HeaderType, flags netlink.HeaderFlags, header any, attrs attributes) []byte {
	t.Helper()
	fixed, err := binary.Append(nil, native, header)
	require.NoError(t, err)
	e := netlink.NewAttributeEncoder()
	attrs(e)
	tail, err := e.Encode()
	require.NoError(t, err)
	m := netlink.Message{Header: netlink.Header{Type: kind, Flags: flags | netlink.Request}, Data: append(fixed, tail...)}
	m.Header.Length = uint32(unix.NLMSG_HDRLEN + len(m.Data))
	raw, err := m.MarshalBinary()
	require.NoError(t, err)
	return raw
}

func TestRequests(t *testing.T) {
	for _, tt := range requests {
		t.Run(tt.name, func(t *testing.T) {
			var b Batch
			tt.add(&b)
			assert.Equal(t, encoded(t, tt.kind, tt.flags, tt.header, tt.attrs), b.msg.buf)
			assert.Equal(t, 1, b.Len())
		})
	}
}

func TestBatchHoldsRequestsInOrder(t *testing.T) {
	var b Batch
	b.Grow(len(requests))
	for range 2 { // Reset leaves no trace
		b.Reset()
		var want []byte
		var starts []int
		for _, tt := range requests {
			starts = append(starts, len(want))
			want = append(want, encoded(t, tt.kind, tt.flags, tt.header, tt.attrs)...)
			tt.add(&b)
		}
		assert.Equal(t, want, b.msg.buf)
		assert.Equal(t, starts, b.starts)
		assert.Equal(t, len(requests), b.Len())
	}
}

func TestAttributes(t *testing.T) {
	e := netlink.NewAttributeEncoder()
	e.Uint8(1, 0xaa)
	e.String(2, "name")
	e.Flag(3, true)
	e.Nested(4, func(e *netlink.AttributeEncoder) error { e.Uint32(5, 7); return nil })
	whole, err := e.Encode()
	require.NoError(t, err)
	type attribute struct {
		kind  uint16
		value []byte
	}
	all := []attribute{{1, []byte{0xaa}}, {2, []byte("name\x00")}, {3, []byte{}}, {4, whole[len(whole)-8:]}}
	tests := []struct {
		name string
		b    []byte
		want []attribute
	}{
		{"whole", whole, all},
		{"last cut", whole[:len(whole)-1], all[:3]},
		{"only a header's half", whole[:3], nil},
		{"shorter than its own header", []byte{3, 0, 1, 0, 1, 2, 3, 4}, nil},
		{"of no length", make([]byte, 64), nil},
		{"without its padding at the end", whole[:5], all[:1]},
		{"longer than the rest", []byte{200, 0, 1, 0}, nil},
		{"nothing", nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []attribute
			attrs(tt.b, func(kind uint16, v []byte) { got = append(got, attribute{kind, v}) })
			assert.Equal(t, tt.want, got)
		})
	}
}
